"""How sure scores of captions are: intervals and differences of runs when films are drawn anew.

The clips of a film are alike, so films are drawn with all their clips (the percentile bootstrap, Efron 1979). CIDEr-D's
weights stay those of all clips. With few films intervals are too narrow, as every bootstrap of few units is.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from captioning.meteor import meteor_of
from captioning.metrics import METRICS, Average, ClipScores, corpus_bleu, summarise

RESAMPLES = 1000
SHARE = 0.95

Interval = tuple[float, float]


def intervals(
    scores: ClipScores, films: Sequence[str], average: Average = "corpus", seed: int = 0
) -> dict[str, Interval | None]:
    """An interval of 95 % for each score that there is; None for all if there are fewer than two films.

    Args:
        scores: of N clips; `films` the film of each.
        average: what `summarise` is told.
    """
    drawn = _draws(films, seed)
    if drawn is None:
        return dict.fromkeys(METRICS)
    return {name: _ends(values) for name, values in _resampled(scores, drawn, average).items()}


def paired_differences(
    scores: ClipScores, others: ClipScores, films: Sequence[str], average: Average = "corpus", seed: int = 0
) -> dict[str, tuple[float, Interval | None]]:
    """For each score that both have: how much the first has more than the other, of the same clips in the same order,
    and the interval of that over films, None if there are fewer than two."""
    told, others_told = summarise(scores, average), summarise(others, average)
    names = [name for name in METRICS if told[name] is not None and others_told[name] is not None]
    drawn = _draws(films, seed)
    if drawn is None:
        return {name: (told[name] - others_told[name], None) for name in names}
    first, second = _resampled(scores, drawn, average), _resampled(others, drawn, average)
    return {name: (told[name] - others_told[name], _ends(first[name] - second[name])) for name in names}


class GroupMeans(NamedTuple):
    """The means of several values over a group of clips, and their intervals, None if one film alone has such clips."""

    num_clips: int
    means: list[float]
    intervals: list[Interval | None]


def group_means(
    values: np.ndarray, groups: Sequence[int], films: Sequence[str], seed: int = 0
) -> dict[int, GroupMeans]:
    """Means over groups of clips, by the groups in their order, with intervals over films; resamples without a film of
    the group are left out.

    Args:
        values: (N, any number), of N clips; `groups` and `films` the group and the film of each.
    """
    drawn = _draws(films, seed)
    found = {}
    for group in sorted(set(groups)):
        is_inside = np.array([other == group for other in groups])
        means = values[is_inside].mean(0).tolist()
        intervals: list[Interval | None] = [None] * len(means)
        if drawn is not None and len(set(drawn.film[is_inside])) > 1:
            num_clips = drawn.total(is_inside.astype(float))
            totals = drawn.total(values * is_inside[:, None])[num_clips > 0]
            intervals = [_ends(column) for column in (totals / num_clips[num_clips > 0, None]).T]
        found[group] = GroupMeans(int(is_inside.sum()), means, intervals)
    return found


class _Draws(NamedTuple):
    """How often each film is there in each resample, and which film each clip is of."""

    counts: np.ndarray  # (RESAMPLES, F)
    film: np.ndarray  # (N,)

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sums of clips' values (N, ...) over each resample (R, ...)."""
        of_film = np.zeros((self.counts.shape[1], *values.shape[1:]))
        np.add.at(of_film, self.film, values)
        return self.counts @ of_film

    def mean(self, values: np.ndarray) -> np.ndarray:
        num_clips = self.total(np.ones(len(values)))
        return self.total(values) / num_clips.reshape(-1, *[1] * (values.ndim - 1))


def _draws(films: Sequence[str], seed: int) -> _Draws | None:
    """Films drawn as often as there are; None if there are fewer than two."""
    _, film = np.unique(np.asarray(films), return_inverse=True)
    num_films = int(film.max()) + 1
    if num_films < 2:
        return None
    rng = np.random.default_rng(seed)
    return _Draws(rng.multinomial(num_films, np.full(num_films, 1 / num_films), RESAMPLES).astype(float), film)


def _resampled(scores: ClipScores, drawn: _Draws, average: Average) -> dict[str, np.ndarray]:
    """Each score in each resample (R,)."""
    is_corpus = average == "corpus"
    bleu = corpus_bleu(drawn.total(scores.bleu)) if is_corpus else drawn.mean(corpus_bleu(scores.bleu))
    found = dict(zip(METRICS, bleu.T, strict=False))
    found |= {"rouge_l": drawn.mean(scores.rouge_l), "cider_d": drawn.mean(scores.cider_d)}
    if isinstance(scores.meteor, str):
        return found
    counts = scores.meteor
    return found | {"meteor": meteor_of(drawn.total(counts)) if is_corpus else drawn.mean(meteor_of(counts))}


def _ends(values: np.ndarray) -> Interval:
    low, high = np.quantile(values, [(1 - SHARE) / 2, (1 + SHARE) / 2]).tolist()
    return low, high
