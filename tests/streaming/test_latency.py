"""Latency told of a stream: median, 95th percentile, largest, share of frames dropped."""

import numpy as np
import pytest

from recognition.streaming.latency import Latency


def test_summary_is_that_of_all_latencies_to_a_hundredth():
    latencies_s = np.random.default_rng(0).lognormal(-2, 0.8, 2001)
    latency = Latency()
    for latency_s in latencies_s:
        latency.add(float(latency_s), dropped_before=1)
    told = latency.summary()
    assert told.num_frames == 2001
    assert told.median_s == pytest.approx(np.quantile(latencies_s, 0.5), rel=0.01)
    assert told.p95_s == pytest.approx(np.quantile(latencies_s, 0.95), rel=0.02)
    assert told.largest_s == latencies_s.max()
    assert told.dropped_share == 0.5


def test_summary_of_one_frame_is_that_frame():
    latency = Latency()
    latency.add(0.0, 0)
    assert str(latency.summary()) == "median 0 ms, 95 % within 0 ms, largest 0 ms; 0.0% of frames dropped"


def test_nothing_answered_is_said():
    assert str(Latency().summary()) == "no frame answered"


def test_absurd_latencies_are_counted():
    latency = Latency()
    for latency_s in (-1.0, 1e9):
        latency.add(latency_s, 0)
    assert latency.summary().num_frames == 2
