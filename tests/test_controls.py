"""Controls: the nearest studied frame, against plain loops, and chance."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_features

from recognition.controls import chance, nearest_frame, nearest_frame_similarity
from recognition.dataset import EpisodeDataset
from recognition.episodes import EpisodeSpec, draw_episodes, was_shown
from recognition.feature_bank import FeatureBank
from recognition.index_file import read_index, write_index
from recognition.signal_detection import summarise

CPU = torch.device("cpu")
LENGTHS = np.array([60, 67, 80])


def dataset_of(folder: Path, old_probes: str = "presented", seed: int = 0, repeat_test: int = 1) -> EpisodeDataset:
    spec, ids = EpisodeSpec(3, 9, 4, 4, 2, old_probes), [f"film_{k}" for k in range(3)]
    write_features(folder, LENGTHS)
    write_index(folder / "indices.h5", draw_episodes(LENGTHS, spec, 13, (seed,)), ids, LENGTHS, spec, {})
    return EpisodeDataset(read_index(folder / "indices.h5"), FeatureBank(folder, ids), 2, repeat_test)


@pytest.mark.parametrize("repeat_test", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 50])
def test_similarity_is_the_largest_cosine_with_a_studied_frame(tmp_path, repeat_test, batch_size):
    dataset = dataset_of(tmp_path, "any", repeat_test=repeat_test)
    features = dataset[np.arange(13)][0].double().numpy()
    expected = np.empty((13, 8))
    for n, episode in enumerate(features):
        study, probes = episode[:15], episode[15::repeat_test]
        for p, probe in enumerate(probes):
            cosines = [probe @ frame / np.linalg.norm(probe) / np.linalg.norm(frame) for frame in study]
            expected[n, p] = max(cosines)
    np.testing.assert_allclose(nearest_frame_similarity(dataset, CPU, batch_size), expected, rtol=0, atol=1e-6)


def test_shown_frames_are_as_similar_as_can_be(tmp_path):
    dataset = dataset_of(tmp_path, "any")
    shown = was_shown(dataset.episodes.study, dataset.episodes.probes, 2)
    similarity = nearest_frame_similarity(dataset, CPU)
    np.testing.assert_allclose(similarity[shown], 1, atol=1e-6)
    assert similarity[~shown].max() < 0.99


def test_nearest_frame_is_perfect_where_old_probes_were_shown(tmp_path):
    scores = nearest_frame(dataset_of(tmp_path / "a", seed=1), dataset_of(tmp_path / "b", seed=2), CPU)
    assert scores["accuracy"] == scores["auc"] == scores["hit_rate"] == 1
    assert scores["false_alarm_rate"] == 0
    assert 0 < scores["threshold"] < 1


def test_threshold_comes_from_validation_alone(tmp_path):
    validation, test = dataset_of(tmp_path / "a", "any", 1), dataset_of(tmp_path / "b", "any", 2)
    scores = nearest_frame(validation, test, CPU)
    swapped = nearest_frame(validation, validation, CPU)
    assert scores["threshold"] == swapped["threshold"]
    similarity = nearest_frame_similarity(test, CPU)
    expected = summarise(similarity, test.episodes.is_old, scores["threshold"])
    assert scores == {"threshold": scores["threshold"], **expected}


@pytest.mark.parametrize(("is_old", "accuracy"), [([0, 1], 0.5), ([1, 1, 1, 0], 0.75), ([0, 0, 1], 2 / 3), ([1], 1)])
def test_chance_is_the_commoner_answer(is_old, accuracy):
    assert chance(np.array(is_old, np.uint8)) == {"accuracy": pytest.approx(accuracy)}
