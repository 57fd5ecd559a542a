"""Studied films without a file: features that change gradually within a shot, as films' do."""

from collections.abc import Sequence

import numpy as np


class StudiedByHand:
    """As `Studied`; `asked_for` counts how often features of each film were wanted."""

    def __init__(self, lengths: Sequence[int], fps: float = 10.0, shot: int = 40, width: int = 24, seed: int = 0):
        self.names, self.num_features = [f"film_{k}" for k in range(len(lengths))], width
        self.digests = [f"{seed}-{k}-{length}" for k, length in enumerate(lengths)]
        self.all, self.rate, self.shot = (
            [made(length, shot, width, (seed, k)) for k, length in enumerate(lengths)],
            fps,
            shot,
        )
        self.asked_for = [0] * len(lengths)

    def fps(self, film: int) -> float:
        return self.rate

    def times(self, film: int) -> np.ndarray:
        return 0.5 + np.arange(len(self.all[film])) / self.rate

    def shots(self, film: int) -> np.ndarray:
        return np.arange(0, len(self.all[film]), self.shot)

    def features(self, film: int, frames: np.ndarray) -> np.ndarray:
        self.asked_for[film] += 1
        return self.all[film][frames]


def made(length: int, shot: int, width: int, seed: tuple[int, int]) -> np.ndarray:
    """Features of a film, (length, width) float16: a place for each shot, and a walk within it."""
    rng = np.random.default_rng(seed)
    place = np.repeat(rng.normal(size=(-(-length // shot), width)), shot, 0)[:length]
    walk = np.concatenate(
        [np.cumsum(rng.normal(scale=0.08, size=(shot, width)), 0) for _ in range(-(-length // shot))]
    )[:length]
    return np.abs(place + walk).astype(np.float16)
