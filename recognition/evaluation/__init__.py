"""Evaluation: answers, signal detection, retention, controls, retrieval, memorability, comparison, reports."""
