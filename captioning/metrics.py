"""Scores of captions as the field has them: BLEU, ROUGE-L, CIDEr-D, and METEOR where Java is at hand.

Tokens are those of the Penn treebank, in small letters and without punctuation, as in coco-caption. All scores are as
their definitions have them, from 0 to 1, and CIDEr-D to 10; papers print a hundred times that.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from captioning.cider import CiderD
from captioning.meteor import meteor_counts, meteor_of
from recognition.common.command_line import InputError

# A bracket is in small letters when it is compared with these, so "-lrb-" stays among the tokens, as in coco-caption.
MARKS = {"''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"}
METRICS = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d", "meteor")
BETA = 1.2  # of ROUGE-L: how much recall outweighs precision

Average = Literal["corpus", "clips"]


@dataclass(frozen=True)
class ClipScores:
    """What N captions add to the scores of a corpus."""

    bleu: np.ndarray  # (N, 10): right n-grams of 1 to 4 words, all n-grams of 1 to 4, words, words of the reference
    rouge_l: np.ndarray  # (N,)
    cider_d: np.ndarray  # (N,), its weights those of all N
    meteor: np.ndarray | str  # (N, 23), what its program counts of each; or why there is none


def tokens(text: str) -> list[str]:
    """The words of a caption that are compared. Raises InputError if nltk is not installed."""
    words = _tokenizer().tokenize(text.lower(), convert_parentheses=True)
    return [word for word in map(str.lower, words) if word not in MARKS]


def score_corpus(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    average: Average = "corpus",
    with_meteor: bool = True,
) -> dict[str, Any]:
    """Scores of the captions of N clips: bleu_1 to bleu_4, rouge_l, cider_d, meteor; the last is None where it could
    not be computed, and meteor_note then says what it needs.

    Args:
        hypotheses: a caption a clip; one without words scores 0.
        references: one or more of each clip.
        average: over clips the means of the clips' own BLEU and METEOR stand in place of the corpus's. ROUGE-L and
            CIDEr-D are means either way, and CIDEr-D's weights always those of the corpus: a clip alone has none.
        with_meteor: Java takes seconds.

    Raises InputError if nltk or sacrebleu is not installed.
    """
    return summarise(clip_scores(hypotheses, references, with_meteor), average)


def clip_scores(hypotheses: Sequence[str], references: Sequence[Sequence[str]], with_meteor: bool = True) -> ClipScores:
    """Of each clip, see `score_corpus`. Raises ValueError if a clip has no reference, or there is no clip."""
    if len(hypotheses) != len(references) or not all(references) or not hypotheses:
        raise ValueError("each caption needs one or more references")
    said = [tokens(text) for text in hypotheses]
    due = [[tokens(text) for text in of_clip] for of_clip in references]
    return ClipScores(
        np.array([_bleu_counts(words, of_clip) for words, of_clip in zip(said, due, strict=True)]),
        np.array([rouge_l(words, of_clip) for words, of_clip in zip(said, due, strict=True)]),
        CiderD(due).scores(said),
        meteor_counts(said, due) if with_meteor else "not asked for",
    )


def summarise(scores: ClipScores, average: Average = "corpus") -> dict[str, Any]:
    """What `score_corpus` returns, from the clips' own."""
    told: dict[str, Any]
    if average == "corpus":
        told = dict(zip(METRICS, corpus_bleu(scores.bleu.sum(0)).tolist(), strict=False))
    else:
        told = dict(zip(METRICS, corpus_bleu(scores.bleu).mean(0).tolist(), strict=False))
    told |= {"rouge_l": float(scores.rouge_l.mean()), "cider_d": float(scores.cider_d.mean()), "meteor": None}
    if isinstance(scores.meteor, str):
        return told | {"meteor_note": scores.meteor}
    counts = scores.meteor.sum(0, keepdims=True) if average == "corpus" else scores.meteor
    return told | {"meteor": float(meteor_of(counts).mean())}


def corpus_bleu(counts: np.ndarray) -> np.ndarray:
    """BLEU-1 to BLEU-4 (..., 4) of counts (..., 10), summed over clips; see `ClipScores`.

    No smoothing, one penalty for brevity for all: sacrebleu's, of smooth_method="none", max_ngram_order=n.
    """
    right, total, words, due = counts[..., :4], counts[..., 4:8], counts[..., 8], counts[..., 9]
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.where(total > 0, right / np.maximum(total, 1), 0.0))
        penalty = np.where(words < due, np.exp(1 - due / words), 1.0)
        return penalty[..., None] * np.exp(np.cumsum(logs, -1) / np.arange(1, 5))


def rouge_l(hypothesis: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """F of the longest common subsequence, its precision and recall each the best over all references, in tokens (Lin
    2004; coco-caption's). Not the F1 of the package rouge-score."""
    common = [_longest_common(hypothesis, reference) for reference in references]
    precision = max(common) / max(len(hypothesis), 1)
    recall = max(length / max(len(words), 1) for length, words in zip(common, references, strict=True))
    if not (precision and recall):
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _longest_common(words: Sequence[str], others: Sequence[str]) -> int:
    lengths = [0] * (len(others) + 1)
    for word in words:
        before = 0  # the length for one word less of either
        for place, other in enumerate(others, 1):
            length = before + 1 if word == other else max(lengths[place], lengths[place - 1])
            before, lengths[place] = lengths[place], length
    return lengths[-1]


def _bleu_counts(hypothesis: Sequence[str], references: Sequence[Sequence[str]]) -> list[int]:
    score = _bleu().sentence_score(" ".join(hypothesis), [" ".join(words) for words in references])
    return [*score.counts, *score.totals, score.sys_len, score.ref_len]


@lru_cache
def _bleu() -> Any:
    # effective_order changes no count; without it a warning comes.
    return _extra("sacrebleu.metrics").BLEU(tokenize="none", smooth_method="none", effective_order=True)


@lru_cache
def _tokenizer() -> Any:
    return _extra("nltk.tokenize").NLTKWordTokenizer()  # needs none of nltk's data


def _extra(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise InputError(f"{package} is not installed; pip install -e '.[captioning]' brings it") from None
