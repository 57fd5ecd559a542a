"""Recall, false events and times of what returns in a stream, from answers whose scores can be worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recognition.streaming.checking.check_scores import (
    Answers,
    Repeat,
    at_threshold,
    chance,
    describe,
    events_of,
    matched,
    sweep,
    when_errors,
)
from recognition.streaming.event import Event
from recognition.streaming.events import EventRules, Events

RATE = 10  # answers a second
HOUR_S = 3600


def made(length_s: float, raised: dict[tuple[float, float], float], base: float = -5.0) -> Answers:
    """Answers of `base` but in some stretches of time."""
    times_s = np.arange(round(length_s * RATE)) / RATE
    logits = np.full(len(times_s), base)
    for (start_s, end_s), logit in raised.items():
        logits[(times_s >= start_s) & (times_s <= end_s)] = logit
    return Answers(times_s, logits, np.full(len(times_s), np.nan))


def repeats_at(*starts_s: float, lag_s: float = 30, change: str = "as it was") -> list[Repeat]:
    return [Repeat(start_s, start_s + 4, lag_s, f"{lag_s:g} s", change) for start_s in starts_s]


def event(start_s: float, end_s: float) -> Event:
    return Event(start_s, end_s, "replay", None, None, None, 1.0, 1.0, 5)


def recalls(told: dict) -> list[float]:
    return [row["recall"] for row in told["recall"]]


def test_recall_at_each_rate_of_false_events_is_that_of_the_answers():
    # In an hour: the first repeat stands above all else, the second below one false event, the third below seven.
    raised = {(100, 104): 9.0, (500, 504): 7.0, (900, 904): 3.0, (1300, 1302): 8.0, (3400, 3404): -4.0}
    raised |= {(1500 + 100 * k, 1502 + 100 * k): 5.0 for k in range(6)}
    told = describe(made(HOUR_S, raised), repeats_at(100, 500, 900, 3400))
    assert recalls(told) == [1 / 4, 2 / 4, 2 / 4]
    # Levels with the most found: 1 of 1 event right, 2 of 3, 3 of 10.
    assert told["mean_precision"] == pytest.approx((1 + 2 / 3 + 3 / 10) / 4)
    assert [(point["false_per_hour"], point["recall"]) for point in told["curve"]] == [
        (pytest.approx(0), 0.25), (pytest.approx(1), 0.5), (pytest.approx(7), 0.75)
    ]  # fmt: skip
    low, high = told["recall"][1]["recall_interval"]
    assert 0 <= low < 0.5 < high <= 1


def test_false_events_are_counted_by_the_hour_of_the_stream():
    raised = {(10, 14): 1.0, (100, 104): 2.0}
    lengths_s = (HOUR_S / 2, 0.99 * HOUR_S, HOUR_S)
    short, nearly, long = (describe(made(length_s, raised), repeats_at(10)) for length_s in lengths_s)
    assert recalls(nearly) == recalls(long)
    assert recalls(short) == [0, 0, 1]  # one false event in half an hour is two an hour
    assert recalls(long) == [0, 1, 1]


def test_a_perfect_memory_finds_all_without_a_false_event():
    starts_s = [60 + 80 * k for k in range(40)]
    told = describe(made(HOUR_S, {(start_s, start_s + 4): 3.0 for start_s in starts_s}), repeats_at(*starts_s))
    assert recalls(told) == [1, 1, 1]
    assert told["mean_precision"] == 1
    assert told["recall"][0]["recall_interval"][1] == 1
    assert told["recall"][0]["recall_interval"][0] > 0.9


def test_a_constant_answer_finds_what_chance_does():
    starts_s = [60 + 80 * k for k in range(40)]
    repeats = repeats_at(*starts_s)
    told, by_chance = describe(made(HOUR_S, {}), repeats), chance(repeats, 1.0)
    assert recalls(told)[0] == recalls(by_chance)[0] == 0
    assert max(recalls(told)) <= 1 / 40
    assert max(recalls(by_chance)) < 0.01
    assert by_chance["mean_precision"] == pytest.approx(40 * 4 / HOUR_S)


def test_whoever_calls_all_of_it_old_finds_one_repeat_and_not_all():
    repeats = repeats_at(100, 200, 300, 400)
    found, num_false = matched([event(0, 500)], repeats)
    assert found.sum() == 1
    assert num_false == 0
    answers = made(500, {(5, 495): 1.0})
    assert max(recalls(describe(answers, repeats))) <= 1 / 4


def test_noise_finds_about_what_chance_does():
    starts_s = [60 + 80 * k for k in range(40)]
    rng = np.random.default_rng(0)
    answers = made(HOUR_S, {})
    told = [
        recalls(
            describe(Answers(answers.times_s, rng.normal(size=HOUR_S * RATE), answers.seen_s), repeats_at(*starts_s))
        )
        for _ in range(1)
    ]
    assert np.mean(told, 0)[2] <= 4 / 40


@pytest.mark.parametrize(
    ("events", "found", "num_false"),
    [
        ([(1, 18)], [True, False], 0),  # mostly outside
        ([(11, 19)], [True, True], 0),  # two that follow each other, mostly inside
        ([(9, 11), (12, 13.5), (14.1, 14.9)], [True, False], 1),  # two in one repeat are not false
        ([(8, 10)], [True, False], 0),  # they touch
        ([(5, 9.9), (19.1, 30)], [False, False], 2),
        ([], [False, False], 0),
    ],
)
def test_events_find_repeats_or_are_false(events: list, found: list[bool], num_false: int):
    repeats = [Repeat(10, 14, 30, "30 s", "as it was"), Repeat(15, 19, 30, "30 s", "as it was")]
    told = matched([event(*ends) for ends in events], repeats)
    assert (told[0].tolist(), told[1]) == (found, num_false)


def test_a_calibrated_threshold_is_scored_as_it_is():
    raised = {(100, 104): 2.0, (300, 302): 2.0, (400, 402): 0.5, (500, 504): 0.5}
    told = at_threshold(made(HOUR_S, raised), repeats_at(100, 500), EventRules(threshold=1.0))
    assert told["threshold"] == 1
    assert told["recall"] == 0.5
    assert told["false_per_hour"] == pytest.approx(1)


def test_recall_is_told_by_lag_and_by_change():
    repeats = [
        *repeats_at(100, 200, lag_s=30),
        *repeats_at(300, lag_s=120, change="mirrored"),
        *repeats_at(400, lag_s=120),
    ]
    told = describe(made(HOUR_S, {(100, 104): 1.0, (200, 204): 1.0, (400, 404): 1.0}), repeats)["recall"][0]
    assert {row["name"]: (row["recall"], row["num"]) for row in told["by_lag"]} == {"30 s": (1, 2), "120 s": (0.5, 2)}
    assert {row["name"]: (row["recall"], row["num"]) for row in told["by_change"]} == {
        "as it was": (1, 3), "mirrored": (0, 1)
    }  # fmt: skip


def test_error_of_when_is_that_of_the_frames_that_tell_one():
    answers, repeats = made(200, {}), repeats_at(100, 150)
    seen_s = answers.seen_s.copy()
    inside = (answers.times_s >= 100) & (answers.times_s <= 104)
    seen_s[inside] = answers.times_s[inside] - 30.5
    seen_s[1500:1510] = 20.0  # the second, off by 100 s and more, and most of it not told
    told = when_errors(Answers(answers.times_s, answers.logits, seen_s), repeats)
    assert told["median_s"] == pytest.approx(0.5)
    assert told["within"] == pytest.approx(41 / 51)
    assert told["told"] == pytest.approx(51 / 82)
    assert when_errors(answers, repeats) == {"median_s": None, "within": None, "within_interval": None, "told": 0}


@given(
    st.lists(st.tuples(st.sampled_from([-2.0, 0.4, 0.6, 1.5]), st.integers(1, 40)), min_size=1, max_size=25),
    st.sampled_from([0.5, 1.0, 3.0, 10.0]),
)
def test_passing_over_cold_answers_leaves_all_events_as_they_are(runs: list[tuple[float, int]], rate: float):
    logits = np.concatenate([np.full(num, logit) for logit, num in runs])
    answers = Answers(np.arange(len(logits)) / rate, logits, np.full(len(logits), np.nan))
    rules = EventRules(threshold=1.0, closing=0.5)
    events = Events(rules)
    given_ = [events.add(float(t), float(x)) for t, x in zip(answers.times_s, logits, strict=True)] + [events.finish()]
    assert events_of(answers, rules) == [one for one in given_ if one]


def test_levels_of_few_answers_are_all_of_them_and_of_many_a_few():
    few = made(30, {(10, 12): 1.0, (20, 21): 2.0})
    assert sweep(few, repeats_at(20)).levels.tolist() == [2, 1, -5]
    rng = np.random.default_rng(0)
    many = Answers(np.arange(6000) / RATE, rng.normal(size=6000), np.full(6000, np.nan))
    swept = sweep(many, repeats_at(100, 200))
    assert 60 < len(swept.levels) <= 160
    assert (np.diff(swept.levels) < 0).all()
    assert swept.levels[0] == many.logits.max()
    assert swept.num_false[0] == 0


def test_a_stream_without_repeats_is_not_scored():
    with pytest.raises(ValueError, match="needs two frames and a repeat"):
        describe(made(10, {}), [])
    assert math.isclose(made(HOUR_S, {}).hours, 1.0)
