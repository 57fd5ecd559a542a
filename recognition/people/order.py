"""Which of two studied frames came first: the second test of Zheng et al. 2022 (doi 10.1038/s41593-022-01020-w).

A third of the pairs are frames of one clip a quarter of it apart, a third half of it apart, a third of two clips. Where
clips were drawn by kind, the middle of the clip, where `other_film` is cut, lies between the frames of all pairs within
clips, so that the kinds differ in what is there alone. Frames are those that are shown, and distances count these.

Shapes: N episodes, Q pairs of each, S study frames, P probes, R resamples.
"""

from copy import copy
from typing import Any, NamedTuple

import numpy as np

from recognition.episodes.dataset import EpisodeDataset
from recognition.episodes.drawing import Episodes, study_frames
from recognition.episodes.episode_spec import CLIP_KINDS
from recognition.evaluation.signal_detection import rate_interval, resample_episodes, z_rate

SPANS = (1 / 4, 1 / 2)  # of a clip, from one frame of a pair to the other
PAIRS_SEED = (0, 4)  # of the generator for pairs, so that models are asked about the same as people
BETWEEN = -1  # in place of a clip and of its kind
Row = dict[str, Any]


class Pairs(NamedTuple):
    """Pairs of studied frames of N episodes."""

    first: np.ndarray  # (N, Q, 2) int32 [video, frame], the one studied earlier
    second: np.ndarray  # (N, Q, 2)
    distance: np.ndarray  # (N, Q) frames shown from the first to the second
    clip: np.ndarray  # (N, Q) place of the clip with both frames, counted from 0; BETWEEN for frames of two clips
    clip_kind: np.ndarray  # (N, Q) its place in CLIP_KINDS; BETWEEN also where clips were not drawn by kind
    is_first_left: np.ndarray  # (N, Q) bool, on which side the first is shown: as often left as right

    @property
    def is_within(self) -> np.ndarray:
        """Whether both frames lie in one clip, (N, Q)."""
        return self.clip != BETWEEN


def draw_pairs(dataset: EpisodeDataset, rng: np.random.Generator, num_pairs: int) -> Pairs:
    """Draw `num_pairs` pairs of every episode's studied frames, in random order; features are not read.

    A longer data set begins with the pairs of a shorter one. Raises ValueError if clips show a single frame.
    """
    if dataset.clip_frames < 2:
        raise ValueError("clips that show a single frame have no pairs of frames")
    clip_kind = dataset.index.clip_kind
    drawn = []
    for number, study in enumerate(dataset.episodes.study):
        places, clip = _draw_places(dataset.num_clips, dataset.clip_frames, num_pairs, clip_kind is not None, rng)
        kind = np.full(num_pairs, BETWEEN)
        if clip_kind is not None:
            kind = np.where(clip != BETWEEN, clip_kind[number][clip].astype(int), BETWEEN)
        first, second = study_frames(study, dataset.subsample)[places.T]  # (Q, 2) each
        distance = places[:, 1] - places[:, 0]
        drawn.append((first, second, distance, clip, kind, _sides(kind, distance, clip, rng)))
    return Pairs(*map(np.stack, zip(*drawn, strict=True)))


def asked_about(dataset: EpisodeDataset, pairs: Pairs) -> EpisodeDataset:
    """The same episodes with the frames of pairs as their probes, the left and the right one of each pair in turn:
    P = 2 Q. Where probes write, the second of a pair comes after what the first has left behind, which favours neither,
    as sides are balanced."""
    left = np.where(pairs.is_first_left[..., None], pairs.first, pairs.second)
    right = np.where(pairs.is_first_left[..., None], pairs.second, pairs.first)
    num_episodes, num_pairs = pairs.distance.shape
    probes = np.stack([left, right], 2).reshape(num_episodes, 2 * num_pairs, 2).astype(np.int32)
    asked = copy(dataset)
    is_old = np.ones(probes.shape[:2], np.uint8)
    asked.episodes, asked.asked = Episodes(dataset.episodes.study, probes, is_old, np.zeros_like(is_old)), None
    return asked


