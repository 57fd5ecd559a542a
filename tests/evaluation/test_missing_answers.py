"""Answers that are missing, nan: as if their probes had never been asked, whatever is told of the others."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_features

from recognition.episodes.dataset import EpisodeDataset
from recognition.episodes.drawing import Episodes, EpisodeSpec, draw_episodes
from recognition.episodes.index_file import EpisodeIndex, read_index, write_index
from recognition.evaluation.gallery import gallery
from recognition.evaluation.memorability_analysis import describe_memorability
from recognition.evaluation.memorability_file import ProbeScores
from recognition.evaluation.pages import Told, temporal_gates
from recognition.evaluation.retention import retention, studied_at
from recognition.evaluation.scores import calibrated, describe_answers, share_right, without_nan
from recognition.evaluation.signal_detection import (
    auc,
    confidence_bounds,
    criterion,
    d_prime,
    resample_episodes,
    roc,
    summarise,
    summarise_with_intervals,
    zroc,
)
from recognition.features.feature_bank import FeatureBank

LENGTHS = np.array([90, 97, 110, 131])
GRADES = np.array([-3.0, -2, -1, 1, 2, 3])


@pytest.fixture(params=["far", "far=0.5,near=0.5"])
def dataset(tmp_path: Path, request: pytest.FixtureRequest) -> EpisodeDataset:
    return dataset_of(tmp_path, draw_episodes(LENGTHS, spec_of(request.param), 11, (3,)), spec_of(request.param))


def spec_of(new_probes: str) -> EpisodeSpec:
    return EpisodeSpec(3, 9, 4, 4, 2, "any", new_probes)


def dataset_of(folder: Path, episodes: Episodes, spec: EpisodeSpec) -> EpisodeDataset:
    write_features(folder, LENGTHS)
    ids = [f"film_{k}" for k in range(len(LENGTHS))]
    index = EpisodeIndex(folder / "indices.h5", episodes, ids, LENGTHS, spec)
    write_index(index, {})
    return EpisodeDataset(read_index(index.path), FeatureBank(folder, ids), 2)


def with_missing(answer: np.ndarray, seed: int = 0, share: float = 0.3) -> np.ndarray:
    return np.where(np.random.default_rng(seed).random(answer.shape) < share, np.nan, answer)


def plain_counts(answer: np.ndarray, kinds: np.ndarray, threshold: float = 0.0) -> list[int]:
    """Hits, misses, false alarms and correct rejections, one answer after the other."""
    counts = [0, 0, 0, 0]
    for value, is_old in zip(answer.ravel().tolist(), kinds.ravel().tolist(), strict=True):
        if value == value:  # nan alone does not equal itself
            counts[(0 if is_old else 2) + (0 if value > threshold else 1)] += 1
    return counts


@pytest.mark.parametrize("share", [0, 0.3, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_summary_is_what_plain_counts_of_the_given_answers_say(seed: int, share: float):
    rng = np.random.default_rng(seed)
    is_old = rng.integers(0, 2, (9, 40)).astype(np.uint8)
    answer = with_missing(rng.normal(size=is_old.shape), seed, share)
    hits, misses, false_alarms, rejections = counts = plain_counts(answer, is_old, 0.2)
    pairs = [
        (old > new) + (old == new) / 2
        for old in answer[is_old == 1]
        for new in answer[is_old == 0]
        if old == old and new == new
    ]
    assert summarise(answer, is_old, 0.2) == {
        "accuracy": pytest.approx((hits + rejections) / sum(counts)),
        "hit_rate": pytest.approx(hits / (hits + misses)),
        "false_alarm_rate": pytest.approx(false_alarms / (false_alarms + rejections)),
        "d_prime": d_prime(*counts),
        "criterion": criterion(*counts),
        "auc": pytest.approx(np.mean(pairs)),
        "n_old": hits + misses,
        "n_new": false_alarms + rejections,
    }


def all_scores(answer: np.ndarray, is_old: np.ndarray, is_rated: bool) -> dict[str, Any]:
    resamples = resample_episodes(len(answer), 100)
    return without_nan(
        {
            **summarise_with_intervals(answer, is_old, resamples, 0.1),
            "calibrated": calibrated(answer, is_old, resamples, 0.4),
            "roc": roc(answer, is_old),
            "zroc": zroc(answer, is_old, resamples, is_rated=is_rated),
            "auc_again": auc(answer, is_old),
        }
    )


@pytest.mark.parametrize("is_rated", [False, True])
@pytest.mark.parametrize("num_levels", [3, 6, 1000])
def test_probes_without_an_answer_change_no_score_and_no_interval(num_levels: int, is_rated: bool):
    rng = np.random.default_rng(num_levels)
    answer = rng.integers(0, num_levels, (12, 30)) - num_levels / 2
    is_old = rng.integers(0, 2, answer.shape)
    more, more_old = np.full((12, 50), np.nan), rng.integers(0, 2, (12, 50))
    for row in range(12):  # at other places in every episode
        places = np.sort(rng.choice(50, 30, False))
        more[row, places], more_old[row, places] = answer[row], is_old[row]
    assert all_scores(more, more_old, is_rated) == all_scores(answer, is_old, is_rated)


def test_one_answered_episode_of_many_has_no_interval():
    rng = np.random.default_rng(0)
    answer, is_old = np.full((6, 20), np.nan), np.tile(np.arange(20) % 2, (6, 1))
    answer[2] = np.where(is_old[2] == 1, 1, -1)  # all right, so that every resample scores alike
    scores = summarise_with_intervals(answer, is_old, resample_episodes(6, 100))
    assert (scores["accuracy"], scores["n_old"], scores["n_new"]) == (1, 10, 10)
    assert all(value is None for name, value in scores.items() if name.endswith("_interval"))
    answer[2] = rng.normal(size=20)
    scores = summarise_with_intervals(answer, is_old, resample_episodes(6, 100))
    assert all(value is None for name, value in scores.items() if name.endswith("_interval"))


@pytest.mark.parametrize("kind", [0, 1])
def test_test_with_answers_to_one_kind_of_probe_alone_is_refused(kind: int):
    is_old = np.tile(np.arange(8) % 2, (3, 1))
    with pytest.raises(ValueError, match="old and new"):
        summarise(np.where(is_old == kind, 1.0, np.nan), is_old)


def test_bounds_of_a_rating_scale_are_its_own_and_those_of_a_model_terciles():
    grades = np.repeat(GRADES, [5, 1, 1, 1, 1, 11])
    assert confidence_bounds(grades, is_rated=True).tolist() == GRADES[:-1].tolist()
    assert confidence_bounds(grades).tolist() == [-3, 0]  # its terciles fall together
    without = grades[grades != 2]
    assert confidence_bounds(without, is_rated=True).tolist() == [-3, -2, -1, 1]  # no point comes twice
    finer = np.linspace(-1, 1, 7)
    assert confidence_bounds(finer, is_rated=True).tolist() == confidence_bounds(finer).tolist()


def test_last_probes_that_were_not_answered_might_not_have_been_asked(dataset: EpisodeDataset, tmp_path: Path):
    study, probes, is_old, kind = dataset.episodes
    answer = np.random.default_rng(0).normal(size=is_old.shape)
    kept = slice(0, 6)
    (tmp_path / "fewer").mkdir()
    fewer = dataset_of(
        tmp_path / "fewer", Episodes(study, probes[:, kept], is_old[:, kept], kind[:, kept]), dataset.index.spec
    )
    missing = np.where(np.arange(8) < 6, answer, np.nan)
    expected, found = (
        without_nan(describe_answers(asked, given, tmp_path, 0.3))
        for asked, given in ((fewer, answer[:, kept]), (dataset, missing))
    )
    assert found == expected  # probe orders too: as few probes are a group each
    assert found["n_old"] + found["n_new"] == 66


def test_tables_count_the_given_answers_alone(dataset: EpisodeDataset):
    is_old, kind = dataset.episodes.is_old == 1, dataset.episodes.kind
    answer = with_missing(np.random.default_rng(0).normal(size=is_old.shape))
    tables = retention(dataset, answer, resample_episodes(11, 50))
    there = ~np.isnan(answer)
    for name, all_of in (("by_lag", is_old), ("by_serial_position", is_old), ("by_probe_order", there)):
        assert sum(row["num_probes"] for row in tables[name]) == (all_of & there).sum()
    for row in tables["by_probe_order"]:
        at = np.arange(8) == row["position"] - 1
        counts = plain_counts(answer[:, at], is_old[:, at])
        assert row["hit_rate"] == counts[0] / sum(counts[:2])
        assert row["false_alarm_rate"] == counts[2] / sum(counts[2:])
        assert row["d_prime"] == d_prime(*counts)
    clip, _ = studied_at(dataset)
    for row in tables["by_serial_position"]:
        of_clip = is_old & (clip == row["position"] - 1)
        counts = plain_counts(answer[of_clip | ~is_old], is_old[of_clip | ~is_old])
        assert (row["hit_rate"], row["d_prime"]) == (counts[0] / sum(counts[:2]), d_prime(*counts))
    assert sum(row["num_probes"] for row in tables["by_kind"]) == there.sum()
    unanswered = np.where(is_old | (kind == kind[~is_old].max()), answer, np.nan)
    assert len(retention(dataset, unanswered, resample_episodes(11, 50))["by_kind"]) == 2  # old, and the kind asked


def test_measured_lags_stand_for_those_of_the_films_and_may_be_missing(dataset: EpisodeDataset):
    is_old = dataset.episodes.is_old == 1
    answer, resamples = np.ones(is_old.shape), resample_episodes(11, 50)
    of_films, measured, unknown, half = (
        retention(dataset, answer, resamples, np.full(4, 25.0), lag_s)["by_lag"]
        for lag_s in (
            None,
            np.where(is_old, 7.0, np.nan),
            np.full(is_old.shape, np.nan),
            np.where(np.arange(88).reshape(11, 8) % 2, 7.0, np.nan),
        )
    )
    assert [row["lag_s"] for row in measured] == pytest.approx([7.0] * len(measured))
    assert [row["lag_s"] for row in unknown] == [None] * len(unknown)
    assert {row["lag_s"] and round(row["lag_s"], 9) for row in half} <= {7.0, None}
    assert all(row["lag_s"] is not None for row in of_films)
    for rows in (measured, unknown, half):
        assert [row | {"lag_s": 0} for row in rows] == [row | {"lag_s": 0} for row in of_films]


def test_memorability_is_told_of_answered_probes_alone(dataset: EpisodeDataset):
    rng, shape = np.random.default_rng(0), dataset.episodes.is_old.shape
    answer, score, similarity = with_missing(rng.normal(size=shape)), rng.random(shape), rng.random(shape)

    def told(answer: np.ndarray, score: np.ndarray) -> Any:
        scores = ProbeScores(score, np.zeros(shape, int), "weights", "fit")
        episodes = dataset.episodes
        return without_nan(describe_memorability(episodes.probes, episodes.is_old, answer, scores, similarity))

    assert told(answer, score) == told(np.nan_to_num(answer), np.where(np.isnan(answer), np.nan, score))


def test_gates_share_no_missing_answers(dataset: EpisodeDataset):
    is_old = dataset.episodes.is_old == 1
    answer = with_missing(np.ones(is_old.shape))
    layer = Told({"clip_frames": dataset.num_study_frames // 3}, {"openness": np.random.default_rng(0).random((11, 3))})
    [row] = temporal_gates.describe(dataset, answer, [layer])
    assert row["n_open"] + row["n_shut"] == (is_old & ~np.isnan(answer)).sum()
    assert row["accuracy_open"] == row["accuracy_shut"] == 1
    assert share_right("any", answer > 0, is_old & ~np.isnan(answer), resample_episodes(11, 50))["accuracy_any"] == 1


def test_gallery_of_nothing_but_missing_answers_is_empty(dataset: EpisodeDataset):
    class AllFilms:
        video_ids = dataset.index.video_ids

        def has(self, video: int) -> bool:
            return True

    missing = np.full(dataset.episodes.is_old.shape, np.nan)
    assert not any(gallery(dataset, missing, AllFilms()).values())
