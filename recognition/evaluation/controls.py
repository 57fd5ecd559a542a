"""Controls: what answers without learning reach on the same episodes, with intervals where chance has a part in it.

Shapes: N episodes, B of them in a batch, S study frames, P probes, T = S + P * R with R showings of each probe,
D features, K frames kept.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recognition.episodes.dataset import EpisodeDataset
from recognition.episodes.nearest import unit_batches
from recognition.evaluation.memories import WhitenedMemories
from recognition.evaluation.signal_detection import (
    COUNTED,
    interval,
    resample_episodes,
    summarise,
    summarise_with_intervals,
)
from recognition.features.feature_bank import FeatureBank
from recognition.training.calibration import best_threshold

KEPT_SHARES = (1 / 16, 1 / 4)  # of the study frames, in the controls with a cut memory
NUM_DIMENSIONS = 16  # in the control with a coarse memory


class Lookup(NamedTuple):
    """What a nearest-frame control keeps of the study phase; None keeps all. Both can be given at once.

    num_kept: remember so many study frames, drawn anew for each episode by (seed, episode number).
    num_dimensions: compare after a projection of unit-length features onto so many random directions, drawn by
        (seed, num_dimensions) and the same for all episodes.
    """

    num_kept: int | None = None
    num_dimensions: int | None = None

    def state_bytes(self, dataset: EpisodeDataset) -> int:
        """Bytes of its memory in float32; the projection itself is the same for all episodes and is not counted."""
        num_frames = self.num_kept or dataset.num_study_frames
        return 4 * num_frames * (self.num_dimensions or dataset.bank.num_features)


def nearest_frame_similarity(
    dataset: EpisodeDataset, device: torch.device, lookup: Lookup = Lookup(), batch_size: int = 4, seed: int = 0
) -> np.ndarray:
    """Cosine similarity of every probe to the remembered frame nearest to it: (N, P), from -1 to 1.

    Raises ValueError if `lookup` keeps no frame, more than there are, or no dimension.
    """
    return _answers(dataset, device, [lookup], None, batch_size, seed)[0]


def nearest_frame_at(threshold: float, dataset: EpisodeDataset, device: torch.device) -> dict[str, Any]:
    """Scores of the nearest-frame control with a threshold found before, for other episodes of the same films."""
    similarity = nearest_frame_similarity(dataset, device)
    scores = summarise_with_intervals(similarity, dataset.episodes.is_old, resample_episodes(len(dataset)), threshold)
    return {"threshold": threshold, **scores, "state_bytes": Lookup().state_bytes(dataset)}


def all_controls(
    validation_set: EpisodeDataset,
    test_set: EpisodeDataset,
    device: torch.device,
    training_films: FeatureBank | None = None,
) -> dict[str, dict[str, Any]]:
    """Scores on test of every control by its name. The episodes of each set are gathered once.

    Those with a memory say "old" if a remembered frame is near enough, or if the memory knows the probe well enough,
    the threshold being the best one on validation; `state_bytes` is the size of their memory. Those of `MEMORIES` read
    features whitened by `training_films`, and are left out where these are not given or have too few axes.
    """
    num_study_frames = test_set.num_study_frames
    lookups = {"nearest_frame": Lookup()}
    for share in KEPT_SHARES:
        num_kept = max(1, round(share * num_study_frames))
        lookups[f"nearest_of_{num_kept}_frames"] = Lookup(num_kept=num_kept)
    lookups[f"nearest_in_{NUM_DIMENSIONS}_dimensions"] = Lookup(num_dimensions=NUM_DIMENSIONS)
    whitened = None if training_films is None else WhitenedMemories(training_films, device)
    sizes = {name: lookup.state_bytes(test_set) for name, lookup in lookups.items()}
    sizes |= {name: 4 * memory.num_floats for name, memory in whitened.memories.items()} if whitened else {}

    on_validation, on_test = (
        _answers(dataset, device, list(lookups.values()), whitened) for dataset in (validation_set, test_set)
    )
    is_old, resamples = test_set.episodes.is_old, resample_episodes(len(test_set))
    controls = {"chance": chance(is_old), "always_old": always_old(is_old)}
    for (name, num_bytes), validation_answer, answer in zip(sizes.items(), on_validation, on_test, strict=True):
        threshold = best_threshold(validation_answer, validation_set.episodes.is_old)
        scores = summarise_with_intervals(answer, is_old, resamples, threshold)
        controls[name] = {"threshold": threshold, **scores, "state_bytes": num_bytes}
    return controls


def chance(is_old: np.ndarray) -> dict[str, Any]:
    """Accuracy of always giving the commoner answer to is_old (N, P).

    No interval where as many probes are old in every episode: then it is so by design.
    """
    share, resampled = np.mean(is_old), resample_episodes(len(is_old)) @ np.mean(is_old, axis=1) / len(is_old)
    return {
        "accuracy": float(max(share, 1 - share)),
        "accuracy_interval": interval(np.maximum(resampled, 1 - resampled)),
    }


def always_old(is_old: np.ndarray) -> dict[str, Any]:
    """Scores of always saying "old" to is_old (N, P): every old probe is hit and every new one is a false alarm.

    There is nothing to estimate, so no score has an interval. d' is 0 with as many old as new probes, else nearly so
    (its correction leaves z(1 - 1 / 2n) apart). Raises ValueError if there are no old or no new probes.
    """
    scores = summarise(np.ones(is_old.shape), is_old)
    return {**scores, **{f"{name}_interval": None for name in (*COUNTED, "auc")}}


def _answers(
    dataset: EpisodeDataset,
    device: torch.device,
    lookups: Sequence[Lookup],
    whitened: WhitenedMemories | None = None,
    batch_size: int = 4,
    seed: int = 0,
) -> list[np.ndarray]:
    """Graded answers to all probes, (N, P) each, gathering batches once: of each lookup the similarity to the nearest
    remembered frame, then of each memory of whitened frames how well it knows the probe."""
    for lookup in lookups:
        if lookup.num_kept is not None and not 1 <= lookup.num_kept <= dataset.num_study_frames:
            raise ValueError(f"num_kept: {lookup.num_kept} is not between 1 and {dataset.num_study_frames}")
        if lookup.num_dimensions is not None and lookup.num_dimensions < 1:
            raise ValueError(f"num_dimensions: {lookup.num_dimensions} is below 1")
    projections = [_projection(dataset.bank.num_features, lookup.num_dimensions, seed, device) for lookup in lookups]
    batches = []
    for number, study, probes in unit_batches(dataset, np.arange(len(dataset)), device, batch_size):
        answers = []
        for lookup, projection in zip(lookups, projections, strict=True):
            kept, asked = study, probes
            if lookup.num_kept is not None:
                places = _kept_places(number, dataset.num_study_frames, lookup.num_kept, seed).to(device)  # (B, K)
                kept = study.take_along_dim(places[..., None], 1)  # (B, K, D)
            if projection is not None:
                kept, asked = F.normalize(kept @ projection, dim=2), F.normalize(probes @ projection, dim=2)
            answers.append((asked @ kept.transpose(1, 2)).amax(2))  # (B, P, K) to (B, P)
        answers += whitened.familiarity(study, probes) if whitened else []
        batches.append([answer.cpu() for answer in answers])
    return [torch.cat(parts).numpy() for parts in zip(*batches, strict=True)]


def _kept_places(episode_numbers: np.ndarray, num_study_frames: int, num_kept: int, seed: int) -> Tensor:
    """Places of the study frames that are remembered, ascending and distinct: (B, K)."""
    draws = [np.random.default_rng((seed, n)).choice(num_study_frames, num_kept, False) for n in episode_numbers]
    return torch.from_numpy(np.sort(np.stack(draws), 1))


def _projection(num_features: int, num_dimensions: int | None, seed: int, device: torch.device) -> Tensor | None:
    """Random directions (D, num_dimensions), Gaussian; their scale cancels in cosines. None where none are wanted."""
    if num_dimensions is None:
        return None
    directions = np.random.default_rng((seed, num_dimensions)).normal(size=(num_features, num_dimensions))
    return torch.from_numpy(directions).float().to(device)
