"""Controls: the nearest studied frame, against plain loops, with a cut memory, and constant answers."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import write_features

from recognition.episodes.dataset import EpisodeDataset
from recognition.episodes.drawing import EpisodeSpec, draw_episodes, was_shown
from recognition.episodes.index_file import EpisodeIndex, read_index, write_index
from recognition.evaluation.controls import (
    Lookup,
    all_controls,
    always_old,
    chance,
    nearest_frame_similarity,
)
from recognition.evaluation.memories import MEMORIES, WhitenedMemories
from recognition.evaluation.signal_detection import (
    resample_episodes,
    summarise,
    summarise_with_intervals,
)
from recognition.features.feature_bank import FeatureBank
from recognition.training.calibration import best_threshold

SCORES = "accuracy", "hit_rate", "false_alarm_rate", "d_prime", "criterion", "auc"
CPU = torch.device("cpu")
LENGTHS = np.array([60, 67, 80])


def dataset_of(
    folder: Path, old_probes: str = "presented", seed: int = 0, repeat_test: int = 1, num_features: int = 16
) -> EpisodeDataset:
    spec, ids = EpisodeSpec(3, 9, 4, 4, 2, old_probes), [f"film_{k}" for k in range(3)]
    write_features(folder, LENGTHS, num_features)
    write_index(EpisodeIndex(folder / "indices.h5", draw_episodes(LENGTHS, spec, 13, (seed,)), ids, LENGTHS, spec), {})
    return EpisodeDataset(read_index(folder / "indices.h5"), FeatureBank(folder, ids), 2, repeat_test)


@pytest.mark.parametrize("repeat_test", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 50])
def test_similarity_is_the_largest_cosine_with_a_studied_frame(tmp_path, repeat_test, batch_size):
    dataset = dataset_of(tmp_path, "any", repeat_test=repeat_test)
    features = dataset[np.arange(13)].features.double().numpy()
    expected = np.empty((13, 8))
    for n, episode in enumerate(features):
        study, probes = episode[:15], episode[15::repeat_test]
        for p, probe in enumerate(probes):
            cosines = [probe @ frame / np.linalg.norm(probe) / np.linalg.norm(frame) for frame in study]
            expected[n, p] = max(cosines)
    np.testing.assert_allclose(
        nearest_frame_similarity(dataset, CPU, batch_size=batch_size), expected, rtol=0, atol=1e-6
    )


def test_shown_frames_are_as_similar_as_can_be(tmp_path):
    dataset = dataset_of(tmp_path, "any")
    shown = was_shown(dataset.episodes.study, dataset.episodes.probes, 2)
    similarity = nearest_frame_similarity(dataset, CPU)
    np.testing.assert_allclose(similarity[shown], 1, atol=1e-6)
    assert similarity[~shown].max() < 0.99


def test_nearest_frame_is_perfect_where_old_probes_were_shown(tmp_path):
    scores = all_controls(dataset_of(tmp_path / "a", seed=1), dataset_of(tmp_path / "b", seed=2), CPU)["nearest_frame"]
    assert scores["accuracy"] == scores["auc"] == scores["hit_rate"] == 1
    assert scores["false_alarm_rate"] == 0
    assert 0 < scores["threshold"] < 1


def test_threshold_comes_from_validation_alone(tmp_path):
    validation, test = dataset_of(tmp_path / "a", "any", 1), dataset_of(tmp_path / "b", "any", 2)
    scores = all_controls(validation, test, CPU)["nearest_frame"]
    swapped = all_controls(validation, validation, CPU)["nearest_frame"]
    assert scores["threshold"] == swapped["threshold"]
    similarity = nearest_frame_similarity(test, CPU)
    expected = summarise(similarity, test.episodes.is_old, scores["threshold"])
    assert {**scores, **expected, "state_bytes": 4 * 15 * 16} == scores


def alone(validation: EpisodeDataset, test: EpisodeDataset, lookup: Lookup) -> dict:
    """Scores of one control, put together from its similarities."""
    on_validation, on_test = (nearest_frame_similarity(dataset, CPU, lookup) for dataset in (validation, test))
    threshold = best_threshold(on_validation, validation.episodes.is_old)
    is_old, resamples = test.episodes.is_old, resample_episodes(len(test))
    scores = summarise_with_intervals(on_test, is_old, resamples, threshold)
    return {"threshold": threshold, **scores, "state_bytes": lookup.state_bytes(test)}


def test_each_control_of_the_one_pass_equals_the_control_alone(tmp_path):
    validation, test = dataset_of(tmp_path / "a", "any", 1), dataset_of(tmp_path / "b", "any", 2)
    controls = all_controls(validation, test, CPU)
    expected = {
        "chance": chance(test.episodes.is_old),
        "always_old": always_old(test.episodes.is_old),
        "nearest_frame": alone(validation, test, Lookup()),
        "nearest_of_1_frames": alone(validation, test, Lookup(num_kept=1)),
        "nearest_of_4_frames": alone(validation, test, Lookup(num_kept=4)),
        "nearest_in_16_dimensions": alone(validation, test, Lookup(num_dimensions=16)),
    }
    assert controls == expected
    assert [control.get("state_bytes") for control in controls.values()] == [None, None, 960, 64, 256, 960]


def test_one_pass_gathers_every_episode_once(tmp_path, monkeypatch):
    validation, test = dataset_of(tmp_path / "a", seed=1), dataset_of(tmp_path / "b", seed=2)
    gathered, gather = [], EpisodeDataset.__getitem__
    monkeypatch.setattr(EpisodeDataset, "__getitem__", lambda self, n: gathered.extend(n) or gather(self, n))
    all_controls(validation, test, CPU)
    assert gathered == [*range(13), *range(13)]


def test_memories_of_whitened_frames_join_the_controls_and_leave_the_others_as_they_are(tmp_path):
    train, validation, test = (dataset_of(tmp_path / str(k), "any", k, 1, 150) for k in range(3))
    without, controls = all_controls(validation, test, CPU), all_controls(validation, test, CPU, train.bank)
    assert list(controls) == [*without, *MEMORIES]
    assert {name: controls[name] for name in without} == without
    for (name, memory), on_validation, on_test in zip(
        MEMORIES.items(), *(known_by(train, dataset) for dataset in (validation, test)), strict=True
    ):
        threshold, is_old = best_threshold(on_validation, validation.episodes.is_old), test.episodes.is_old
        expected = summarise_with_intervals(on_test, is_old, resample_episodes(len(test)), threshold)
        assert controls[name] == {"threshold": threshold, **expected, "state_bytes": 4 * memory.num_floats}, name


def known_by(train: EpisodeDataset, dataset: EpisodeDataset) -> list[np.ndarray]:
    """How well each memory knows the probes of all episodes, (N, P) each."""
    memories, parts = WhitenedMemories(train.bank, CPU), []
    for first in range(0, len(dataset), 4):
        features = F.normalize(dataset[np.arange(first, min(first + 4, len(dataset)))][0].float(), dim=2)
        parts.append(memories.familiarity(features[:, :15], features[:, 15:]))
    return [torch.cat(part).numpy() for part in zip(*parts, strict=True)]


def test_data_set_with_few_axes_has_no_control_that_needs_more(tmp_path):
    train, validation, test = (dataset_of(tmp_path / str(k), "any", k, 1, 100) for k in range(3))
    controls = all_controls(validation, test, CPU, train.bank)
    assert set(MEMORIES) - set(controls) == {"novelty_filter_128"}
    train, validation, test = (dataset_of(tmp_path / f"few {k}", "any", k) for k in range(3))
    assert all_controls(validation, test, CPU, train.bank) == all_controls(validation, test, CPU)


def test_cut_memory_is_the_same_for_equal_seeds_and_any_batch_size(tmp_path):
    dataset = dataset_of(tmp_path, "any")
    similarity = nearest_frame_similarity(dataset, CPU, Lookup(num_kept=5))
    again = nearest_frame_similarity(dataset, CPU, Lookup(num_kept=5), batch_size=3)
    np.testing.assert_allclose(again, similarity, rtol=0, atol=1e-6)  # sums of other batches round otherwise
    assert not np.allclose(nearest_frame_similarity(dataset, CPU, Lookup(num_kept=5), seed=1), similarity)


def test_cut_memory_finds_no_frame_that_the_whole_does_not(tmp_path):
    dataset = dataset_of(tmp_path, "presented")
    whole = nearest_frame_similarity(dataset, CPU)
    few, more = (nearest_frame_similarity(dataset, CPU, Lookup(num_kept=k)) for k in (2, 10))
    assert (few <= whole + 1e-6).all()
    assert (more <= whole + 1e-6).all()
    is_old = dataset.episodes.is_old == 1
    assert (few[is_old] > 1 - 1e-6).mean() < (more[is_old] > 1 - 1e-6).mean() < 1
    np.testing.assert_allclose(nearest_frame_similarity(dataset, CPU, Lookup(num_kept=15)), whole, rtol=0, atol=1e-6)


def test_projected_similarity_is_the_cosine_of_projected_unit_features(tmp_path):
    dataset = dataset_of(tmp_path, "any")
    features = dataset[np.arange(13)].features.double().numpy()
    features /= np.linalg.norm(features, axis=2, keepdims=True)
    projected = features @ np.random.default_rng((3, 5)).normal(size=(16, 5))
    projected /= np.linalg.norm(projected, axis=2, keepdims=True)
    expected = (projected[:, 15:] @ projected[:, :15].transpose(0, 2, 1)).max(2)
    similarity = nearest_frame_similarity(dataset, CPU, Lookup(num_dimensions=5), seed=3)
    np.testing.assert_allclose(similarity, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", [{"num_kept": 0}, {"num_kept": 16}, {"num_dimensions": 0}])
def test_impossible_memory_is_refused(tmp_path, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        nearest_frame_similarity(dataset_of(tmp_path), CPU, Lookup(**options))


@pytest.mark.parametrize(("is_old", "accuracy"), [([0, 1], 0.5), ([1, 1, 1, 0], 0.75), ([0, 0, 1], 2 / 3), ([1], 1)])
def test_chance_is_the_commoner_answer(is_old, accuracy):
    scores = chance(np.array([is_old] * 3, np.uint8))
    assert scores["accuracy"] == pytest.approx(accuracy)
    assert scores["accuracy_interval"] is None  # the same in every episode, by design


def test_chance_has_an_interval_where_episodes_differ_in_their_old_probes():
    low, high = chance(np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 1, 1]], np.uint8))["accuracy_interval"]
    assert (low, high) == (0.5, 0.75)


def test_every_score_of_a_control_that_can_err_has_an_interval_around_it(tmp_path):
    controls = all_controls(dataset_of(tmp_path / "a", "any", 1), dataset_of(tmp_path / "b", "any", 2), CPU)
    assert {"chance", "always_old", "nearest_frame"} < controls.keys()
    for name, scores in controls.items():
        named = {key for key in scores if f"{key}_interval" in scores}
        assert named == ({"accuracy"} if name == "chance" else {*SCORES}), name
        for key in named:
            if name in ("chance", "always_old"):
                assert scores[f"{key}_interval"] is None
                continue
            low, high = scores[f"{key}_interval"]
            assert low - 1e-9 <= scores[key] <= high + 1e-9, (name, key)


def test_always_old_hits_all_and_has_no_sensitivity():
    scores = always_old(np.array([[1, 0, 1, 0], [0, 0, 1, 1]], np.uint8))
    assert {name: scores[name] for name in ("accuracy", "hit_rate", "false_alarm_rate", "d_prime", "auc")} == {
        "accuracy": 0.5,
        "hit_rate": 1,
        "false_alarm_rate": 1,
        "d_prime": 0,
        "auc": 0.5,
    }
