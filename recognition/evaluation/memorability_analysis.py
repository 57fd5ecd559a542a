"""Does a model remember what people remember? Its answers beside the memorability of the probes.

Presentations of one frame, over all episodes, are taken together, so that a frame has a hit rate and a false-alarm
rate. Frames of one film are alike and films come in all episodes, so intervals take films for the unit: the percentile
bootstrap draws films with all their frames. With few films they are too narrow, as every bootstrap of few units is; a
single film says nothing of others, so it gives none.

Shapes: N episodes, P probes, n frames, F films, R resamples, K bins.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recognition.episodes.dataset import EpisodeDataset
from recognition.evaluation.memorability_file import ProbeScores, read_probe_scores
from recognition.evaluation.signal_detection import (
    auc,
    interval,
    intervals_of_counts,
    resample_episodes,
    scores_of_counts,
)

NUM_BINS = 10
NUM_BARS = 24  # of the histogram
LEAST_FRAMES = 20  # shown in both halves of the episodes, for a reliability
Row = dict[str, Any]


def describe_by_memorability(
    dataset: EpisodeDataset, answer: np.ndarray, folder: Path, find_similarity: Callable[[EpisodeDataset], np.ndarray]
) -> Row | None:
    """What evaluation.json tells of the memorability of a dataset's probes; None where `folder` has no score of them.

    `find_similarity` gives the cosine of every probe with the studied frame nearest to it, (N, P).
    """
    episodes = dataset.episodes
    scores = read_probe_scores(folder, episodes, dataset.index.video_ids)
    if scores is None:
        return None
    return describe_memorability(episodes.probes, episodes.is_old, answer, scores, find_similarity(dataset))


def describe_memorability(
    probes: np.ndarray, is_old: np.ndarray, answer: np.ndarray, scores: ProbeScores, similarity: np.ndarray
) -> Row:
    """What evaluation.json tells of memorability, of the probes that have a score and an answer.

    Args:
        probes: (N, P, 2) [video, frame].
        is_old, answer: (N, P); answers above 0 say "old", nan is a missing one.
        scores: memorability of the probes.
        similarity: (N, P) of each probe to the studied frame nearest to it.

    Returns weights, has_learned, fit, num_probes, num_frames, num_films; `correlations`, a row for each of hit_rate,
    false_alarm_rate, answer_to_old and answer_to_new, see `correlate`; `d_prime`, the rank correlation of d' over bins
    of memorability; `bins` and `histogram`; old_against_new, the share of pairs of an old and a new probe in which the
    old one is more memorable, 0.5 if the episodes favour neither.
    """
    known = ~np.isnan(scores.score) & ~np.isnan(answer)
    score, answer, is_old, similarity = (x[known] for x in (scores.score, answer, is_old == 1, similarity))
    episode = np.broadcast_to(np.arange(len(known))[:, None], known.shape)[known]
    places = np.column_stack([probes[known], scores.alteration[known]])
    frames, first, frame = np.unique(places, axis=0, return_index=True, return_inverse=True)
    shown = _Presentations(answer, is_old, similarity, episode, frame.ravel(), len(frames))
    films, film = np.unique(frames[:, 0], return_inverse=True)  # film of each frame
    resamples = resample_episodes(len(films))
    bounds = np.unique(np.quantile(score, np.arange(1, NUM_BINS) / NUM_BINS))
    level = np.unique(np.searchsorted(bounds, score), return_inverse=True)[1]  # bins between bounds may be empty
    bins, d_prime = score_bins(score, level, is_old, answer > 0, film[shown.frame], resamples)
    edges = np.histogram_bin_edges(score, NUM_BARS)
    return {
        "weights": scores.weights,
        "has_learned": scores.has_learned,
        "fit": scores.fit,
        "num_probes": int(known.sum()),
        "num_frames": len(frames),
        "num_films": len(films),
        "correlations": list(_correlations(shown, score[first], film, resamples)),
        "d_prime": d_prime,
        "bins": bins,
        "old_against_new": auc(score, is_old),
        "histogram": {
            "edge": edges.tolist(),
            **{name: _shares(score[chosen], edges) for name, chosen in (("old", is_old), ("new", ~is_old))},
        },
    }


class _Presentations(NamedTuple):
    """All showings, m, of the probes that have a score."""

    answer: np.ndarray  # (m,), as all of them
    is_old: np.ndarray
    similarity: np.ndarray
    episode: np.ndarray
    frame: np.ndarray  # which of the `num_frames` frames it shows
    num_frames: int

    def mean_of(self, values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Mean of the values (m,) of the chosen presentations of every frame, (n,), nan where there are none."""
        frame = self.frame[chosen]
        total, number = (np.bincount(frame, weight, self.num_frames) for weight in (values[chosen], None))
        with np.errstate(invalid="ignore"):
            return total / number


