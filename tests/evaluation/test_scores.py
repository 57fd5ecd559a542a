"""What is told of answers to a set of episodes: which files are other lengths, which numbers JSON can say."""

import json
from pathlib import Path

import numpy as np
import pytest

from recognition.episodes.dataset import EpisodeDataset
from recognition.episodes.index_file import read_index
from recognition.evaluation.scores import (
    capacity,
    capacity_files,
    describe_answers,
    film_rates,
    is_other_length,
    seconds_per_episode,
    without_nan,
)
from recognition.evaluation.signal_detection import (
    COUNTED,
    resample_episodes,
    summarise,
    summarise_with_intervals,
)
from recognition.features.feature_bank import FeatureBank


@pytest.fixture
def dataset(small_bank: Path) -> EpisodeDataset:
    index = read_index(small_bank / "test_indices.h5")
    return EpisodeDataset(index, FeatureBank(small_bank, index.video_ids), 2)


def test_description_holds_all_scores_and_says_nothing_that_json_cannot(dataset: EpisodeDataset, small_bank: Path):
    answer = np.random.default_rng(0).normal(size=dataset.episodes.is_old.shape)
    told = describe_answers(dataset, answer, small_bank)
    expected = summarise(answer, dataset.episodes.is_old)
    assert {name: told[name] for name in expected} == expected
    assert (told["num_episodes"], told["num_clips"], told["num_study_frames"]) == (8, 3, 15)
    assert told["n_shown"] + told["n_between"] == told["n_old"]
    json.dumps(without_nan(told), allow_nan=False)


def test_threshold_changes_what_is_called_calibrated_and_nothing_else(dataset: EpisodeDataset, small_bank: Path):
    is_old = dataset.episodes.is_old
    answer = np.random.default_rng(0).normal(size=is_old.shape) + is_old + 2
    plain, told = (describe_answers(dataset, answer, small_bank, threshold) for threshold in (None, 2.5))
    assert plain.pop("calibrated") is None
    calibrated = told.pop("calibrated")
    assert without_nan(told) == without_nan(plain)
    expected = summarise_with_intervals(answer, is_old, resample_episodes(len(answer)), 2.5)
    names = [f"{name}{end}" for name in COUNTED for end in ("", "_interval")]
    assert calibrated == {"threshold": 2.5, **{name: expected[name] for name in names}}
    assert calibrated["accuracy"] > plain["accuracy"]


def test_description_of_a_model_that_never_says_old_has_no_slope(dataset: EpisodeDataset, small_bank: Path):
    told = without_nan(describe_answers(dataset, np.full(dataset.episodes.is_old.shape, -1.0), small_bank))
    assert told["zroc"]["slope"] is None
    assert told["zroc"]["slope_interval"] is None
    assert told["hit_rate"] == told["false_alarm_rate"] == 0


def test_rates_of_films_are_those_of_their_files_or_none(dataset: EpisodeDataset, small_bank: Path, tmp_path: Path):
    assert film_rates(dataset, small_bank).tolist() == [30.0] * len(dataset.index.video_ids)
    assert film_rates(dataset, tmp_path) is None


def test_capacity_files_are_those_of_the_same_suffix_alone_by_number(tmp_path: Path):
    names = ["test_indices_x_20clips.h5", "test_indices_x_5clips.h5", "test_indices_x.h5"]
    for name in [*names, "test_indices_5clips.h5", "test_indices_x_lures.h5", "test_indices_x_y_5clips.h5"]:
        (tmp_path / name).touch()
    found = capacity_files(tmp_path / "test_indices_x.h5")
    assert [path.name for path in found] == ["test_indices_x_5clips.h5", "test_indices_x_20clips.h5"]
    assert capacity_files(tmp_path / "test_indices_y.h5") == []
    assert capacity_files(tmp_path / "absent" / "test_indices.h5") == []


def test_published_data_set_has_no_capacity_curve(dataset: EpisodeDataset):
    assert is_other_length(dataset, dataset)
    published = EpisodeDataset(read_index(dataset.index.path), dataset.bank, 2)
    object.__setattr__(published.index, "spec", None)
    assert not is_other_length(published, dataset)
    assert capacity({"other_episodes": []}) == []


def test_only_numbers_that_are_not_finite_become_null():
    tree = {"a": [1.5, float("nan"), (float("inf"), 2)], "b": None, "c": "nan", "d": True}
    assert without_nan(tree) == {"a": [1.5, None, [None, 2]], "b": None, "c": "nan", "d": True}


def test_seconds_of_an_episode_are_those_of_the_middle_epoch_over_its_episodes():
    metrics = [{"epoch": k, "step": 30 * k, "seconds": seconds} for k, seconds in ((1, 90.0), (2, 12.0), (3, 15.0))]
    assert seconds_per_episode(metrics, batch_size=4) == 15 / 120
    assert seconds_per_episode([], batch_size=4) is None
