"""Scores of old/new answers: hand-worked values, and plain loops on random answers."""

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import binomtest

from recognition.evaluation.signal_detection import (
    accuracy,
    auc,
    confidence_bounds,
    criterion,
    d_prime,
    false_alarm_rate,
    hit_rate,
    interval,
    intervals_of_counts,
    rate_interval,
    resample_episodes,
    roc,
    scores_of_counts,
    seed_interval,
    summarise,
    summarise_with_intervals,
    wilson_interval,
    z_rate,
    zroc,
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


def grouped_answers(seed: int, num_episodes: int, num_probes: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Answers (N, P) to episodes that differ in difficulty: d' is 1 on average, with a deviation of 2 * spread."""
    rng = np.random.default_rng(seed)
    is_old = np.tile(np.arange(num_probes) % 2, (num_episodes, 1))
    easiness = rng.normal(0, spread, (num_episodes, 1))
    return rng.normal((2 * is_old - 1) * (0.5 + easiness)), is_old


@pytest.mark.parametrize("num_resamples", [1, 7])
def test_resamples_are_counts_of_episodes_drawn_with_replacement(num_resamples: int):
    resamples = resample_episodes(13, num_resamples, seed=3)
    drawn = np.random.default_rng(3).integers(0, 13, (num_resamples, 13))
    assert resamples.tolist() == [[float((row == episode).sum()) for episode in range(13)] for row in drawn]


def test_intervals_are_those_of_scores_computed_resample_by_resample():
    answer, is_old = grouped_answers(0, 17, 21, 0.3)
    drawn = np.random.default_rng(5).integers(0, 17, (200, 17))
    scores = [summarise(answer[row], is_old[row], 0.1) for row in drawn]
    found = summarise_with_intervals(answer, is_old, resample_episodes(17, 200, seed=5), 0.1)
    assert {name: found[name] for name in scores[0]} == summarise(answer, is_old, 0.1)
    for name in ("accuracy", "hit_rate", "false_alarm_rate", "d_prime", "criterion", "auc"):
        expected = np.quantile([score[name] for score in scores], [0.025, 0.975])
        tolerance = 2e-3 if name == "auc" else 1e-9  # the interval of the AUC takes levels for the answers
        assert found[f"{name}_interval"] == pytest.approx(expected, abs=tolerance), name


def test_intervals_hold_the_true_score_as_often_as_they_say_and_those_over_probes_do_not():
    """60 episodes of 20 probes that differ in difficulty. Each interval should miss the true accuracy in 5 % of tests,
    that is 20 of 400, by chance up to 33; one that resamples probes is too narrow."""
    answer, is_old = grouped_answers(99, 200_000, 20, 0.6)
    true_accuracy = accuracy(answer > 0, is_old)
    missed = {"episodes": 0, "probes": 0}
    resamples = {"episodes": resample_episodes(60, 500), "probes": resample_episodes(60 * 20, 500)}
    for seed in range(400):
        answer, is_old = grouped_answers(seed, 60, 20, 0.6)
        right = ((answer > 0) == is_old).astype(float)
        for unit, counts in (("episodes", right.mean(1)), ("probes", right.ravel())):
            low, high = interval(resamples[unit] @ counts / len(counts))
            missed[unit] += not low <= true_accuracy <= high
    assert missed["episodes"] <= 33
    assert missed["probes"] > 80


def test_interval_leaves_out_resamples_in_which_the_score_is_not_defined():
    assert interval(np.array([np.nan, 1.0, np.nan, 2.0])) == pytest.approx([1.025, 1.975])
    assert interval(np.full(3, np.nan)) is None


ALL_SCORES = "accuracy", "hit_rate", "false_alarm_rate", "d_prime", "criterion", "auc"


def constant_answers(num_episodes: int, rates: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Answers (N, 8) whose shares of "old" are these in every episode, to the four old and the four new probes."""
    says_old = np.concatenate([np.arange(4) < 4 * rate for rate in rates])
    is_old = np.repeat([1, 0], 4)
    return np.tile(says_old - 0.5, (num_episodes, 1)), np.tile(is_old, (num_episodes, 1))


@pytest.mark.parametrize("rates", [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (0.75, 0.25), (1.0, 1.0), (0.0, 0.0)])
@pytest.mark.parametrize("num_episodes", [1, 2, 16, 4096])
def test_scores_that_are_the_same_in_every_episode_are_not_told_as_certain(num_episodes: int, rates):
    answer, is_old = constant_answers(num_episodes, rates)
    told = summarise_with_intervals(answer, is_old, resample_episodes(num_episodes, 50))
    for name in ALL_SCORES:
        ends = told[f"{name}_interval"]
        if num_episodes == 1:
            assert ends is None, name
        else:
            assert ends[0] - 1e-9 <= told[name] <= ends[1] + 1e-9, name
            assert ends[1] - ends[0] > 0.5 / num_episodes, name


def test_rate_at_its_end_has_the_interval_of_as_many_answers_as_there_are_episodes():
    told = summarise_with_intervals(*constant_answers(10, (1.0, 0.0)), resample_episodes(10))
    assert told["hit_rate_interval"] == pytest.approx([0.722467, 1], abs=1e-6)  # 10 of 10
    assert told["false_alarm_rate_interval"] == pytest.approx([0, 0.277533], abs=1e-6)
    assert told["accuracy_interval"] == told["auc_interval"] == told["hit_rate_interval"]
    # 40 probes, of which 28.9 hits and 11.1 false alarms are possible too, with half a probe added
    low, high = told["d_prime_interval"]
    assert low == pytest.approx(2 * float(ndtri((40 * 0.722467 + 0.5) / 41)), abs=1e-5)
    assert high == pytest.approx(told["d_prime"])
    assert wilson_interval(0.3, 20) == pytest.approx([*binomtest(6, 20).proportion_ci(method="wilson")])
    assert wilson_interval(0.3, 1) is wilson_interval(float("nan"), 20) is None


def test_rate_of_which_a_single_episode_has_probes_has_no_interval_nor_has_its_d_prime():
    counts = np.array([[3, 0, 0, 0], [4, 0, 0, 0], [1, 2, 0, 1], [4, 4, 4, 4]])
    found = intervals_of_counts(counts, resample_episodes(4))
    assert found["hit_rate"] is found["d_prime"] is found["criterion"] is None
    assert found["false_alarm_rate"] is not None


def test_interval_of_d_prime_allows_for_a_hit_rate_that_does_not_vary():
    """All hits, and false alarms that vary: those alone would leave the hit rate out of account."""
    rng = np.random.default_rng(0)
    hits, false_alarms = np.full(12, 4), rng.integers(0, 3, 12)
    counts, resamples = np.stack([hits, hits, false_alarms, hits]), resample_episodes(12)
    low, high = intervals_of_counts(counts, resamples)["d_prime"]
    narrow_low, narrow_high = interval(scores_of_counts(*(resamples @ counts.T).T)["d_prime"])
    assert low < narrow_low - 0.5
    assert high >= narrow_high


def test_wilson_interval_over_episodes_holds_the_rate_of_rare_and_dependent_failures():
    """20 episodes, of which 3 % are failed altogether, the others passed: most samples show no failure at all."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        passed = 8 * (rng.random(20) > 0.03)
        low, high = rate_interval(passed, np.full(20, 8), resample_episodes(20, 200))
        held += low <= 0.97 <= high
    assert held >= 0.93 * 400


def test_many_scores_at_once_equal_each_alone_and_are_nan_where_there_is_nothing():
    scores = scores_of_counts(*np.array([[82, 3, 0], [100, 5, 0], [46, 0, 1], [100, 4, 2]]))
    assert scores["d_prime"][:2] == pytest.approx([1.002793, d_prime(3, 2, 0, 4)], abs=1e-6)
    assert scores["accuracy"][:2] == pytest.approx([0.68, 7 / 9])
    assert np.isnan(scores["d_prime"][2])
    assert np.isnan(scores["hit_rate"][2])


@pytest.mark.parametrize("levels", [None, 1, 2, 5])
def test_roc_runs_through_the_rates_at_its_thresholds(levels: int | None):
    answer, is_old = (x.reshape(7, 9) for x in answers(4, 63, levels))
    curve = roc(answer, is_old)
    points = np.stack([curve["false_alarm_rate"], curve["hit_rate"]], 1)
    thresholds = [*np.unique(answer)[::-1], -np.inf]
    rates = [
        (false_alarm_rate(answer > threshold, is_old), hit_rate(answer > threshold, is_old)) for threshold in thresholds
    ]
    np.testing.assert_allclose(points, list(dict.fromkeys([(0, 0), *rates])))
    assert points[-1].tolist() == [1, 1]


def test_roc_of_many_answers_keeps_its_area():
    answer, is_old = grouped_answers(1, 40, 50, 0.2)
    curve = roc(answer, is_old)
    x, y = np.array(curve["false_alarm_rate"]), np.array(curve["hit_rate"])
    assert len(x) <= 257
    assert ((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() == pytest.approx(
        auc(answer, is_old), abs=3e-4
    )  # chords run below the curve


def test_confidence_bins_are_terciles_of_each_answer():
    answer = np.array([-6.0, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    bounds = confidence_bounds(answer)
    assert bounds[2] == 0
    assert np.bincount(np.searchsorted(bounds, answer)).tolist() == [2, 2, 2, 3, 3, 3]


@pytest.mark.parametrize(
    ("answer", "expected"), [([1.0, 1.0, 1.0], [0.0]), ([-1.0, -1.0], []), ([-1.0, 1.0], [-1.0, 0.0])]
)
def test_models_that_give_few_different_answers_have_fewer_bins(answer: list[float], expected: list[float]):
    assert confidence_bounds(np.array(answer)).tolist() == expected


@pytest.mark.parametrize(("deviation", "distance"), [(1.0, 1.0), (1.25, 1.0), (0.8, 2.0)])
def test_zroc_of_normal_answers_has_the_slope_and_intercept_of_their_distributions(deviation, distance):
    """Old answers of mean `distance` and this deviation, new ones of mean 0 and deviation 1."""
    rng, is_old = np.random.default_rng(0), np.tile(np.arange(100) % 2, (400, 1))
    answer = np.where(is_old, rng.normal(distance, deviation, is_old.shape), rng.normal(0, 1, is_old.shape))
    line = zroc(answer, is_old, resample_episodes(400, 300), threshold=0.5)
    assert line["slope"] == pytest.approx(1 / deviation, abs=0.03)
    assert line["intercept"] == pytest.approx(distance / deviation, abs=0.07)  # its outer points are rare answers
    for name in ("slope", "intercept"):
        low, high = line[f"{name}_interval"]
        assert line[name] - 0.15 < low < line[name] < high < line[name] + 0.15
    assert line["z_hit"][2] == pytest.approx(z_rate((answer[is_old == 1] > 0.5).sum(), (is_old == 1).sum()), abs=1e-12)


@pytest.mark.parametrize("value", [-1.0, 1.0])
def test_zroc_of_one_and_the_same_answer_has_no_slope(value: float):
    line = zroc(np.full((3, 4), value), np.tile([0, 1], (3, 2)), resample_episodes(3, 9))
    assert np.isnan([line["slope"], line["intercept"]]).all()
    assert line["slope_interval"] is line["intercept_interval"] is None


def test_mean_over_seeds_has_the_t_interval_and_a_single_seed_has_none():
    mean, (low, high) = seed_interval([0.9, 0.92, 0.97])
    assert mean == pytest.approx(0.93)
    assert (low, high) == pytest.approx(
        (0.93 - 4.30265 * 0.0360555 / 3**0.5, 0.93 + 4.30265 * 0.0360555 / 3**0.5), abs=1e-5
    )
    assert seed_interval([0.9]) == (0.9, None)


def test_seeds_that_score_alike_have_no_interval():
    assert seed_interval([1.0, 1.0]) == (1.0, None)
    assert seed_interval([0.1 + 0.2, 0.3])[1] is None
