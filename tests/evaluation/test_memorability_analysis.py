"""Rank correlations of memorability with answers: known ones are found, and intervals are as wide as they should."""

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from recognition.evaluation.memorability_analysis import correlate, describe_memorability, reliability, score_bins
from recognition.evaluation.memorability_file import ProbeScores
from recognition.evaluation.signal_detection import resample_episodes, scores_of_counts


def draw(rng: np.random.Generator, num_films: int, num_frames: int, r: float, share: float = 0.5):
    """Scores and values of frames, normal with correlation r within films and between them, and the frames' films.
    `share` of their variance lies between films."""
    film = np.repeat(np.arange(num_films), num_frames)
    root = np.linalg.cholesky([[1, r], [r, 1]])
    films, frames = (rng.normal(size=(n, 2)) @ root.T for n in (num_films, len(film)))
    return *(share**0.5 * films[film] + (1 - share) ** 0.5 * frames).T, film


def spearman(r: float) -> float:
    """Rank correlation of two normal variables with correlation r (Pearson 1907)."""
    return 6 / np.pi * np.arcsin(r / 2)


def test_correlation_is_spearmans_also_with_ties_and_in_every_resample():
    rng = np.random.default_rng(0)
    score, value, film = draw(rng, 5, 7, 0.5)
    value, near = np.round(value), np.round(rng.normal(size=len(film)), 1)
    resamples = resample_episodes(5, 3)
    row = correlate(score, value, film, resamples, near)
    assert row["rho"] == pytest.approx(spearmanr(score, value).statistic)
    repeated = [np.repeat(np.arange(len(film)), weight[film].astype(int)) for weight in resamples]
    expected = np.quantile([spearmanr(score[k], value[k]).statistic for k in repeated], [0.025, 0.975])
    np.testing.assert_allclose(row["rho_interval"], expected, rtol=1e-9)
    x, y, z = (rankdata(values) for values in (score, value, near))
    rest = [values - np.polyval(np.polyfit(z, values, 1), z) for values in (x, y)]
    assert row["rho_partial"] == pytest.approx(np.corrcoef(*rest)[0, 1])


def test_correlation_within_films_knows_nothing_of_differences_between_them():
    rng = np.random.default_rng(0)
    score, value, film = draw(rng, 40, 12, -0.6, share=0)
    apart = rng.permutation(40)[film] * 100
    resamples = resample_episodes(40, 400)
    row = correlate(score + apart, value + apart, film, resamples, rng.normal(size=len(film)))
    assert row["rho"] > 0.9
    low, high = row["rho_within_interval"]
    assert low < spearman(-0.6) < high < -0.4
    alone = [spearmanr(score[film == k], value[film == k]).statistic for k in range(40)]
    assert row["rho_within"] == pytest.approx(np.mean(alone))


def test_correlation_that_comes_from_a_covariate_alone_goes_with_it():
    rng = np.random.default_rng(1)
    near = rng.normal(size=600)
    score, value = near + 0.5 * rng.normal(size=(2, 600))
    row = correlate(score, value, np.repeat(np.arange(60), 10), resample_episodes(60, 400), near)
    assert row["rho"] > 0.6
    low, high = row["rho_partial_interval"]
    assert low < 0.03 < high < 0.25  # ranks do not take all of it


def test_what_does_not_vary_has_no_correlation_and_warns_of_nothing():
    film = np.repeat(np.arange(3), 4)
    row = correlate(np.arange(12.0), np.ones(12), film, resample_episodes(3, 10), np.ones(12))
    assert np.isnan([row["rho"], row["rho_within"], row["rho_partial"]]).all()
    assert row["rho_interval"] is None
    row = correlate(np.arange(12.0), np.arange(12.0), film, resample_episodes(3, 10), np.ones(12))
    assert (row["rho"], row["rho_partial"]) == (pytest.approx(1), pytest.approx(1))


def test_interval_over_films_holds_the_true_correlation_in_about_95_of_100_runs():
    """Frames of one film are alike: an interval over frames would hold it in about 60 of them."""
    rng = np.random.default_rng(0)
    resamples, held, held_over_frames, found = resample_episodes(40, 150), 0, 0, []
    over_frames = resample_episodes(320, 100)
    for number in range(100):
        score, value, film = draw(rng, 40, 8, 0.5, share=0.8)
        row = correlate(score, value, film, resamples, np.zeros(len(film)))
        found.append(row["rho"])
        held += row["rho_interval"][0] < spearman(0.5) < row["rho_interval"][1]
        if number % 2:
            continue
        row = correlate(score, value, np.arange(len(film)), over_frames, np.zeros(len(film)))
        held_over_frames += row["rho_interval"][0] < spearman(0.5) < row["rho_interval"][1]
    assert np.mean(found) == pytest.approx(spearman(0.5), abs=0.03)
    assert 87 <= held <= 99
    assert held_over_frames < 42  # of 50


def test_reliability_and_corrected_correlation_recover_what_noise_hid():
    rng = np.random.default_rng(0)
    score, value, _ = draw(rng, 4000, 1, 0.5)
    first, second = value + rng.normal(size=(2, 4000))
    row = reliability(score, first, second)
    assert row["reliability"] == pytest.approx(2 / 3, abs=0.03)  # variance 1 beside a noise of 1 / 2
    assert row["rho_corrected"] == pytest.approx(spearman(0.5), abs=0.05)
    assert spearmanr(score, first + second).statistic < 0.43
    first[20:] = np.nan
    assert reliability(score, first, second)["num_frames_twice"] == 20
    first[19:] = np.nan
    told = reliability(score, first, second)
    assert (told["reliability"], told["rho_corrected"]) == (None, None)


