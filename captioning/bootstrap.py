"""How sure scores of captions are: intervals and differences of runs when films are drawn anew.

The clips of a film are alike, so films are drawn with all their clips (the percentile bootstrap, Efron 1979). CIDEr-D's
weights stay those of all clips. With few films intervals are too narrow, as every bootstrap of few units is.
"""

from collections.abc import Sequence

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


def _draws(films: Sequence[str], seed: int) -> np.ndarray | None:
    """How often each clip is there in each resample, (RESAMPLES, N), as often as its film was drawn; None if there are
    fewer than two films."""
    _, number = np.unique(np.asarray(films), return_inverse=True)
    num_films = int(number.max()) + 1
    if num_films < 2:
        return None
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_films, np.full(num_films, 1 / num_films), RESAMPLES)[:, number]


def _resampled(scores: ClipScores, drawn: np.ndarray, average: Average) -> dict[str, np.ndarray]:
    """Each score in each resample (R,)."""
    num_clips = drawn.sum(1)
    if average == "corpus":
        bleu = corpus_bleu(drawn @ scores.bleu)
    else:
        bleu = drawn @ corpus_bleu(scores.bleu) / num_clips[:, None]
    found = dict(zip(METRICS, bleu.T, strict=False))
    found |= {"rouge_l": drawn @ scores.rouge_l / num_clips, "cider_d": drawn @ scores.cider_d / num_clips}
    if not isinstance(scores.meteor, str):
        corpus = average == "corpus"
        found["meteor"] = meteor_of(drawn @ scores.meteor) if corpus else drawn @ meteor_of(scores.meteor) / num_clips
    return found


def _ends(values: np.ndarray) -> Interval:
    low, high = np.quantile(values, [(1 - SHARE) / 2, (1 + SHARE) / 2]).tolist()
    return low, high
