"""Places in films: intervals of frames, drawn from uniformly, and the shots they lie in. Index arithmetic only."""

from collections.abc import Sequence

import numpy as np

NOWHERE = 1 << 40  # where an interval is that is not there


class Places:
    """Frames of F films as disjoint intervals [begin, stop), film after film; empty where stop is not after begin.

    Args:
        begins, stops: of all intervals, in any shape.
        counts: (F,) how many of them each film has, 1 or more.
    """

    def __init__(self, begins: np.ndarray, stops: np.ndarray, counts: np.ndarray):
        lengths = np.maximum(stops - begins, 0).ravel()
        self._upto = np.cumsum(lengths)  # frames in these intervals and all before, of all films
        self._shift = begins.ravel() - (self._upto - lengths)
        upto_film = self._upto[np.cumsum(counts) - 1]
        self.size = np.diff(upto_film, prepend=0)  # (F,) frames of each film
        self._first = upto_film - self.size

    def draw(self, film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A frame of each of these films (R,), uniformly; all must have some."""
        place = self._first[film] + rng.integers(0, self.size[film])
        return place + self._shift[np.searchsorted(self._upto, place, side="right")]


class Shots:
    """The shots of V films, to look up where the shot of a frame begins and ends.

    Args:
        num_frames: (V,) lengths of the films.
        starts: for each film the first frames of its shots, ascending from 0.
    """

    def __init__(self, num_frames: np.ndarray, starts: Sequence[np.ndarray]):
        self._num_frames = num_frames
        self._film = np.cumsum(num_frames) - num_frames  # first frames of the films, put one after the other
        self._counts = np.array([len(film) for film in starts])
        self._begins = np.concatenate(starts)
        self._edges = np.append(self._begins + np.repeat(self._film, self._counts), num_frames.sum())

    def shot_start(self, video: np.ndarray, frame: np.ndarray) -> np.ndarray:
        """First frame of the shot that holds a frame."""
        first = self._film[video]
        return self._edges[np.searchsorted(self._edges, first + frame, side="right") - 1] - first

    def shot_stop(self, video: np.ndarray, frame: np.ndarray) -> np.ndarray:
        """The frame after the last of the shot that holds a frame."""
        first = self._film[video]
        return self._edges[np.searchsorted(self._edges, first + frame, side="right")] - first

    def starts_without_cut(self, length: int) -> Places:
        """Where so many frames in a row can begin that lie in one shot."""
        return Places(self._begins, self._stops - length + 1, self._counts)

    def starts_with_cut(self, length: int) -> Places:
        """Where so many frames in a row can begin that lie in several shots."""
        begins = np.maximum(self._begins, self._stops - length + 1)
        last = np.repeat(self._num_frames, self._counts) - length
        return Places(begins, np.minimum(self._stops, last + 1), self._counts)

    @property
    def _stops(self) -> np.ndarray:
        return self._begins + np.diff(self._edges)


def merge(lows: np.ndarray, width: int, limit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The parts of [0, limit) that the intervals [low, low + width) cover, as disjoint ones.

    lows (R, K) ascending, NOWHERE where there is none; limit (R,). Returns where they begin and how many places they
    cover, (R, K) each.
    """
    highs = np.minimum(lows + width, limit[:, None])
    begins = np.clip(lows, 0, limit[:, None])
    np.maximum(begins[:, 1:], highs[:, :-1], out=begins[:, 1:])
    return begins, np.maximum(highs - begins, 0)


def step_over(place: np.ndarray, begins: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """The place-th free places (R,) as places among all, given what `merge` returned."""
    for begin, num_covered in zip(begins.T, covered.T, strict=True):
        place = place + np.where(place >= begin, num_covered, 0)
    return place
