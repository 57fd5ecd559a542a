"""Retrieval recall against plain loops, and on a memory that finds the frames themselves."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.knn_memory import KNNMemory
from recognition.episodes.dataset import EpisodeDataset
from recognition.episodes.drawing import study_frames
from recognition.evaluation.pages.retrieval import (
    lookup_curve,
    retrieval_by_lag,
    retrieval_ranks,
    retrieval_recall,
)
from recognition.evaluation.retention import frames_a_clip, lags, source_places, studied_at
from recognition.evaluation.signal_detection import resample_episodes
from recognition.training.config import DatasetConfig
from recognition.training.data import open_split

N, P, K, S = 13, 6, 11, 40


@pytest.fixture
def test_set(small_bank: Path) -> EpisodeDataset:
    files = {f"{split}_indices_file": str(small_bank / f"{split}_indices.h5") for split in ("train", "test")}
    return open_split(DatasetConfig(video_path=str(small_bank), **files), "test")


def draw() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """retrieved (N, P, K) with gaps, source, is_old and lag (N, P)."""
    rng = np.random.default_rng(0)
    retrieved = rng.integers(-1, S, (N, P, K))
    return retrieved, rng.integers(0, S, (N, P)), rng.integers(0, 2, (N, P)), rng.integers(1, 70, (N, P))


@pytest.mark.parametrize("unit", [1, 8])
def test_rank_is_the_place_of_the_first_frame_of_the_source(unit):
    retrieved, source, _, _ = draw()
    rank = retrieval_ranks(retrieved, source, unit)
    for n in range(N):
        for p in range(P):
            found = [
                k + 1 for k, frame in enumerate(retrieved[n, p]) if frame >= 0 and frame // unit == source[n, p] // unit
            ]
            assert rank[n, p] == min(found, default=K + 1)


def test_nothing_retrieved_is_never_a_hit():
    assert retrieval_ranks(np.full((1, 1, 3), -1), np.zeros((1, 1), int), unit=5).tolist() == [[4]]


def test_recall_counts_old_probes_whose_source_stands_early_enough():
    retrieved, source, is_old, _ = draw()
    rows = retrieval_recall(retrieval_ranks(retrieved, source), is_old, resample_episodes(N, 50), K)
    assert [row["num_retrieved"] for row in rows] == [1, 8, K]
    for row in rows:
        hits = [source[n, p] in retrieved[n, p, : row["num_retrieved"]] for n, p in np.argwhere(is_old)]
        assert row["recall"] == pytest.approx(np.mean(hits))
        assert row["num_probes"] == len(hits)
        assert row["recall_interval"][0] <= row["recall"] <= row["recall_interval"][1]


def test_recall_by_lag_counts_the_old_probes_of_each_doubling():
    retrieved, source, is_old, lag = draw()
    rows = retrieval_by_lag(retrieval_ranks(retrieved, source, 4), lag, is_old, resample_episodes(N, 50), 8)
    assert [row["lag_frames_from"] for row in rows] == sorted({2 ** int(np.log2(x)) for x in lag[is_old == 1]})
    assert sum(row["num_probes"] for row in rows) == is_old.sum()
    for row in rows:
        inside = (is_old == 1) & (lag >= row["lag_frames_from"]) & (lag <= row["lag_frames_to"])
        hits = [
            any(frame >= 0 and frame // 4 == source[n, p] // 4 for frame in retrieved[n, p, :8])
            for n, p in np.argwhere(inside)
        ]
        assert row["recall"] == pytest.approx(np.mean(hits))
        assert row["num_probes"] == len(hits)


def test_without_old_probes_recall_is_not_defined():
    retrieved, source, is_old, lag = draw()
    rank, resamples = retrieval_ranks(retrieved, source), resample_episodes(N, 50)
    assert np.isnan([row["recall"] for row in retrieval_recall(rank, 0 * is_old, resamples, K)]).all()
    assert retrieval_by_lag(rank, lag, 0 * is_old, resamples, 8) == []


def test_source_of_an_old_probe_is_the_shown_frame_nearest_to_it(test_set):
    places = source_places(test_set)
    for number, (study, probes) in enumerate(zip(test_set.episodes.study, test_set.episodes.probes, strict=True)):
        shown = study_frames(study[None], test_set.subsample)[0]
        for p in np.flatnonzero(test_set.episodes.is_old[number]):
            video, frame = shown[places[number, p]]
            near = abs(shown[shown[:, 0] == video, 1] - probes[p, 1]).min()
            assert video == probes[p, 0]
            assert abs(frame - probes[p, 1]) == near < test_set.subsample
            start, end = study[places[number, p] // frames_a_clip(test_set), 1:]
            assert start <= probes[p, 1] < end


@torch.no_grad()
def test_memory_that_starts_as_nearest_neighbours_finds_the_source_of_every_probe_that_was_shown(test_set):
    torch.manual_seed(0)
    features = test_set[np.arange(len(test_set))].features
    layer = KNNMemory(KNNMemory.Config(d_embed=features.shape[2], k=3)).eval()
    layer(features.float(), test_set.num_probes)
    rank = retrieval_ranks(layer.retrieved.numpy(), source_places(test_set))
    shown = studied_at(test_set)
    lag, _ = lags(test_set, *shown)
    video, start, _ = np.moveaxis(np.take_along_axis(test_set.episodes.study, shown[0][..., None], 1), -1, 0)
    was_shown = (test_set.episodes.probes[..., 1] - start) % test_set.subsample == 0
    old = (test_set.episodes.is_old == 1) & was_shown
    assert old.sum() > 5
    assert (video == test_set.episodes.probes[..., 0])[old].all()
    resamples = resample_episodes(len(test_set), 50)
    assert [row["recall"] for row in retrieval_recall(rank, old, resamples, 3)] == [1, 1]
    assert all(row["recall"] == 1 for row in retrieval_by_lag(rank, lag, old, resamples, 1))


def test_smaller_memories_are_a_curve_for_each_number_of_neighbours():
    rows = [
        {"k": k, "capacity": capacity, "accuracy": 0.5 + capacity / 20_000, "accuracy_interval": [0.4, 1.0]}
        for k in (1, 32)
        for capacity in (1000, 3000, 9000)
    ]
    figure = lookup_curve(rows)
    [axis] = figure.axes
    assert [line.get_xdata().tolist() for line in axis.lines] == [[1000, 3000, 9000]] * 2
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1,000", "3,000", "9,000"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["k = 1", "k = 32"]