def says_first_earlier(place: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Whether an answer that calls the probe of the lower `place` (N, 2 Q) the earlier one is right, (N, Q) float: 1 or
    0, and 1/2 where both have one place, as a coin would decide. Probes are those of `asked_about`."""
    left, right = place[:, 0::2], place[:, 1::2]
    first, second = np.where(pairs.is_first_left, left, right), np.where(pairs.is_first_left, right, left)
    return np.where(first == second, 0.5, first < second)


def order_scores(says_first: np.ndarray, pairs: Pairs, resamples: np.ndarray | None = None) -> Row:
    """Scores of answers (N, Q) that call the first frame the earlier one: 1, or 0, 1/2 for a coin's, nan for none.

    accuracy, d_prime, their intervals from the bootstrap over episodes (see `signal_detection`), num_pairs; and rows
    with the same:
    by_distance: is_within, distance_frames_from, distance_frames_to, in bins that double, pairs of one clip first.
    by_clip_kind: kind, of the pairs within clips; empty where clips were not drawn by kind.

    d' of a choice between two is sqrt(2) z(accuracy), of an accuracy corrected as in `signal_detection.d_prime`
    (Macmillan and Creelman 2005, Detection Theory, chapter 7). Its interval is that of the accuracy, through the same
    formula. What has no answers is nan, its interval None.
    """
    resamples = resample_episodes(len(says_first)) if resamples is None else resamples
    is_within, doubling = pairs.is_within, np.log2(pairs.distance).astype(int)
    by_distance = []
    for within in (True, False):
        for number in np.unique(doubling[is_within == within]).tolist():
            limits = {"distance_frames_from": 2**number, "distance_frames_to": 2 ** (number + 1) - 1}
            chosen = (is_within == within) & (doubling == number)
            by_distance.append({"is_within": within, **limits, **_scores(says_first, chosen, resamples)})
    by_clip_kind = [
        {"kind": CLIP_KINDS[number], **_scores(says_first, is_within & (pairs.clip_kind == number), resamples)}
        for number in np.unique(pairs.clip_kind[pairs.clip_kind != BETWEEN]).tolist()
    ]
    everything = np.ones(says_first.shape, bool)
    return {
        **_scores(says_first, everything, resamples),
        "by_distance": by_distance,
        "by_clip_kind": by_clip_kind,
    }


def _draw_places(
    num_clips: int, clip_frames: int, num_pairs: int, straddles: bool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Places of pairs among the study frames, (Q, 2) ascending, and their clips (Q,) or BETWEEN; around the middle of
    clips if that is asked for."""
    gaps = [max(1, round(share * clip_frames)) for share in SPANS]
    spans = [*gaps, 0] if num_clips > 1 else gaps  # no distance within a clip: of two clips
    gap = rng.permutation(np.resize(spans, num_pairs))
    half = clip_frames // 2
    low = np.maximum(0, half - gap) if straddles else np.zeros_like(gap)
    high = np.minimum(half, clip_frames - gap) if straddles else clip_frames - gap
    rounds = [rng.permutation(num_clips) for _ in range(-(-num_pairs // num_clips))]  # no clip twice while others wait
    clip = np.empty(num_pairs, int)
    clip[np.argsort(gap == 0, kind="stable")] = np.concatenate(rounds)[:num_pairs]
    other = (clip + rng.integers(1, max(2, num_clips), num_pairs)) % num_clips
    start = clip * clip_frames + rng.integers(np.where(gap > 0, low, 0), np.where(gap > 0, high, clip_frames))
    elsewhere = other * clip_frames + rng.integers(0, clip_frames, num_pairs)
    places = np.sort(np.stack([start, np.where(gap > 0, start + gap, elsewhere)], 1), axis=1)
    return places, np.where(gap > 0, clip, BETWEEN)


def _sides(kind: np.ndarray, distance: np.ndarray, clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Left for half of all pairs, and of those of each kind of clip and distance within them: (Q,) bool."""
    order = np.lexsort((rng.random(len(kind)), np.where(clip == BETWEEN, 0, distance), kind))
    is_left = np.empty(len(kind), bool)
    is_left[order] = np.arange(len(kind)) % 2 == rng.integers(2)
    return is_left


def _scores(says_first: np.ndarray, chosen: np.ndarray, resamples: np.ndarray) -> Row:
    asked = chosen & ~np.isnan(says_first)
    right, total = np.where(asked, says_first, 0).sum(1), asked.sum(1)
    with np.errstate(invalid="ignore"):
        ends = rate_interval(right, total, resamples)
        accuracy = float(np.divide(right.sum(), total.sum()))
    d_prime = [_d_prime(rate, int(total.sum())) for rate in (accuracy, *(ends or ()))]
    return {
        "accuracy": accuracy,
        "accuracy_interval": ends,
        "d_prime": d_prime[0],
        "d_prime_interval": d_prime[1:] or None,
        "num_pairs": int(total.sum()),
    }


def _d_prime(accuracy: float, num_pairs: int) -> float:
    return float(np.sqrt(2) * z_rate(np.asarray(accuracy * num_pairs), np.asarray(num_pairs)))
