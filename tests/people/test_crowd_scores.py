"""Scores of made-up crowds of known d' and criterion: their means are found, with intervals that hold."""

import numpy as np
import pytest

from recognition.evaluation.signal_detection import summarise
from recognition.people.crowd import Crowd
from recognition.people.crowd_scores import describe_crowd, mean_rows
from recognition.people.person import describe_order, describe_person

D_PRIME, CRITERION = 1.5, 0.2
BOUNDS = (-1.2, -0.5, 0.0, 0.5, 1.2)  # between the six grades, from the criterion
GRADES = np.array([-3, -2, -1, 1, 2, 3], np.float32)


def made_crowd(seed: int, num_persons: int = 12, num_probes: int = 180, spread: float = 0.3) -> Crowd:
    """Persons with d' and criteria drawn about D_PRIME and CRITERION, who leave a tenth of the probes unanswered."""
    rng = np.random.default_rng(seed)
    is_old = np.tile(rng.permutation(num_probes) % 2, (num_persons, 1)).astype(np.uint8)
    d_prime, criterion = (rng.normal(mean, spread, (num_persons, 1)) for mean in (D_PRIME, CRITERION))
    strength = rng.normal(d_prime * (is_old - 0.5)) - criterion
    answer = GRADES[np.searchsorted(BOUNDS, strength)]
    answer[rng.random(answer.shape) < 0.1] = np.nan
    rt_ms = np.where(np.isnan(answer), np.nan, 3000 - 500 * np.abs(answer)).astype(np.float32)
    persons = [describe_person(f"p{k}", answer[k], is_old[k], rt_ms[k]) for k in range(num_persons)]
    ids = np.array([person["id"] for person in persons])
    return Crowd("made up", "no one", None, persons, answer, is_old, rt_ms, rt_ms * np.nan, ids.argsort() * 0 - 1, ids)


def test_means_are_recovered_and_intervals_cover_as_often_as_they_say():
    told = [describe_crowd(made_crowd(seed)) for seed in range(100)]
    for name, true in (("d_prime", D_PRIME), ("criterion", CRITERION)):
        assert np.mean([each[name] for each in told]) == pytest.approx(true, abs=0.03)
        covers = [each[f"{name}_interval"][0] <= true <= each[f"{name}_interval"][1] for each in told]
        assert 89 <= sum(covers) <= 100, name
    assert np.mean([each["zroc"]["slope"] for each in told]) == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose([each["by_grade"][0]["median_rt_s"] for each in told], 1.5)


def test_no_score_is_found_of_pooled_answers():
    crowd = made_crowd(seed=0, num_persons=40, spread=1.0)
    told, known = describe_crowd(crowd), ~np.isnan(crowd.answer)
    pooled = summarise(crowd.answer[known], crowd.is_old[known])
    assert told["d_prime"] == np.mean([person["scores"]["d_prime"] for person in crowd.persons])
    assert told["d_prime"] > pooled["d_prime"] + 0.2  # criteria that differ would pass for want of memory
    assert told["d_prime"] == pytest.approx(D_PRIME, abs=0.4)


def test_all_five_bounds_of_the_scale_are_points_of_the_roc():
    told = describe_crowd(made_crowd(seed=1))
    assert len(told["zroc"]["bound"]) == 5
    assert np.all(np.diff(told["zroc"]["hit_rate"]) < 0)


def test_the_order_of_the_test_is_told_without_an_index():
    rows = describe_crowd(made_crowd(seed=1))["retention"]["by_probe_order"]
    assert [(row["position_from"], row["position_to"]) for row in rows] == [(k + 1, k + 18) for k in range(0, 180, 18)]
    assert all(row["false_alarm_rate"] < row["hit_rate"] for row in rows)


def test_the_unanswered_change_no_score_of_those_who_answered():
    answer = np.array([3, -2, 1, -1, 2, -3], np.float32)
    is_old, rt_ms = np.array([1, 0, 0, 1, 1, 0], np.uint8), np.full(6, 900, np.float32)
    person = describe_person("a", answer, is_old, rt_ms)
    more = describe_person(
        *("a", np.append(answer, [np.nan, np.nan]), np.append(is_old, [0, 1]).astype(np.uint8)),
        np.append(rt_ms, [np.nan, np.nan]),
    )
    assert more == person
    assert person["scores"]["hit_rate"] == pytest.approx(2 / 3)
    nobody = describe_person("a", answer * np.nan, is_old, rt_ms * np.nan)
    assert (nobody["scores"], nobody["left_out"]) == (None, "no answers to old, or none to new probes")


def test_false_alarms_of_a_clip_kind_are_of_its_own_new_probes_where_these_have_a_clip():
    answer, is_old = np.array([1, -1, 1, 1, -1, -1], np.float32), np.array([1, 1, 1, 0, 0, 0], np.uint8)
    kinds = ["cut", "cut", "no_cut", "cut", "cut", "no_cut"]
    rows = describe_person("a", answer, is_old, answer * 100, kinds)["by_clip_kind"]
    assert [(row["kind"], row["hit_rate"], row["false_alarm_rate"], row["num_probes"]) for row in rows] == [
        ("no_cut", 1, 0, 2),
        ("cut", 0.5, 0.5, 4),
    ]
    rows = describe_person("a", answer, is_old, answer * 100, [*kinds[:3], None, None, None])["by_clip_kind"]
    assert [row["false_alarm_rate"] for row in rows] == [pytest.approx(1 / 3)] * 2


def test_the_order_task_counts_the_answered_alone():
    pairs = [{"earlier": side, "clip_kind": kind} for side, kind in (("left", "cut"), ("right", "cut"), ("left", None))]
    told = describe_order(np.array([2, 3, np.nan], np.float32), pairs)
    assert told == {
        "accuracy": 0.5,
        "num_pairs": 2,
        "by_clip_kind": [{"kind": "cut", "accuracy": 0.5, "num_pairs": 2}],
    }
    assert describe_order(np.array([np.nan] * 3, np.float32), pairs) is None


def test_a_d_prime_of_few_probes_counts_for_nothing():
    tables = [[{"lag": 1, "d_prime": 1.0, "num_probes": 12}], [{"lag": 1, "d_prime": 9.0, "num_probes": 2}]]
    assert mean_rows(tables, "lag", ("d_prime",)) == [
        {"lag": 1.0, "d_prime": 1.0, "d_prime_interval": None, "num_probes": 14, "num_persons": 2}
    ]
