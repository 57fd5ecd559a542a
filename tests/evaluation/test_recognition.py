"""The task itself: what exact memory scores on it, and what no memory does, on splits as the script draws them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL_EPISODES, SMALL_SPLITS, run_here

from recognition.episodes.dataset import EpisodeDataset
from recognition.episodes.drawing import Episodes, study_frames
from recognition.evaluation.controls import all_controls
from recognition.evaluation.signal_detection import summarise
from recognition.training.config import DatasetConfig
from recognition.training.data import batches, loader, open_split

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def presented(small_bank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Index files of small episodes whose old probes were shown, on the films of `small_bank`."""
    folder = tmp_path_factory.mktemp("presented")
    words = (
        *SMALL_EPISODES,
        *SMALL_SPLITS,
        "--old_probes=presented",
        "--input_dir",
        small_bank,
        "--output_dir",
        folder,
    )
    assert run_here("generate_dataset.py", *words, cwd=folder).returncode == 0
    return folder


def opened(indices: Path, features: Path, split: str, **settings: int) -> EpisodeDataset:
    files = {f"{name}_indices_file": f"{indices}/{name}_indices.h5" for name in SPLITS}
    return open_split(DatasetConfig(**files, video_path=str(features), **settings), split)


def look_up(episodes: Episodes, subsample: int) -> np.ndarray:
    """The answers of one who remembers [video, frame] of all that was shown: (N, P), 1 for old and -1 for new."""
    answers = []
    for study, probes in zip(episodes.study, episodes.probes, strict=True):
        shown = set(map(tuple, study_frames(study, subsample).tolist()))
        answers.append([1 if tuple(probe) in shown else -1 for probe in probes.tolist()])
    return np.array(answers)


def look_up_features(dataset: EpisodeDataset) -> tuple[np.ndarray, np.ndarray]:
    """The answers of one who remembers the features of all that was shown, from batches alone, and is_old: (N, P)."""
    answers, truth = [], []
    for features, is_old, _ in loader(dataset, batches(len(dataset), 5), num_workers=0, device=torch.device("cpu")):
        study, probes = features.split([dataset.num_study_frames, features.shape[1] - dataset.num_study_frames], 1)
        is_equal = (probes[:, dataset.repeat_test - 1 :: dataset.repeat_test, None] == study[:, None]).all(3)
        answers.append(torch.where(is_equal.any(2), 1, -1))
        truth.append(is_old)
    return torch.cat(answers).numpy(), torch.cat(truth).numpy()


@pytest.mark.parametrize("split", SPLITS)
def test_exact_lookup_oracle_scores_perfectly(small_bank, presented, split):
    episodes = opened(presented, small_bank, split).episodes
    scores = summarise(look_up(episodes, 2), episodes.is_old)
    assert (scores["accuracy"], scores["auc"]) == (1, 1)


@pytest.mark.parametrize("split", SPLITS)
def test_exact_lookup_misses_old_probes_that_were_skipped(small_bank, split):
    episodes = opened(small_bank, small_bank, split).episodes
    scores = summarise(look_up(episodes, 2), episodes.is_old)
    assert scores["false_alarm_rate"] == 0
    assert scores["hit_rate"] == pytest.approx(5 / 9, abs=0.2)  # 5 of the 9 frames of a clip are shown
    assert summarise(look_up(episodes, 1), episodes.is_old)["accuracy"] == 1


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("repeat_test", [1, 3])
def test_exact_memory_of_features_scores_perfectly(small_bank, presented, split, repeat_test):
    answers, is_old = look_up_features(opened(presented, small_bank, split, repeat_test=repeat_test))
    assert summarise(answers, is_old)["accuracy"] == 1


def test_memory_of_features_equals_memory_of_frames(small_bank):
    dataset = opened(small_bank, small_bank, "test")
    answers, is_old = look_up_features(dataset)
    np.testing.assert_array_equal(answers, look_up(dataset.episodes, 2))
    np.testing.assert_array_equal(is_old, dataset.episodes.is_old)


def test_every_frame_shown_makes_memory_perfect_again(small_bank):
    answers, is_old = look_up_features(opened(small_bank, small_bank, "test", subsample=1))
    assert summarise(answers, is_old)["accuracy"] == 1


@pytest.mark.parametrize("answer", [-1, 1])
def test_answering_always_alike_gives_chance_and_zero_d_prime(small_bank, answer):
    is_old = opened(small_bank, small_bank, "test").episodes.is_old
    scores = summarise(np.full(is_old.shape, answer), is_old)
    assert (scores["accuracy"], scores["auc"], scores["d_prime"]) == (0.5, 0.5, 0)


def test_nearest_frame_solves_the_task_where_old_probes_were_shown(small_bank, presented):
    datasets = (opened(presented, small_bank, split) for split in ("validation", "test"))
    assert all_controls(*datasets, torch.device("cpu"))["nearest_frame"]["accuracy"] == 1


@pytest.mark.parametrize("kind", ["film", "frame", "position"])
def test_without_the_studied_clips_the_probes_tell_nothing(small_bank, kind):
    episodes = opened(small_bank, small_bank, "train")
    episodes.draw_fresh((0, 3, 0))
    more = [episodes.episodes]
    for epoch in range(1, 40):
        episodes.draw_fresh((0, 3, epoch))
        more.append(episodes.episodes)
    probes, is_old = (np.concatenate([getattr(e, name) for e in more]) for name in ("probes", "is_old"))
    answer = {"film": probes[..., 0], "frame": -abs(probes[..., 1] - 50), "position": np.indices(is_old.shape)[1]}[kind]
    assert summarise(answer, is_old)["auc"] == pytest.approx(0.5, abs=0.05 if kind == "frame" else 0.03)
