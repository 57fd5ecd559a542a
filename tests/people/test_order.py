"""Pairs of studied frames, and which came first: against plain loops, and for answers that are known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run_here, write_features

from recognition.episodes.dataset import EpisodeDataset
from recognition.episodes.drawing import study_frames
from recognition.episodes.episode_spec import CLIP_KINDS
from recognition.episodes.nearest import nearest_study_frame
from recognition.people.order import BETWEEN, Pairs, asked_about, draw_pairs, order_scores, says_first_earlier
from recognition.training.config import DatasetConfig
from recognition.training.data import open_split

NUM_PAIRS = 36


def read(folder: Path, split: str = "test") -> EpisodeDataset:
    files = {f"{split}_indices_file": str(folder / f"{split}_indices.h5") for split in ("train", "test")}
    return open_split(DatasetConfig(video_path=str(folder), **files), split)


@pytest.fixture(scope="session")
def kinds_bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films with shots, and episodes with clips of every kind, each of 16 shown frames. Read only."""
    folder = write_features(tmp_path_factory.mktemp("kinds"), [400] * 12, shot_length=50)
    words = ("--n_clips=6", "--clip_length=32", "--subsample=2", "--clip_margin=4", "--n_tests=6")
    kinds, samples = "--study_clips=no_cut=1,cut=1,other_film=1", ("--n_samples_train=4", "--n_samples_test=8")
    where = (
        f"--input_dir={folder}",
        f"--output_dir={folder}",
        "--n_samples_validation=4",
        "--validation_set_fraction=0.25",
    )
    result = run_here("generate_dataset.py", *words, kinds, *samples, *where, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def dataset(kinds_bank: Path) -> EpisodeDataset:
    return read(kinds_bank)


@pytest.fixture
def pairs(dataset: EpisodeDataset) -> Pairs:
    return draw_pairs(dataset, np.random.default_rng(0), NUM_PAIRS)


def places(dataset: EpisodeDataset, frames: np.ndarray) -> np.ndarray:
    """Places (N, Q) of frames (N, Q, 2) among the study frames, by looking."""
    shown = study_frames(dataset.episodes.study, dataset.subsample).tolist()
    return np.array([[shown[n].index(frame) for frame in of_one] for n, of_one in enumerate(frames.tolist())])


def test_first_was_shown_before_second_and_as_far_as_is_told(dataset, pairs):
    first, second = places(dataset, pairs.first), places(dataset, pairs.second)
    assert (first < second).all()
    assert (second - first == pairs.distance).all()


def test_pairs_within_a_clip_lie_a_quarter_or_half_of_it_apart_around_its_middle(dataset, pairs):
    first, second = places(dataset, pairs.first), places(dataset, pairs.second)
    within = pairs.is_within
    assert (first[within] // 16 == pairs.clip[within]).all()
    assert (second[within] // 16 == pairs.clip[within]).all()
    assert (first[within] % 16 < 8).all()
    assert (second[within] % 16 >= 8).all()
    assert [(pairs.distance[within] == gap).sum() for gap in (4, 8)] == [8 * NUM_PAIRS // 3] * 2
    assert (first // 16 != second // 16)[~within].all()
    expected = np.take_along_axis(dataset.index.clip_kind, np.maximum(pairs.clip, 0), 1)
    assert (pairs.clip_kind == np.where(within, expected.astype(int), BETWEEN)).all()


def test_pairs_lie_anywhere_in_clips_without_kinds(small_bank):
    dataset = read(small_bank)  # clips of 5 shown frames
    pairs = draw_pairs(dataset, np.random.default_rng(0), 90)
    starts = places(dataset, pairs.first)[pairs.is_within & (pairs.distance == 1)] % 5
    assert set(starts.tolist()) == {0, 1, 2, 3}
    assert (pairs.clip_kind == BETWEEN).all()


def test_equal_seeds_give_equal_pairs_and_a_longer_set_begins_with_a_shorter(dataset, pairs):
    again = draw_pairs(dataset, np.random.default_rng(0), NUM_PAIRS)
    short = asked_about(dataset, pairs)
    short.episodes = type(short.episodes)(*(field[:3] for field in dataset.episodes))
    shorter = draw_pairs(short, np.random.default_rng(0), NUM_PAIRS)
    for whole, same, part in zip(pairs, again, shorter, strict=True):
        np.testing.assert_array_equal(whole, same)
        np.testing.assert_array_equal(whole[:3], part)


def test_always_left_is_right_in_half_of_all_pairs_and_of_each_kind(pairs):
    always_left = np.tile([0, 1], (len(pairs.first), NUM_PAIRS))
    scores = order_scores(says_first_earlier(always_left, pairs), pairs)
    assert scores["accuracy"] == 0.5
    assert scores["d_prime"] == 0
    for row in scores["by_clip_kind"]:
        assert row["accuracy"] == pytest.approx(0.5, abs=0.13)


def test_episodes_of_one_clip_have_pairs_within_it_alone(dataset):
    one = asked_about(dataset, draw_pairs(dataset, np.random.default_rng(0), 4))
    one.index = type(one.index)(**{**vars(one.index), "clip_kind": one.index.clip_kind[:, :1]})
    one.episodes = one.episodes._replace(study=one.episodes.study[:, :2])
    pairs = draw_pairs(one, np.random.default_rng(0), 10)
    assert pairs.is_within.all()


def test_clips_of_a_single_frame_have_no_pairs(dataset):
    dataset.subsample = 16  # a frame of each half; those of two halves are a pair
    assert set(draw_pairs(dataset, np.random.default_rng(0), 9).distance[:, :6].ravel().tolist()) >= {1}
    dataset.episodes = dataset.episodes._replace(study=dataset.episodes.study[:, :3])
    with pytest.raises(ValueError, match="single frame"):
        draw_pairs(dataset, np.random.default_rng(0), 9)


def test_places_of_the_nearest_frames_tell_the_order_of_distinct_frames(dataset, pairs):
    asked = asked_about(dataset, pairs)
    _, position = nearest_study_frame(asked, np.arange(len(asked)), torch.device("cpu"))
    scores = order_scores(says_first_earlier(position, pairs), pairs)
    assert scores["accuracy"] == 1.0
    assert all(row["accuracy"] == 1.0 for row in scores["by_distance"] + scores["by_clip_kind"])
    assert len(dataset.episodes.probes[0]) == 12, "the data set itself is as before"


def test_scores_match_a_plain_loop(pairs):
    rng = np.random.default_rng(1)
    says = rng.choice([0.0, 0.5, 1.0, np.nan], pairs.distance.shape)
    scores = order_scores(says, pairs)
    for rows, is_in in (
        ([scores], lambda row, n, q: True),
        (
            scores["by_distance"],
            lambda row, n, q: (
                row["is_within"] == (pairs.clip[n, q] != BETWEEN)
                and row["distance_frames_from"] <= pairs.distance[n, q] <= row["distance_frames_to"]
            ),
        ),
        (scores["by_clip_kind"], lambda row, n, q: pairs.clip_kind[n, q] == CLIP_KINDS.index(row["kind"])),
    ):
        for row in rows:
            answers = [says[n, q] for n, q in np.ndindex(says.shape) if is_in(row, n, q) and not np.isnan(says[n, q])]
            assert row["num_pairs"] == len(answers)
            assert row["accuracy"] == pytest.approx(np.mean(answers))
            for name in ("accuracy", "d_prime") if row["num_pairs"] > 50 else ():
                low, high = row[f"{name}_interval"]
                assert low < row[name] < high
    assert sum(row["num_pairs"] for row in scores["by_distance"]) == scores["num_pairs"] == (~np.isnan(says)).sum()


def test_d_prime_of_a_choice_matches_hand_worked_value():
    pairs = Pairs(*np.zeros((2, 1, 99, 2), int), np.ones((1, 99), int), *np.full((2, 1, 99), BETWEEN), np.ones((1, 99)))
    scores = order_scores((np.arange(99) < 83.5)[None].astype(float), pairs)
    assert scores["d_prime"] == pytest.approx(2**0.5 * 1.0152, abs=1e-3), "z((84 + 0.5) / 100) = 1.0152"
    assert scores["accuracy_interval"] is None, "one episode says nothing of how they vary"


def test_no_answer_at_all_has_no_score(pairs):
    scores = order_scores(np.full(pairs.distance.shape, np.nan), pairs)
    assert np.isnan(scores["accuracy"])
    assert scores["accuracy_interval"] is None
    assert scores["num_pairs"] == 0
