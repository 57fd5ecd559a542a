"""The nearest studied frame: for a probe that was shown, that is the frame itself."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_features

from recognition.episodes.dataset import EpisodeDataset
from recognition.episodes.drawing import EpisodeSpec, draw_episodes, study_frames
from recognition.episodes.index_file import EpisodeIndex
from recognition.episodes.nearest import nearest_study_frame
from recognition.features.feature_bank import FeatureBank

CPU = torch.device("cpu")
LENGTHS = np.array([60, 67, 80])


def dataset_of(folder: Path, repeat_test: int = 1) -> EpisodeDataset:
    """13 episodes of 3 clips whose old probes were shown."""
    spec, ids = EpisodeSpec(3, 9, 4, 4, 2, "presented"), [f"film_{k}" for k in range(3)]
    index = EpisodeIndex(folder, draw_episodes(LENGTHS, spec, 13, (0,)), ids, LENGTHS, spec)
    return EpisodeDataset(index, FeatureBank(write_features(folder, LENGTHS), ids), 2, repeat_test)


@pytest.mark.parametrize("batch_size", [1, 4, 50])
@pytest.mark.parametrize("repeat_test", [1, 3])
def test_position_of_the_nearest_frame_is_that_of_the_shown_frame_itself(tmp_path, repeat_test, batch_size):
    dataset, numbers = dataset_of(tmp_path, repeat_test), np.array([7, 2, 11, 12, 0])
    similarity, position = nearest_study_frame(dataset, numbers, CPU, batch_size)
    shown = study_frames(dataset.episodes.study[numbers], 2)  # (5, S, 2)
    nearest = np.take_along_axis(shown, position[..., None], 1)
    is_old = dataset.episodes.is_old[numbers] == 1
    np.testing.assert_array_equal(nearest[is_old], dataset.episodes.probes[numbers][is_old])
    np.testing.assert_allclose(similarity[is_old], 1, rtol=0, atol=1e-6)


def test_no_studied_frame_is_nearer_than_the_nearest(tmp_path):
    dataset = dataset_of(tmp_path)
    similarity, position = nearest_study_frame(dataset, range(13), CPU)
    features = dataset[np.arange(13)].features.double().numpy()
    features /= np.linalg.norm(features, axis=2, keepdims=True)
    cosine = features[:, 15:] @ features[:, :15].transpose(0, 2, 1)  # (13, P, S)
    np.testing.assert_allclose(similarity, cosine.max(2), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(position, cosine.argmax(2))


def test_precision_of_products_is_left_as_it_was(tmp_path):
    torch.set_float32_matmul_precision("high")
    try:
        nearest_study_frame(dataset_of(tmp_path), [0], CPU)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
