"""Self-supervised pre-training with the memory predictor on made-up moving shapes, a short form of the benchmark."""

import itertools

import pytest
import torch

from benchmarks import pretraining
from benchmarks.pretraining import DIRECTIONS, draw_clips, num_classes, pretrain, probe, shapes


def test_clips_show_one_shape_moving_as_their_label_says():
    label = torch.arange(num_classes())
    clips = draw_clips(label, torch.Generator().manual_seed(0), noise=0)[:, 0]  # (B, T, S, S)
    for number, clip in enumerate(clips):
        direction = DIRECTIONS[number % len(DIRECTIONS)].tolist()
        for before, after in itertools.pairwise(clip):
            assert torch.equal(before.roll(direction, (0, 1)), after)
        assert (clip[0] > clip[0].mean()).sum() == shapes()[number // len(DIRECTIONS)].sum()


def test_two_clips_of_one_label_differ_in_place_and_brightness():
    clips = draw_clips(torch.zeros(64, dtype=torch.int64), torch.Generator().manual_seed(0), noise=0)[:, 0, 0]
    assert len({clip.argmax().item() for clip in clips}) > 32
    assert clips.amin((1, 2)).std() > 0.05


def test_memory_predictor_teaches_an_encoder_at_least_as_much_as_a_perceptron_without_collapse(monkeypatch):
    monkeypatch.setattr(pretraining, "BATCH_SIZE", 64)
    random, perceptron, (memory, deviation) = (
        probe(pretrain(name, 200, seed=0), seed=0) for name in ("random", "perceptron", "memory")
    )
    assert random[0] > 1.5 / num_classes()
    assert memory > random[0] + 0.2
    assert memory >= perceptron[0]
    assert deviation == pytest.approx(0.8, abs=0.3)  # 0 if all clips were alike
