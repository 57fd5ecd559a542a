"""How far temporal gates were open: are clips for which they were open remembered better?

Shapes: N episodes, P probes, C clips of an episode as a layer cuts them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from recognition.episodes.dataset import EpisodeDataset
from recognition.evaluation.pages import Told
from recognition.evaluation.retention import source_places
from recognition.evaluation.scores import share_right
from recognition.evaluation.signal_detection import answered, resample_episodes

Row = dict[str, Any]


def describe(dataset: EpisodeDataset, answer: np.ndarray, layers: Sequence[Told]) -> list[Row]:
    """A row for each layer of gates, which told its openness (N, C) and how many study frames its clips have.

    Each row has its mean, and the share of right answers to old probes of clips above that mean and of those up to it:
    accuracy_open, accuracy_shut.
    """
    if not layers:
        return []
    resamples, places = resample_episodes(len(dataset)), source_places(dataset)
    old, _ = answered(answer, dataset.episodes.is_old)
    rows = []
    for layer in layers:
        openness = layer.found["openness"]
        is_open = np.take_along_axis(openness, places // layer.about["clip_frames"], 1) > openness.mean()  # (N, P)
        shares = share_right("open", answer > 0, old & is_open, resamples)
        shares |= share_right("shut", answer > 0, old & ~is_open, resamples)
        rows.append({"openness": float(openness.mean()), **shares})
    return rows


def other_settings(described: list[Row], dataset: EpisodeDataset, score: Callable) -> list[Row]:
    """There are none to try."""
    return []


def figures(described: list[Row]) -> dict[str, Figure]:
    """The table says it all."""
    return {}
