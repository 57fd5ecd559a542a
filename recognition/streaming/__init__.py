"""A memory that goes on: sources, answers and events of a stream."""
