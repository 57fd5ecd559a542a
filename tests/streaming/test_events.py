"""Scripted answers give exactly the expected events, however the stream is cut."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recognition.streaming.event import Event
from recognition.streaming.events import EventRules, Events

WARM = 0.5


def answers(script: str, period_s: float = 0.1, start_s: float = 0.0) -> list[tuple[float, float]]:
    """H is an answer above the threshold of 1, W one between that and the closing level of 0, anything else neither."""
    logits = {"H": 2.0, "W": WARM}
    return [(start_s + k * period_s, logits.get(letter, -1.0)) for k, letter in enumerate(script.replace(" ", ""))]


RULES = EventRules(threshold=1.0, closing=0.0)


def found(stream, rules: EventRules = RULES) -> list[Event]:
    events = Events(rules)
    given_ = [events.add(*answer) for answer in stream] + [events.finish()]
    return [event for event in given_ if event]


def spans(stream, rules: EventRules = RULES) -> list[tuple[float, float]]:
    return [(round(event.start_s, 3), round(event.end_s, 3)) for event in found(stream, rules)]


COLD = "." * 30


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("", []),
        (COLD, []),
        ("..HH" + COLD, []),
        ("..HHHH" + COLD, [(0.2, 0.5)]),  # 0.3 s, the shortest
        ("..HHH" + COLD, []),  # opens, but has 0.2 s
        ("..H.H.H" + COLD, [(0.2, 0.6)]),  # 3 of 5
        ("..H.H..H" + COLD, []),  # 3 of 6
        ("..HH...HH.H" + COLD, [(0.7, 1.0)]),  # the first two are not of the five
        ("..WWWWWW" + COLD, []),  # what keeps one open does not open it
        ("..HHHWWW" + COLD, [(0.2, 0.7)]),
        ("..HHH.........W" + COLD, [(0.2, 1.4)]),  # it comes when a second has passed, and is in the last one itself
        ("..HHH..........W" + COLD, []),  # a second without any: closed, and too short
        ("..HHHH..........HHHH" + COLD, [(0.2, 1.9)]),
        ("..HHHH" + "." * 18 + "HHHH" + COLD, [(0.2, 2.7)]),  # 1.9 s apart: one
        ("..HHHH" + "." * 19 + "HHHH" + COLD, [(0.2, 0.5), (2.5, 2.8)]),  # 2 s apart: two
        ("..HHHH" + "." * 18 + "H.H.H" + COLD, [(0.2, 2.8)]),  # starts 1.9 s after, opens later
        ("..HHHH" + "." * 18 + "H..HH.H" + COLD, [(0.2, 3.0)]),  # the first of the three is among the last five
        ("..HHHH" + "." * 18 + "H....HHHH" + COLD, [(0.2, 0.5), (2.9, 3.2)]),
        ("..HHH" + "." * 12 + "HHH" + COLD, [(0.2, 1.9)]),  # joined before what is short is left out
        ("..HHHH", [(0.2, 0.5)]),  # the end of the stream closes
        ("..HHHH....", [(0.2, 0.5)]),
        ("..HHH", []),
        ("HHHH", [(0.0, 0.3)]),
    ],
)
def test_scripted_answers_give_exactly_the_expected_events(script: str, expected: list):
    assert spans(answers(script)) == expected
    for shift in (0.3, 977.7, 1e5 / 3):  # the last digits of sums decide nothing
        moved = spans(answers(script, start_s=shift))
        assert moved == [(pytest.approx(a + shift, abs=2e-3), pytest.approx(b + shift, abs=2e-3)) for a, b in expected]


def test_an_answer_equal_to_the_threshold_does_not_exceed_it():
    assert found([(k / 10, 1.0) for k in range(50)]) == []
    assert len(found([(k / 10, np.nextafter(1.0, 2)) for k in range(50)])) == 1


def test_an_event_is_given_as_soon_as_nothing_can_join_it():
    events = Events(RULES)
    given_ = [(time_s, events.add(time_s, logit)) for time_s, logit in answers("HHHH" + COLD)]
    [(time_s, event)] = [one for one in given_ if one[1]]
    assert (time_s, event.end_s) == (pytest.approx(2.3), pytest.approx(0.3))
    assert (events.current, events.finish()) == (None, None)


def test_what_goes_on_is_told_before_it_ends():
    events = Events(RULES)
    for time_s, logit in answers("..HHHH"):
        events.add(time_s, logit)
    assert events.is_open
    assert (events.current.start_s, events.current.num_frames) == (pytest.approx(0.2), 4)


def test_frames_that_kept_an_event_open_make_its_numbers():
    [event] = found(answers("..HHH.WW" + COLD))
    assert (event.num_frames, event.peak, event.mean) == (5, 2.0, pytest.approx((3 * 2 + 2 * WARM) / 5))


def test_a_hole_in_the_stream_ends_an_event():
    stream = [*answers("HHHH"), *answers("HHHH", start_s=100.0)]
    assert spans(stream) == [(0.0, 0.3), (100.0, 100.3)]
    assert spans([*answers("HH"), *answers("HH", start_s=100.0)]) == []  # and answers before it count no more


def test_an_event_of_a_slow_stream_counts_no_answer_twice():
    assert spans(answers("HHH.H.H", 1.0)) == [(0.0, 2.0)]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ((0.5, 1.0), "in order"),
        ((2.0, float("nan")), "finite"),
        ((float("inf"), 1.0), "finite"),
        ((2.0, 1.0, float("nan")), "finite"),
    ],
)
def test_answers_out_of_order_or_that_are_no_numbers_are_refused(wrong: tuple, reason: str):
    events = Events(RULES)
    events.add(1.0, 0.0)
    with pytest.raises(ValueError, match=reason):
        events.add(*wrong)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"closing": 1.0}, "closing"),
        ({"threshold": float("nan")}, "finite"),
        ({"num_opening": 6}, "num_opening"),
        ({"join_s": 0.5}, "close_s"),
    ],
)
def test_rules_that_contradict_themselves_are_refused(wrong: dict, reason: str):
    with pytest.raises(ValueError, match=reason):
        EventRules(**wrong)


def reference(stream: list[tuple[float, float]], rules: EventRules) -> list[tuple[float, float, int]]:
    """Whole streams at an even pace: parts, then joined, then the short ones left out."""
    parts, k = [], 0
    free = 0  # answers before this belong to an earlier part
    while k < len(stream):
        recent = range(max(free, k - rules.num_recent + 1), k + 1)
        hot = [j for j in recent if stream[j][1] > rules.threshold]
        if len(hot) < rules.num_opening:
            k += 1
            continue
        frames, last = hot, k
        k += 1
        while k < len(stream):
            if stream[k][1] > rules.closing_level:
                frames, last = [*frames, k], k
            elif stream[k][0] - stream[last][0] >= rules.close_s - 1e-6:
                break
            k += 1
        parts.append(frames)
        k = free = k + 1
    joined: list[list[int]] = []
    for part in parts:
        if joined and stream[part[0]][0] - stream[joined[-1][-1]][0] < rules.join_s - 1e-6:
            joined[-1] += part
        else:
            joined.append(part)
    events = [(stream[frames[0]][0], stream[frames[-1]][0], len(frames)) for frames in joined]
    return [event for event in events if event[1] - event[0] >= rules.shortest_s - 1e-6]


SCRIPTS = st.lists(
    st.tuples(st.sampled_from(["H", "W", ".", "H.", "HW."]), st.integers(1, 24)).map(lambda pair: pair[0] * pair[1]),
    max_size=12,
).map("".join)


@given(SCRIPTS)
def test_answers_one_at_a_time_give_what_the_whole_stream_gives(script: str):
    got = [(event.start_s, event.end_s, event.num_frames) for event in found(answers(script))]
    assert got == reference(answers(script), RULES)


@given(SCRIPTS, st.lists(st.integers(0, 300), max_size=6), st.randoms(use_true_random=False))
def test_any_cut_of_the_stream_gives_the_same_events(script: str, cuts: list[int], random):
    stream = [(*answer, random.choice([None, answer[0] / 2, 3.0])) for answer in answers(script)]
    events, got = Events(RULES, "film"), []
    for k, answer in enumerate(stream):
        if k in cuts:
            kept, starts = json.dumps(events.state()), events.next_start_s
            events = Events(RULES, "film")
            events.go_on(json.loads(kept))
            assert events.next_start_s == starts
        got.append(events.add(*answer))
    got.append(events.finish())
    whole = Events(RULES, "film")
    assert got == [*(whole.add(*answer) for answer in stream), whole.finish()]


@given(SCRIPTS)
def test_no_event_to_come_starts_before_what_is_said(script: str):
    events, bounds, given_ = Events(RULES), [], []
    for answer in answers(script):
        given_.append(events.add(*answer))
        bounds.append(events.next_start_s)
    given_.append(events.finish())
    for k, bound in enumerate(bounds):
        assert all(event.start_s < bound for event in given_[: k + 1] if event)
        assert all(event.start_s >= bound for event in given_[k + 1 :] if event)


@pytest.mark.parametrize(
    "wrong",
    [
        {"running": 3},
        {"running": None},
        {"running": {"a": 1}},
        {"recent": [[1.0, 2.0]]},
        {"recent": [[1.0, "x", None]]},
        {"last_s": "x"},
        {"last_s": float("nan")},
        {"running": {"start_s": 0.0, "end_s": "x", "num_frames": 3}},
        {"running": {"start_s": 0.0, "end_s": 1.0, "num_frames": 3, "times_s": [1.0]}},
    ],
)
def test_what_is_no_state_is_refused(wrong: dict):
    events = Events(RULES)
    for answer in answers("HHHH"):
        events.add(*answer)
    before = events.state()
    for state in (before | wrong, {}):
        with pytest.raises(ValueError, match="no state of a stream's events"):
            events.go_on(state)
    assert events.state() == before
