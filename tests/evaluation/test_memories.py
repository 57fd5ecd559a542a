"""Memories of fixed size without learning: each by hand on few axes, and whitened by the training films alone."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import write_features
from torch import Tensor

from recognition.evaluation.memories import (
    MEMORIES,
    NUM_UNITS,
    RIDGE,
    WhitenedMemories,
    bloom,
    hebbian,
    novelty_filter,
    sum_of_frames,
)
from recognition.features.feature_bank import FeatureBank
from recognition.features.geometry import whitened, whitening

CPU = torch.device("cpu")
STUDY = torch.tensor([[[1.0, 0, 0], [1, 0, 0], [0.6, 0.8, 0]]])  # three frames along three axes, (1, 3, 3)
PROBES = torch.eye(3)[None]
# The sum of k k' is [[2.36, 0.48, 0], [0.48, 0.64, 0], [0, 0, 0]].


def test_novelty_filter_is_as_worked_by_hand():
    """With the ridge of 0.1 the matrix is [[2.46, 0.48], [0.48, 0.74]] and 0.1, its inverse with swapped diagonal."""
    assert RIDGE == 0.1
    determinant = 2.46 * 0.74 - 0.48**2
    expected = [-0.1 * 0.74 / determinant, -0.1 * 2.46 / determinant, -1]  # nothing of the third axis was shown
    torch.testing.assert_close(novelty_filter(STUDY, PROBES), torch.tensor([expected]))


def test_hebbian_memory_adds_up_squared_products_with_all_frames():
    torch.testing.assert_close(hebbian(STUDY, PROBES), torch.tensor([[2.36, 0.64, 0]]))
    probe = torch.tensor([[[0.8, 0.6, 0]]])
    expected = 2 * 0.8**2 + (0.6 * 0.8 + 0.8 * 0.6) ** 2
    torch.testing.assert_close(hebbian(STUDY, probe), torch.tensor([[expected]]))


def test_sum_of_frames_is_asked_by_a_product():
    torch.testing.assert_close(sum_of_frames(STUDY, PROBES), torch.tensor([[2.6, 0.8, 0]]))


def test_bloom_filter_keeps_the_most_that_each_of_the_active_units_was_excited():
    rng = torch.Generator().manual_seed(0)
    study, probes = (F.normalize(torch.randn(2, num, 7, generator=rng), dim=2) for num in (5, 4))
    units = np.random.default_rng((0, NUM_UNITS)).normal(size=(7, NUM_UNITS))
    units /= np.linalg.norm(units, axis=0)
    expected = np.empty((2, 4))
    for b in range(2):
        state = np.zeros(NUM_UNITS)
        for frame in study[b].double().numpy() @ units:
            active = np.argsort(frame)[-4:]
            state[active] = np.maximum(state[active], frame[active])
        for p, probe in enumerate(probes[b].double().numpy() @ units):
            expected[b, p] = state[np.argsort(probe)[-4:]].mean()
    np.testing.assert_allclose(bloom(study, probes), expected, atol=1e-6)
    shown = bloom(study, study)
    assert (shown > bloom(study, probes).max()).all()


@pytest.mark.parametrize("name", MEMORIES)
def test_memory_knows_studied_frames_in_any_order_and_one_episode_from_another(name):
    memory, rng = MEMORIES[name], torch.Generator().manual_seed(1)
    study = F.normalize(torch.randn(3, 20, memory.num_axes, generator=rng), dim=2)
    known = memory.familiarity(study, study)
    torch.testing.assert_close(memory.familiarity(study.flip(1), study), known)
    torch.testing.assert_close(memory.familiarity(study[1:2], study[1:2]), known[1:2])
    assert known.mean() > memory.familiarity(study, study.roll(1, 0)).mean()


def test_novelty_filter_separates_as_well_after_many_frames():
    """The ridge stands beside a sum of 20,000 frames: where rounding ate it, new axes would pass for known ones."""
    study = F.normalize(torch.randn(1, 20_000, 63, generator=torch.Generator().manual_seed(2)), dim=2)
    study = F.pad(study, (0, 1))  # nothing along the last axis
    known, new = novelty_filter(study, torch.eye(64)[None])[0].split([63, 1])
    assert new.item() == pytest.approx(-1, abs=1e-4)
    assert known.min() > -1e-3


def bank_of(folder: Path, num_features: int, *lengths: int) -> FeatureBank:
    return FeatureBank(write_features(folder, lengths, num_features), [f"film_{k}" for k in range(len(lengths))])


def unit_frames(bank: FeatureBank, num: int) -> Tensor:
    return F.normalize(bank.gather(np.zeros(num, int), np.arange(num)).float(), dim=1)[None]


def test_memories_read_the_first_whitened_axes_of_the_training_films(tmp_path):
    train, test = bank_of(tmp_path / "a", 140, 200, 150), bank_of(tmp_path / "b", 140, 60)
    memories = WhitenedMemories(train, CPU)
    assert list(memories.memories) == list(MEMORIES)
    study, probes = unit_frames(test, 40), unit_frames(test, 60)
    for (name, memory), found in zip(MEMORIES.items(), memories.familiarity(study, probes), strict=True):
        by_itself = (whitened(frames, *whitening(train, memory.num_axes)) for frames in (study, probes))
        torch.testing.assert_close(found, memory.familiarity(*by_itself), rtol=1e-4, atol=1e-4, msg=name)


def test_memories_that_read_more_axes_than_there_are_are_left_out(tmp_path):
    fewer = WhitenedMemories(bank_of(tmp_path / "a", 100, 150, 80), CPU)
    assert set(MEMORIES) - set(fewer.memories) == {"novelty_filter_128"}
    few = WhitenedMemories(bank_of(tmp_path / "b", 100, 40, 20), CPU)  # 60 frames have 59 axes
    assert (few.memories, few.familiarity(torch.ones(1, 3, 100), torch.ones(1, 2, 100))) == ({}, [])


def test_floats_kept_are_those_of_a_symmetric_matrix_a_code_and_a_sum():
    assert {name: 4 * memory.num_floats for name, memory in MEMORIES.items()} == {
        "novelty_filter_64": 4 * math.comb(65, 2),
        "novelty_filter_128": 4 * math.comb(129, 2),
        "hebbian_64": 8_320,
        "bloom_512": 2_048,
        "sum_64": 256,
    }
