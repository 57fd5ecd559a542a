"""The studied frame nearest to a probe, by the cosine of their features.

Shapes: B episodes, S study frames, P probes, D features.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from recognition.episodes.dataset import EpisodeDataset


def nearest_study_frame(
    dataset: EpisodeDataset, episode_numbers: Sequence[int] | np.ndarray, device: torch.device, batch_size: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """The studied frame nearest to every probe of n episodes: cosine similarity and position, (n, P) each.

    A position counts the study frames in order of presentation, from 0 to S - 1.
    """
    similarity, position = [], []
    for _, study, probes in unit_batches(dataset, np.asarray(episode_numbers), device, batch_size):
        nearest = (probes @ study.transpose(1, 2)).max(2)  # (B, P, S) to (B, P)
        similarity.append(nearest.values.cpu())
        position.append(nearest.indices.cpu())
    return torch.cat(similarity).numpy(), torch.cat(position).numpy()


def unit_batches(
    dataset: EpisodeDataset, episode_numbers: np.ndarray, device: torch.device, batch_size: int
) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """Batches of episodes with features of unit length: numbers (B,), study (B, S, D), each probe once (B, P, D)."""
    with _full_precision():
        for first in tqdm(range(0, len(episode_numbers), batch_size), "nearest frame", unit="batch", leave=False):
            number = episode_numbers[first : first + batch_size]
            features = F.normalize(dataset[number].features.to(device).float(), dim=2)  # (B, T, D)
            num_study_frames = dataset.num_study_frames
            yield number, features[:, :num_study_frames], features[:, num_study_frames :: dataset.repeat_test]


@contextmanager
def _full_precision() -> Iterator[None]:
    """Multiply in full float32 also on GPUs: TF32 would blur just what tells a frame from its neighbours."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