def test_bins_count_their_answers_and_d_prime_follows_them():
    rng = np.random.default_rng(0)
    score = rng.uniform(size=3000)
    level, is_old, film = (4 * score).astype(int), rng.random(3000) < 0.5, rng.integers(0, 30, 3000)
    says_old = rng.random(3000) < np.where(is_old, 0.4 + 0.5 * score, 0.4)
    rows, d_prime = score_bins(score, level, is_old, says_old, film, resample_episodes(30, 200))
    assert [row["num_probes"] for row in rows] == np.bincount(level).tolist()
    for number, row in enumerate(rows):
        there = level == number
        counts = [(says_old & is_old)[there].sum(), is_old[there].sum(), (says_old & ~is_old)[there].sum()]
        expected = scores_of_counts(*counts, (~is_old)[there].sum())
        assert row["memorability"] == pytest.approx(score[there].mean())
        for name in ("hit_rate", "false_alarm_rate", "d_prime"):
            assert row[name] == pytest.approx(float(expected[name]))
            assert row[f"{name}_interval"][0] <= row[name] <= row[f"{name}_interval"][1]
    assert d_prime["rho"] == pytest.approx(1)
    assert d_prime["rho_interval"][1] == pytest.approx(1)


def test_d_prime_of_a_model_that_always_answers_alike_follows_nothing():
    rng = np.random.default_rng(0)
    score, is_old, film = rng.uniform(size=300), rng.random(300) < 0.5, rng.integers(0, 5, 300)
    for says_old in (np.ones(300, bool), np.zeros(300, bool)):
        _, d_prime = score_bins(score, (4 * score).astype(int), is_old, says_old, film, resample_episodes(5, 20))
        assert np.isnan(d_prime["rho"])
        assert d_prime["rho_interval"] is None


def episodes(num: int, score_of: np.ndarray, seed: int = 0):
    """Probes, is_old and the scores of N episodes of 12 probes; films and frames as `score_of` (F, n) has them."""
    rng = np.random.default_rng(seed)
    video, frame = rng.integers(0, len(score_of), (num, 12)), rng.integers(0, score_of.shape[1], (num, 12))
    scores = ProbeScores(
        score_of[video, frame].astype(np.float32), np.zeros((num, 12), np.uint8), "random:0", "squeeze"
    )
    return np.stack([video, frame], -1), (rng.random((num, 12)) < 0.5).astype(np.uint8), scores


def test_model_that_hits_memorable_frames_is_told_from_one_that_does_not():
    rng = np.random.default_rng(0)
    probes, is_old, scores = episodes(300, rng.uniform(size=(25, 9)))
    similarity, noise = rng.uniform(size=(2, *is_old.shape))
    like_people = np.where(is_old == 1, scores.score - noise, 0.3 - noise)
    told = describe_memorability(probes, is_old, like_people, scores, similarity)
    assert (told["num_probes"], told["num_frames"], told["num_films"]) == (3600, 225, 25)
    assert told["has_learned"] is False
    rows = {row["of"]: row for row in told["correlations"]}
    frames = probes.reshape(-1, 2) @ [100, 1]
    hits = [
        (scores.score.ravel()[frames == k][0], (like_people > 0).ravel()[(frames == k) & (is_old.ravel() == 1)].mean())
        for k in np.unique(frames)
    ]
    assert rows["hit_rate"]["rho"] == pytest.approx(spearmanr(*zip(*hits, strict=True)).statistic)
    assert rows["hit_rate"]["rho_interval"][0] > 0.5
    assert rows["hit_rate"]["rho_corrected"] > rows["hit_rate"]["rho"]
    low, high = rows["false_alarm_rate"]["rho_interval"]
    assert low < 0 < high
    assert rows["answer_to_old"]["rho"] > rows["answer_to_new"]["rho"]
    assert told["d_prime"]["rho"] > 0.8
    assert told["old_against_new"] == pytest.approx(0.5, abs=0.03)
    assert sum(told["histogram"]["old"]) == pytest.approx(1)


def test_probes_without_a_score_are_left_out_and_equal_scores_are_one_bin():
    probes, is_old, scores = episodes(40, np.repeat([[0.2, 0.7]], 3, 0))
    scores.score[:, :5] = np.nan
    scores.score[scores.score > 0.5] = np.nan
    told = describe_memorability(probes, is_old, np.where(is_old, 1.0, -1.0), scores, np.ones(is_old.shape))
    assert told["num_probes"] == (~np.isnan(scores.score)).sum()
    [row] = told["bins"]
    assert (row["hit_rate"], row["false_alarm_rate"], row["num_probes"]) == (1, 0, told["num_probes"])
    assert np.isnan(told["d_prime"]["rho"])


def test_single_film_gives_no_intervals():
    rng = np.random.default_rng(0)
    probes, is_old, scores = episodes(40, rng.uniform(size=(1, 30)))
    told = describe_memorability(probes, is_old, rng.normal(size=is_old.shape), scores, rng.uniform(size=is_old.shape))
    for row in (*told["correlations"], *told["bins"], told["d_prime"]):
        assert all(ends is None for name, ends in row.items() if name.endswith("_interval"))
    assert not np.isnan([row["rho"] for row in told["correlations"]]).any()


def test_altered_frames_are_frames_of_their_own():
    probes, is_old, scores = episodes(40, np.full((3, 2), 0.5))
    scores.alteration[is_old == 0] = 2
    told = describe_memorability(probes, is_old, np.ones(is_old.shape), scores, np.ones(is_old.shape))
    assert told["num_frames"] == 12
    assert [row["num_frames"] for row in told["correlations"]] == [6] * 4
