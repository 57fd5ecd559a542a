"""Where in studied films a clip is: its frames vote for how much earlier or later they stand there, as in the detection
of copies. A clip and its copy run at the same pace, so all frames of the copy vote alike.

Shapes: Q frames of a clip, N rows of a store, V votes, D features.
"""

from dataclasses import dataclass

import numpy as np
import torch

from recognition.streaming.search.look_up import nearest_rows
from recognition.streaming.search.store import Store, unit
from recognition.streaming.search.studied import Studied

NUM_VOTES = 20  # of each frame, for the places most like it
BIN_S = 0.5  # of offsets; votes count for the bins beside theirs too
REACH_S = 1.5  # how far from the votes' offset the exact one is looked for
AS_GOOD = 0.75  # of the way from usual similarity to the best of all films, from which on a frame agrees
LEAST = 0.5  # of the clip's best frame, in the same measure


@dataclass(frozen=True)
class Stretch:
    """A part of a clip and a part of a film that show the same.

    Attributes:
        film: its number.
        start_s, end_s: in the film.
        asked_start_s, asked_end_s: in the clip: the first frame that agrees and the last, of those asked about.
        similarity: mean cosine of frames that agree.
        num_agreeing: frames of the clip, within this stretch, which are about as similar to the frame that stands at
            their place as to any of all films.
        frame, time_s: of the film, at the place of the middle one of them.
        asked_frames: which of the clip's frames lie within the stretch.
    """

    film: int
    start_s: float
    end_s: float
    asked_start_s: float
    asked_end_s: float
    similarity: float
    num_agreeing: int
    frame: int
    time_s: float
    asked_frames: slice


@dataclass(frozen=True)
class _Asked:
    """A clip: its frames, of unit length (Q, D), their times, their usual similarity and that of their best rows."""

    features: np.ndarray
    times_s: np.ndarray
    usual: np.ndarray
    best: np.ndarray


def find_stretches(
    store: Store, studied: Studied, features: np.ndarray, times_s: np.ndarray, num: int
) -> list[Stretch]:
    """The stretches most like a clip, at most `num`, those in which most frames agree first; none overlaps a better one
    of its film. features (Q, D) and times (Q,) of its frames, ascending, in seconds."""
    queries = unit(features)
    frames, rows, cosines = _votes(store, queries)
    best = np.full(len(queries), -1.0)
    np.maximum.at(best, frames, cosines)
    asked = _Asked(queries, np.asarray(times_s, float), queries @ store.usual, best)
    weights = _above_usual(cosines, asked.usual[frames])
    offsets = store.time_s[rows] - asked.times_s[frames]
    found = []
    for film, offset_s in _elected(frames, store.film[rows], offsets, weights, num):
        if aligned := _aligned(studied, film, offset_s, asked):
            found.append(aligned)
    found.sort(key=lambda pair: -pair[0])
    kept: list[Stretch] = []
    for _, stretch in found:
        others = (other for other in kept if other.film == stretch.film)
        if all(stretch.end_s < other.start_s or other.end_s < stretch.start_s for other in others):
            kept.append(stretch)
    return kept


