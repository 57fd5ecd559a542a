"""Captions that look at nothing, or at features alone: what a captioner must beat before anything can be concluded."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from captioning.captions import Caption
from captioning.cider import CiderD
from captioning.metrics import tokens
from recognition.common.command_line import InputError, one_line
from recognition.common.files import is_there
from recognition.features.feature_file import DamagedFile, map_features, read_header, read_times

MOST_CANDIDATES, MOST_CLIPS = 200, 1000  # of the best constant caption
AT_ONCE = 1024  # clips whose likeness to all others is held


def commonest(captions: Sequence[str]) -> str:
    """The caption that most clips have; of equals the first."""
    return Counter(captions).most_common(1)[0][0]


def best_constant(captions: Sequence[str], seed: int = 0) -> str:
    """The caption that says the most of training clips if it is said of each: that of the highest CIDEr-D.

    Tried are up to MOST_CANDIDATES of them, the commonest first and by chance among equals, on up to MOST_CLIPS clips.
    """
    rng = np.random.default_rng(seed)
    counts = Counter(captions)
    distinct = rng.permutation(np.array(sorted(counts), object)).tolist()
    candidates = sorted(distinct, key=lambda text: -counts[text])[:MOST_CANDIDATES]
    clips = rng.permutation(np.array(captions, object))[:MOST_CLIPS].tolist()
    scorer = CiderD([[tokens(text)] for text in clips])
    return max(candidates, key=lambda text: float(scorer.of_constant(tokens(text)).mean()))


def shuffled(captions: Sequence[str], seed: int = 0) -> list[str]:
    """The same captions, each of another clip."""
    order = np.random.default_rng(seed).permutation(len(captions))
    found = list(captions)
    for place, other in zip(order.tolist(), np.roll(order, 1).tolist(), strict=True):
        found[place] = captions[other]
    return found


def nearest_captions(features: np.ndarray, trained: np.ndarray, captions: Sequence[str]) -> list[str]:
    """For clips with features (N, D) the captions of the training clips, with features (M, D), that are the nearest by
    cosine; of equals the first."""
    unit, others = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (features, trained))
    parts = [unit[start : start + AT_ONCE] @ others.T for start in range(0, len(unit), AT_ONCE)]
    return [captions[number] for part in parts for number in part.argmax(1).tolist()]


def clip_features(captions: Sequence[Caption], folder: Path) -> np.ndarray:
    """The mean feature of each clip's frames: (N, D) float64. Raises InputError for a film without a whole feature file
    and for a clip without frames."""
    films: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    means = []
    for row in captions:
        if row.film not in films:
            films[row.film] = _film(row, folder / f"{row.film}.h5")
        features, times = films[row.film]
        first, end = np.searchsorted(times, [row.start_s, row.end_s])
        end = np.searchsorted(times, row.end_s, side="right")
        if first == end:
            raise InputError(f"{row.place}: {row.film} has no frame from {row.start_s:g} to {row.end_s:g} s")
        means.append(np.asarray(features[first:end], np.float64).mean(0))
    if wrong := next((row for row, mean in zip(captions, means, strict=True) if len(mean) != len(means[0])), None):
        raise InputError(f"{wrong.place}: features of {wrong.film} are of another backbone than the first film's")
    return np.stack(means)


def _film(row: Caption, path: Path) -> tuple[np.ndarray, np.ndarray]:
    if not is_there(path):
        raise InputError(f"{row.place}: there is no feature file {path}")
    try:
        read_header(path)
    except DamagedFile as error:
        raise InputError(f"{row.place}: {one_line(str(error))}") from None
    return map_features(path), read_times(path)
