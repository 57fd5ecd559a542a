"""Scores of old/new answers: hand-worked values, and plain loops on random answers."""

import numpy as np
import pytest

from recognition.signal_detection import (
    accuracy,
    auc,
    best_threshold,
    criterion,
    d_prime,
    false_alarm_rate,
    hit_rate,
    summarise,
)


def answers(seed: int, num: int = 63, levels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Random answers, with many ties if there are few levels, and labels of both kinds."""
    rng = np.random.default_rng(seed)
    answer = rng.normal(size=num) if levels is None else rng.integers(0, levels, num).astype(float)
    return answer, np.append(rng.integers(0, 2, num - 2), [0, 1]).astype(np.uint8)


@pytest.mark.parametrize(
    ("counts", "sensitivity", "bias"),
    [
        ((82, 18, 46, 54), 1.002793, -0.401960),
        ((90, 0, 0, 90), 5.086096, 0.0),
        ((0, 90, 90, 0), -5.086096, 0.0),
        ((1, 0, 0, 1), 1.348980, 0.0),
        ((45, 45, 45, 45), 0.0, 0.0),
    ],
)
def test_d_prime_and_criterion_match_hand_worked_values(counts, sensitivity, bias):
    assert d_prime(*counts) == pytest.approx(sensitivity, abs=1e-6)
    assert criterion(*counts) == pytest.approx(bias, abs=1e-6)


@pytest.mark.parametrize("num", [1, 7, 90])
def test_answering_always_alike_gives_zero_d_prime(num):
    assert d_prime(num, 0, num, 0) == d_prime(0, num, 0, num) == 0
    assert criterion(num, 0, num, 0) < 0 < criterion(0, num, 0, num)


@pytest.mark.parametrize("counts", [(0, 0, 3, 4), (3, 4, 0, 0), (0, 0, 0, 0)])
def test_d_prime_without_old_or_new_probes_is_refused(counts):
    for score in (d_prime, criterion):
        with pytest.raises(ValueError, match="old and new"):
            score(*counts)


@pytest.mark.parametrize("kind", [0, 1])
def test_summary_without_old_or_new_probes_is_refused(kind):
    with pytest.raises(ValueError, match="old and new"):
        summarise(np.ones(5), np.full(5, kind))


def test_rates_of_what_was_not_asked_are_nan():
    says_old, none = np.array([True, False]), np.empty(0)
    assert np.isnan(hit_rate(says_old, np.zeros(2)))
    assert np.isnan(false_alarm_rate(says_old, np.ones(2)))
    assert np.isnan(accuracy(none == 1, none))
    assert np.isnan(auc(np.ones(2), np.ones(2)))
    assert np.isnan(auc(np.ones(2), np.zeros(2)))


@pytest.mark.parametrize("levels", [None, 1, 2, 5])
@pytest.mark.parametrize("seed", range(5))
def test_auc_is_the_share_of_pairs_in_order(seed, levels):
    answer, is_old = answers(seed, levels=levels)
    pairs = [(old > new) + (old == new) / 2 for old in answer[is_old == 1] for new in answer[is_old == 0]]
    assert auc(answer, is_old) == pytest.approx(np.mean(pairs))
    assert auc(answer.reshape(7, 9), is_old.reshape(7, 9)) == auc(answer, is_old)


@pytest.mark.parametrize("levels", [None, 1, 2, 5])
@pytest.mark.parametrize("num", [2, 3, 63])
@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_is_better_than_the_best(seed, num, levels):
    answer, is_old = answers(seed, num, levels)
    distinct = np.unique(answer)
    candidates = np.concatenate([[distinct[0] - 1], (distinct[:-1] + distinct[1:]) / 2, [distinct[-1] + 1]])
    shares = [np.mean((answer > threshold) == is_old) for threshold in candidates]
    threshold = best_threshold(answer, is_old)
    assert threshold == pytest.approx(candidates[np.argmax(shares)])  # the lowest of equals
    assert summarise(answer, is_old, threshold)["accuracy"] == pytest.approx(max(shares))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("low", [0.99999994, 1.0, -1e9, 3e16])
def test_threshold_parts_answers_that_only_rounding_tells_apart(low, dtype):
    low = dtype(low)
    answer = np.array(
        [low, np.nextafter(low, dtype(np.inf)), np.nextafter(np.nextafter(low, dtype(np.inf)), dtype(9e20))]
    )
    for is_old in ([0, 1, 1], [0, 0, 1], [1, 1, 1]):
        says_old = answer > best_threshold(answer, np.array(is_old))
        assert says_old.tolist() == [bool(kind) for kind in is_old]


@pytest.mark.parametrize("seed", range(5))
def test_summary_holds_what_a_plain_count_gives(seed):
    answer, is_old = answers(seed)
    counts = [0, 0, 0, 0]
    for value, kind in zip(answer, is_old, strict=True):
        counts[{(1, True): 0, (1, False): 1, (0, True): 2, (0, False): 3}[kind, value > 0.2]] += 1
    hits, misses, false_alarms, correct_rejections = counts
    assert summarise(answer.reshape(9, 7), is_old.reshape(9, 7), 0.2) == {
        "accuracy": pytest.approx((hits + correct_rejections) / 63),
        "hit_rate": pytest.approx(hits / (hits + misses)),
        "false_alarm_rate": pytest.approx(false_alarms / (false_alarms + correct_rejections)),
        "d_prime": d_prime(*counts),
        "criterion": criterion(*counts),
        "auc": auc(answer, is_old),
        "n_old": hits + misses,
        "n_new": false_alarms + correct_rejections,
    }


def test_answer_on_the_threshold_means_new():
    assert summarise(np.array([0.0, 0.0]), np.array([0, 1]))["hit_rate"] == 0