def _votes(store: Store, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows most like each frame, none less like it than the row before or behind: numbers of frames, rows and
    cosines, (V,) each."""
    votes = []
    last = len(store.film) - 1
    for frame, best in enumerate(nearest_rows(store, queries, 4 * NUM_VOTES)):
        around = np.stack([np.maximum(best - 1, 0), best, np.minimum(best + 1, last)])
        cosines = (store.features[torch.from_numpy(around)].float() @ torch.from_numpy(queries[frame])).numpy()
        is_peak = ((cosines[1] >= cosines) | (store.film[around] != store.film[best])).all(0)
        votes.append((np.full(is_peak.sum(), frame), best[is_peak], cosines[1, is_peak]))
    frames, rows, of_rows = (np.concatenate([part[:NUM_VOTES] for part in parts]) for parts in zip(*votes, strict=True))
    return frames, rows, of_rows


def _above_usual(cosine: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """0 for a similarity as any frame has it, 1 for the same frame; not below 0."""
    return np.maximum((cosine - usual) / np.maximum(1 - usual, 1e-6), 0)


def _elected(
    frames: np.ndarray, films: np.ndarray, offsets_s: np.ndarray, weights: np.ndarray, num: int
) -> list[tuple[int, float]]:
    """Films and offsets with most votes, at most `num`, none beside a better one of its film. All (V,).

    A frame has one vote for an offset, its weightiest.
    """
    own = np.floor(offsets_s / BIN_S).astype(np.int64)
    ballots = np.concatenate([np.stack([films, own + beside, frames], 1) for beside in (-1, 0, 1)])
    weights = np.tile(weights, 3)
    order = np.lexsort((*ballots.T[::-1],))
    ballots, weights = ballots[order], weights[order]
    of_frame = np.flatnonzero(np.diff(ballots, axis=0, prepend=-1 - ballots[:1]).any(1))
    ballots, weights = ballots[of_frame], np.maximum.reduceat(weights, of_frame)
    of_bin = np.flatnonzero(np.diff(ballots[:, :2], axis=0, prepend=-1 - ballots[:1, :2]).any(1))
    sums = np.add.reduceat(weights, of_bin)
    elected: list[tuple[int, float]] = []
    for film, offset_bin in ballots[of_bin[np.argsort(-sums, kind="stable")], :2].tolist():
        offset_s = (offset_bin + 0.5) * BIN_S
        if all(film != other or abs(offset_s - other_s) > REACH_S for other, other_s in elected):
            elected.append((film, offset_s))
            if len(elected) == num:
                break
    return elected


def _aligned(studied: Studied, film: int, offset_s: float, asked: _Asked) -> tuple[float, Stretch] | None:
    """The stretch of a film at the offset near to this one at which the clip is most like it, and its weight; None if
    no frame agrees. All frames of the film are looked at."""
    times_s = studied.times(film)
    ends = asked.times_s[[0, -1]] + offset_s + np.array([-REACH_S, REACH_S])
    first, stop = np.searchsorted(times_s, ends).tolist()
    first, stop = max(0, first - 1), min(len(times_s), stop + 1)
    near_s = times_s[first:stop]
    rows = torch.from_numpy(unit(studied.features(film, np.arange(first, stop))))
    cosine = (torch.from_numpy(asked.features) @ rows.T).numpy()  # (Q, frames)
    step_s = float(np.median(np.diff(near_s))) if len(near_s) > 1 else 1.0
    offsets = offset_s + np.arange(-REACH_S, REACH_S + step_s / 2, max(step_s, 0.005))
    wanted_s = asked.times_s + offsets[:, None]  # (offsets, Q)
    places = nearest(near_s, wanted_s)
    is_there = np.abs(near_s[places] - wanted_s) <= 2 * step_s  # not beyond the ends of the film
    closeness = np.where(is_there, _above_usual(cosine[np.arange(len(cosine)), places], asked.usual), 0)
    # What does not belong to it must not have a say in where it is.
    closeness[closeness < AS_GOOD * _above_usual(asked.best, asked.usual)] = 0
    best = int(closeness.sum(1).argmax())
    place, agreeing = places[best], closeness[best]
    agrees = (agreeing > 0) & (agreeing >= LEAST * agreeing.max())
    if not agrees.any():
        return None
    begin, end = densest(agrees)
    chosen = begin + np.flatnonzero(agrees[begin:end])
    middle = int(place[chosen[len(chosen) // 2]])
    stretch = Stretch(
        film=film,
        start_s=float(near_s[place[chosen[0]]]),
        end_s=float(near_s[place[chosen[-1]]]),
        asked_start_s=float(asked.times_s[chosen[0]]),
        asked_end_s=float(asked.times_s[chosen[-1]]),
        similarity=float(cosine[chosen, place[chosen]].mean()),
        num_agreeing=len(chosen),
        frame=first + middle,
        time_s=float(near_s[middle]),
        asked_frames=slice(int(chosen[0]), int(chosen[-1]) + 1),
    )
    return float(agreeing[chosen].sum()), stretch


def nearest(times_s: np.ndarray, wanted_s: np.ndarray) -> np.ndarray:
    """Places in times, ascending, of those nearest to others: like `wanted_s`."""
    after = np.clip(np.searchsorted(times_s, wanted_s), 1, max(1, len(times_s) - 1))
    after = np.minimum(after, len(times_s) - 1)
    before = np.maximum(after - 1, 0)
    return np.where(wanted_s - times_s[before] <= times_s[after] - wanted_s, before, after)


def densest(is_in: np.ndarray) -> tuple[int, int]:
    """Begin and end of the run of answers (Q,) with the largest surplus of yes over no; of several that which ends
    last, and of these the longest."""
    total = np.concatenate([[0], np.cumsum(np.where(is_in, 1, -1))])
    lowest = np.minimum.accumulate(total)[:-1]
    surplus = total[1:] - lowest
    end = len(surplus) - int(np.argmax(surplus[::-1]))
    begin = int(np.argmin(total[:end]))
    return begin, end