def _correlations(shown: _Presentations, score: np.ndarray, film: np.ndarray, resamples: np.ndarray) -> Iterator[Row]:
    """A row for each thing that memorability may go with, of frames with a score and a film, (n,) each."""
    says_old, is_old = shown.answer > 0, shown.is_old
    for name, values, chosen in (
        ("hit_rate", says_old, is_old),
        ("false_alarm_rate", says_old, ~is_old),
        ("answer_to_old", shown.answer, is_old),
        ("answer_to_new", shown.answer, ~is_old),
    ):
        mean, near = (shown.mean_of(x, chosen) for x in (values, shown.similarity))
        there = ~np.isnan(mean)
        halves = [shown.mean_of(values, chosen & (shown.episode % 2 == half)) for half in (0, 1)]
        row = correlate(score[there], mean[there], film[there], resamples, near[there])
        yield {"of": name, **row, **reliability(score, *halves)}


def correlate(
    score: np.ndarray, value: np.ndarray, film: np.ndarray, resamples: np.ndarray, covariate: np.ndarray
) -> Row:
    """Spearman's rank correlation of scores and values of frames (n,), each with its interval over films:

    rho: of all frames.
    rho_within: of frames of the same film: ranks within each film, as shares of its frames and less their mean.
    rho_partial: of all frames with the ranks of `covariate` (n,) held constant.

    `film` (n,) counts films from 0 to F - 1; `resamples` (R, F). nan where nothing varies.
    """
    x, y, z = (np.unique(values, return_inverse=True)[1] for values in (score, value, covariate))
    films = np.zeros((len(resamples[0]), 3))
    np.add.at(films, film, _products_within(score, value, film))
    resampled = np.array([_rank_correlations((x, y, z), weight[film]) for weight in resamples])  # (R, 2)
    rho, partial = _rank_correlations((x, y, z), np.ones(len(film)))
    return {
        "num_frames": len(film),
        "rho": rho,
        "rho_interval": interval(resampled[:, 0]),
        "rho_within": float(_ratio(films.sum(0))),
        "rho_within_interval": interval(_ratio(resamples @ films)),
        "rho_partial": partial,
        "rho_partial_interval": interval(resampled[:, 1]),
    }


def reliability(score: np.ndarray, first: np.ndarray, second: np.ndarray) -> Row:
    """How far the values of frames (n,) repeat from one half of the episodes to the other, nan where a half lacks them.

    reliability: of both halves together, from the rank correlation of the halves r as 2 r / (1 + r) (Spearman 1910,
        Brown 1910), and rho_corrected, the rank correlation with the score over its square root (Spearman 1904): what
        it would be with very many presentations. None with fewer than LEAST_FRAMES frames in both halves; the second
        also if the halves do not agree.
    """
    from scipy.stats import spearmanr

    both = ~np.isnan(first) & ~np.isnan(second)
    told: Row = {"num_frames_twice": int(both.sum()), "reliability": None, "rho_corrected": None}
    if both.sum() < LEAST_FRAMES or min(np.ptp(x[both]) for x in (first, second, score)) == 0:
        return told
    halves = spearmanr(first[both], second[both]).statistic
    told["reliability"] = float(2 * halves / (1 + halves)) if halves > -1 else None
    if halves > 0:
        rho = spearmanr(score[both], (first + second)[both]).statistic
        told["rho_corrected"] = float(rho / np.sqrt(told["reliability"]))
    return told


