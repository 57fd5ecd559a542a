"""Kinds of events, by when their frames were seen."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recognition.streaming.event import MOST_KEPT, Event, most_within
from recognition.streaming.events import EventRules, Events

RULES = EventRules(threshold=1.0, closing=0.0)


def kind_of(seen: list, period_s: float = 0.1, start_s: float = 200.0) -> Event:
    events = Events(RULES)
    for k, seen_s in enumerate(seen):
        assert events.add(start_s + k * period_s, 2.0, seen_s) is None
    return events.finish()


def test_equal_offsets_make_a_replay():
    event = kind_of([133 + k / 10 for k in range(40)])
    assert event.kind == "replay"
    assert (event.seen_start_s, event.seen_end_s) == (133, pytest.approx(136.9))
    assert event.offset_s == pytest.approx(67)


def test_seen_times_that_stay_while_the_stream_goes_on_make_a_return():
    event = kind_of([133 + 0.2 * (k % 3) for k in range(40)])
    assert (event.kind, event.seen_start_s, event.seen_end_s) == ("return", 133, 133.4)
    assert event.offset_s == pytest.approx(69, abs=0.2)


def test_seen_times_all_over_the_place_make_a_resemblance():
    event = kind_of([(7.3 * k * k) % 150 for k in range(40)])
    assert (event.kind, event.seen_start_s, event.seen_end_s, event.offset_s) == ("resemblance", None, None, None)


def test_no_seen_times_make_a_resemblance():
    assert kind_of([None] * 40).kind == "resemblance"


@pytest.mark.parametrize(("num_right", "kind"), [(20, "replay"), (19, "resemblance")])
def test_half_of_the_frames_make_a_replay(num_right: int, kind: str):
    seen = [133 + k / 10 if k < num_right else None for k in range(40)]
    assert kind_of(seen).kind == kind


def test_a_short_return_is_no_replay_though_its_offsets_hardly_grow():
    assert kind_of([133.0] * 16).kind == "return"
    assert kind_of([133 + k / 10 for k in range(16)]).kind == "replay"


def test_a_place_in_view_for_as_long_as_before_is_a_return_whichever_moment_is_found():
    rng = np.random.default_rng(0)
    assert kind_of(list(130 + rng.uniform(0, 5, size=60))).kind == "return"


def brute(values: list[float], width: float) -> int:
    return max((sum(a <= b <= a + width for b in values) for a in values), default=0)


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(0, 20))
def test_most_values_within_a_width_are_found(values: list[int], width: int):
    chosen = [values[place] for place in most_within(values, width)]
    assert len(chosen) == brute(values, width)
    assert not chosen or max(chosen) - min(chosen) <= width


def test_an_event_without_end_takes_no_more_memory():
    events = Events(RULES)
    for k in range(3 * MOST_KEPT):
        events.add(k / 10, 2.0, k / 10 - 60)
    tracemalloc.start()
    for k in range(3 * MOST_KEPT, 6 * MOST_KEPT):
        events.add(k / 10, 2.0, k / 10 - 60)
    assert tracemalloc.get_traced_memory()[0] < 400_000
    tracemalloc.stop()
    event = events.finish()
    assert (event.kind, event.num_frames, event.offset_s) == ("replay", 6 * MOST_KEPT, pytest.approx(60))
