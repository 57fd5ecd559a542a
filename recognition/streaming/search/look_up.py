"""Where in studied films frames like one are: first among the rows of a store, all of them, then frame by frame around
the best ones.

Shapes: Q frames asked about, N rows, D features.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from recognition.streaming.search.store import Store, unit
from recognition.streaming.search.studied import Studied

BLOCK_ROWS = 2048  # in full precision at a time: they stay in a core's cache
AT_ONCE = 1 << 26  # similarities held at a time, 256 MB
APART_S = 3.0  # places of a film that are nearer to each other are one
MOST_A_PLACE = 10  # rows that are looked through for each place wanted


class Place(NamedTuple):
    """A frame of a studied film, and how much it is like the one asked about: the cosine of their features."""

    film: int
    frame: int
    time_s: float
    similarity: float


def similarities(store: Store, asked: np.ndarray) -> Iterator[np.ndarray]:
    """Cosines with all rows, (N,), of one frame after the other of those asked about, of unit length (Q, D). Exact, of
    the rows as they are stored."""
    block = torch.empty(BLOCK_ROWS, store.features.shape[1])
    for queries in torch.from_numpy(asked).split(max(1, AT_ONCE // max(1, len(store.frame)))):
        similarity = torch.empty(len(queries), len(store.frame))
        for first in range(0, len(store.frame), BLOCK_ROWS):
            part = store.features[first : first + BLOCK_ROWS]
            rows = block[: len(part)].copy_(part)
            similarity[:, first : first + len(part)] = queries @ rows.T
        yield from similarity.numpy()


def nearest_rows(store: Store, asked: np.ndarray, num: int) -> Iterator[np.ndarray]:
    """The rows most similar to each frame of unit length (Q, D), at most `num`, the most similar first."""
    if store.lists is not None:
        yield from store.lists.nearest(asked, num)
    else:
        yield from (most_similar(similarity, num) for similarity in similarities(store, asked))


def most_similar(similarity: np.ndarray, num: int) -> np.ndarray:
    """The rows with the largest of some similarities (N,), the most similar first; of equal ones the first first."""
    num = min(num, len(similarity))
    least = np.partition(similarity, -num)[-num]
    rows = np.flatnonzero(similarity >= least)
    return rows[np.lexsort((rows, -similarity[rows]))[:num]]


def find_places(store: Store, studied: Studied, asked: np.ndarray, num: int) -> list[list[Place]]:
    """The places most like each frame (Q, D), at most `num` each, the most similar first. Of places within APART_S of a
    film only the best is told."""
    asked, found = unit(asked), []
    for query, rows in zip(asked, nearest_rows(store, asked, MOST_A_PLACE * num), strict=True):
        chosen = rows[apart(store.film[rows], store.time_s[rows], num)]
        places = [_refined(store, studied, int(row), query) for row in chosen]
        places.sort(key=lambda place: (-place.similarity, place.film, place.frame))
        film, time_s = (np.array([getattr(place, name) for place in places]) for name in ("film", "time_s"))
        found.append([places[k] for k in apart(film, time_s, num)])
    return found


def apart(film: Sequence[int] | np.ndarray, time_s: Sequence[float] | np.ndarray, num: int) -> list[int]:
    """Which of some places, the best first, to keep: at most `num`, none within APART_S of a better one that is."""
    kept: list[int] = []
    times: dict[int, list[float]] = {}
    for place, (its_film, its_time) in enumerate(zip(film, time_s, strict=True)):
        others = times.setdefault(int(its_film), [])
        if len(kept) < num and all(abs(its_time - other) > APART_S for other in others):
            others.append(float(its_time))
            kept.append(place)
    return kept


def _refined(store: Store, studied: Studied, row: int, query: np.ndarray) -> Place:
    """The frame most like a query (D,), of all within APART_S of a row, and of all to the rows beside it: of those for
    which it stands, as rows near to a better one are passed over."""
    film = int(store.film[row])
    times_s = studied.times(film)
    beside = [near for near in (row - 1, row, row + 1) if 0 <= near < len(store.film) and store.film[near] == film]
    first, last = np.searchsorted(times_s, store.time_s[row] + np.array([-APART_S, APART_S])).tolist()
    first = min(first, int(store.frame[beside[0]])) if beside[0] < row else 0
    last = max(last, int(store.frame[beside[-1]])) if beside[-1] > row else len(times_s) - 1
    frames = np.arange(first, min(last + 1, len(times_s)))
    similarity = unit(studied.features(film, frames)) @ query
    best = int(similarity.argmax())
    return Place(film, int(frames[best]), float(times_s[frames[best]]), float(similarity[best]))
