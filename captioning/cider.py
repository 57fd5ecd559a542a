"""CIDEr-D: how alike captions are to references, words that many references have counting little.

Vedantam, Zitnick and Parikh 2015, arXiv 1411.5726; with the choices of coco-caption, whose numbers papers give.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

MOST_WORDS = 4  # of an n-gram
SIGMA = 6.0  # of the penalty for another length, in bigrams

Words = tuple[str, ...]


class CiderD:
    """Scores captions of N clips against their references.

    The weight of an n-gram is tf * (log N - log max(1, df)), df the number of clips of which a reference has it: so it
    takes a corpus, not several references. Against a single clip every weight, and so every score, is 0.

    Args:
        references: of each clip, one or more, in tokens.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]):
        grams = [[_grams(reference) for reference in of_clip] for of_clip in references]
        self._clips_with = Counter(gram for of_clip in grams for gram in set().union(*of_clip))
        self._log_num = math.log(max(len(references), 1))
        self._references = [[self._vector(counts) for counts in of_clip] for of_clip in grams]

    def scores(self, hypotheses: Sequence[Sequence[str]]) -> np.ndarray:
        """CIDEr-D of a caption, in tokens, for each clip (N,), from 0 to 10; the corpus has the mean."""
        return np.array([self.score(words, number) for number, words in enumerate(hypotheses)], float)

    def score(self, hypothesis: Sequence[str], number: int) -> float:
        """CIDEr-D of a caption, in tokens, for one clip: 0 where it has no words."""
        return self._likeness(self._vector(_grams(hypothesis)), self._references[number])

    def of_constant(self, hypothesis: Sequence[str]) -> np.ndarray:
        """CIDEr-D of one caption, in tokens, for every clip (N,)."""
        vector = self._vector(_grams(hypothesis))
        return np.array([self._likeness(vector, of_clip) for of_clip in self._references], float)

    @staticmethod
    def _likeness(vector: "_Vector", references: Sequence["_Vector"]) -> float:
        return 10 * sum(vector.likeness(reference) for reference in references) / len(references)

    def _vector(self, counts: Counter[Words]) -> "_Vector":
        weights = {
            gram: count * (self._log_num - math.log(max(1, self._clips_with[gram]))) for gram, count in counts.items()
        }
        return _Vector(weights, sum(count for gram, count in counts.items() if len(gram) == 2))


class _Vector:
    """The weights of a caption's n-grams, those of each length with their norm."""

    def __init__(self, weights: dict[Words, float], num_bigrams: int):
        self.num_bigrams = num_bigrams
        self.by_length: list[dict[Words, float]] = [{} for _ in range(MOST_WORDS)]
        for gram, weight in weights.items():
            self.by_length[len(gram) - 1][gram] = weight
        self.norms = [math.sqrt(sum(weight**2 for weight in part.values())) for part in self.by_length]

    def likeness(self, reference: "_Vector") -> float:
        """Mean over lengths of the clipped cosine, less the longer or shorter this is than the reference: 0 to 1."""
        total = 0.0
        for mine, its, norm, its_norm in zip(
            self.by_length, reference.by_length, self.norms, reference.norms, strict=True
        ):
            if norm and its_norm:
                common = sum(min(weight, its[gram]) * its[gram] for gram, weight in mine.items() if gram in its)
                total += common / (norm * its_norm)
        delta = self.num_bigrams - reference.num_bigrams
        return total / MOST_WORDS * math.exp(-(delta**2) / (2 * SIGMA**2))


def _grams(words: Sequence[str]) -> Counter[Words]:
    return Counter(
        tuple(words[start : start + length])
        for length in range(1, MOST_WORDS + 1)
        for start in range(len(words) - length + 1)
    )