def score_bins(
    score: np.ndarray,
    level: np.ndarray,
    is_old: np.ndarray,
    says_old: np.ndarray,
    film: np.ndarray,
    resamples: np.ndarray,
) -> tuple[list[Row], Row]:
    """Hit rate, false-alarm rate and d' of bins of memorability, and the rank correlation of d' with memorability.

    All arrays are of presentations; `level` counts the bins from 0, and all have some. A row for each bin: memorability
    (the mean), hit_rate, false_alarm_rate, d_prime with their intervals, and num_probes.
    """
    from scipy.stats import rankdata

    num_films, num_bins = resamples.shape[1], int(level.max()) + 1

    def count(chosen: np.ndarray) -> np.ndarray:
        cell = film[chosen] * num_bins + level[chosen]
        return np.bincount(cell, minlength=num_films * num_bins).reshape(num_films, num_bins)

    chosen = says_old & is_old, is_old, says_old & ~is_old, ~is_old
    counts = np.stack([count(part) for part in chosen])  # (4, F, K)
    told = scores_of_counts(*counts.sum(1))
    resampled = scores_of_counts(*(resamples @ part for part in counts))["d_prime"]  # (R, K)
    rows = []
    for number in range(num_bins):
        row: Row = {"memorability": float(score[level == number].mean()), "num_probes": int((level == number).sum())}
        intervals = intervals_of_counts(counts[..., number], resamples)
        for name in ("hit_rate", "false_alarm_rate", "d_prime"):
            row |= {name: float(told[name][number]), f"{name}_interval": intervals[name]}
        rows.append(row)

    def rho(d_prime: np.ndarray) -> np.ndarray:
        """Of d' (..., K) with the order of the bins; nan where a bin has none."""
        rank = rankdata(d_prime, axis=-1, nan_policy="propagate")
        x = np.arange(num_bins) - (num_bins - 1) / 2
        y = rank - rank.mean(-1, keepdims=True)
        return _ratio(np.stack([y @ x, np.full(y.shape[:-1], x @ x), (y**2).sum(-1)], -1))

    if says_old.all() or not says_old.any():  # then d' differs from 0 by its correction alone
        return rows, {"rho": float("nan"), "rho_interval": None}
    return rows, {"rho": float(rho(told["d_prime"])), "rho_interval": interval(rho(resampled))}


def _rank_correlations(groups: Sequence[np.ndarray], weight: np.ndarray) -> tuple[float, float]:
    """Rank correlation of the first two of three variables, and with the third held constant.

    Each is given as the number of the group of equal values, in their order, in which every frame is; a frame counts
    `weight` times. Equal values share the mean of their ranks.
    """
    ranks = []
    for group in groups:
        mass = np.bincount(group, weight)
        ranks.append((np.cumsum(mass) - mass / 2)[group])  # from 0 to the sum of weights, whose half is their mean
    centred = np.stack(ranks) - weight.sum() / 2
    products = (centred * weight) @ centred.T  # (3, 3)
    xy, xz, yz = (float(_ratio(products[[i, i, j], [j, i, j]])) for i, j in ((0, 1), (0, 2), (1, 2)))
    if np.isnan([xz, yz]).any():  # a constant explains nothing
        return xy, xy
    rest = (1 - xz**2) * (1 - yz**2)
    return xy, (xy - xz * yz) / rest**0.5 if rest > 1e-12 else float("nan")


def _products_within(score: np.ndarray, value: np.ndarray, film: np.ndarray) -> np.ndarray:
    """Products xy, xx and yy of ranks within films, as shares of the film's frames less their mean: (n, 3)."""
    from scipy.stats import rankdata

    x, y = np.zeros(len(film)), np.zeros(len(film))
    order = np.argsort(film, kind="stable")
    for inside in np.split(order, np.flatnonzero(np.diff(film[order])) + 1):
        for ranks, values in ((x, score), (y, value)):
            ranks[inside] = (rankdata(values[inside]) - (len(inside) + 1) / 2) / len(inside)
    return np.stack([x * y, x * x, y * y], -1)


def _ratio(products: np.ndarray) -> np.ndarray:
    """Correlations from sums of products (..., 3) xy, xx and yy; nan where one of both does not vary."""
    xy, xx, yy = np.moveaxis(products, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((xx > 1e-9) & (yy > 1e-9), xy / np.sqrt(xx * yy), np.nan)


def _shares(score: np.ndarray, edges: np.ndarray) -> list[float]:
    """Share of the scores in each bar of a histogram."""
    return (np.histogram(score, edges)[0] / max(1, len(score))).tolist()
