"""How good the answers to the test films are.

Intervals come from the percentile bootstrap over the films' sources (Efron and Tibshirani 1993): films that were cut
from one take look alike, and drawing them one by one would call chance what is not. Where all resamples score alike, as
those of a rate of 1 do, it is Wilson's of as many answers as there are sources.

Shapes: N films, C classes, G sources, K quantities, R resamples.
"""

import csv
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.special import ndtri

from backbones.answers import Answers, is_right
from recognition.common.command_line import InputError
from recognition.common.files import written_whole

NUM_RESAMPLES = 2000
RESAMPLES_A_BLOCK = 50  # so that draws of many thousand sources fit the memory
ROUNDING = 1e-9  # resamples that differ by less are alike
SCORES = ("top1", "top5", "mean_class_accuracy", "clip_top1", "clip_top5")


def describe(answers: Answers) -> dict[str, Any]:
    """Scores of a run by their names in SCORES, each with <name>_interval, [low, high] or None; and what they are of:
    num_films, num_sources, num_classes (of those that have films).

    Clip scores are of single views, all others of films.
    """
    right = _right(answers)  # (N, 4)
    sums, resampled = by_class(answers, right)  # (1, 5, C), (R, 5, C)
    scores, again = _scores(sums), _scores(resampled)
    num_sources = len(np.unique(answers.sources))
    told: dict[str, Any] = {
        "num_films": len(answers.labels),
        "num_sources": num_sources,
        "num_classes": len(np.unique(answers.labels)),
    }
    for name in SCORES:
        score = float(scores[name][0])
        told |= {name: score, f"{name}_interval": interval(again[name]) or wilson_interval(score, num_sources)}
    return told


def compare(answers: Answers, other: Answers) -> dict[str, Any]:
    """What another run gains on the same films: <score>_gain and <score>_gain_interval for each of SCORES, by the
    bootstrap in pairs: both are scored on the same resamples.

    Raises InputError if the films, their right classes or their sources are not the same.
    """
    other = _in_order_of(answers, other)
    pairs = [by_class(run, _right(run)) for run in (answers, other)]  # the same draws, which are seeded
    (scores, again), (other_scores, other_again) = [(_scores(sums), _scores(resampled)) for sums, resampled in pairs]
    told: dict[str, Any] = {}
    for name in SCORES:
        gain = float(other_scores[name][0] - scores[name][0])
        told |= {f"{name}_gain": gain, f"{name}_gain_interval": interval(other_again[name] - again[name])}
    return told


def by_class(answers: Answers, quantities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantities (N, K) summed over the films of each class, after them their numbers: of all films (1, K + 1, C), and
    of the films of so many sources drawn with replacement (R, K + 1, C)."""
    num, num_classes = len(answers.labels), len(answers.classes)
    columns = np.column_stack([quantities, np.ones(num)])
    _, source = np.unique(answers.sources, return_inverse=True)
    num_sources, num_columns = int(source.max()) + 1, columns.shape[1]
    places = answers.labels[:, None] + num_classes * np.arange(num_columns)  # (N, K + 1)
    sums = coo_array(
        (columns.ravel(), (np.repeat(source, num_columns), places.ravel())),
        shape=(num_sources, num_columns * num_classes),
    ).tocsr()  # few classes have films of one source
    rng = np.random.default_rng(0)
    drawn = (
        rng.multinomial(num_sources, np.full(num_sources, 1 / num_sources), RESAMPLES_A_BLOCK) @ sums
        for _ in range(0, NUM_RESAMPLES, RESAMPLES_A_BLOCK)
    )
    whole = np.ones((1, num_sources)) @ sums
    return whole.reshape(1, num_columns, -1), np.concatenate(list(drawn)).reshape(-1, num_columns, num_classes)


def _right(answers: Answers) -> np.ndarray:
    """What each film counts to top1, top5, clip_top1 and clip_top5, (N, 4)."""
    films = [is_right(answers.probabilities, answers.labels, num) for num in (1, 5)]
    return np.column_stack([*films, answers.view_right])


def _scores(sums: np.ndarray) -> dict[str, np.ndarray]:
    """SCORES, (R,) each, of the sums over classes of what `_right` gives, and numbers of films: (R, 5, C)."""
    *rights, nums = np.moveaxis(sums, 1, 0)  # (R, C) each
    top1, top5, clip_top1, clip_top5 = (right.sum(1) / nums.sum(1) for right in rights)
    of_classes = np.divide(rights[0], nums, out=np.zeros_like(nums, dtype=float), where=nums > 0)
    mean = of_classes.sum(1) / (nums > 0).sum(1)
    return dict(zip(SCORES, (top1, top5, mean, clip_top1, clip_top5), strict=True))


def interval(resampled: np.ndarray) -> list[float] | None:
    """The 95 % percentile interval [low, high] of a score's resamples (R,); None if they are all alike."""
    low, high = np.quantile(resampled, [0.025, 0.975]).tolist()
    return [low, high] if high - low > ROUNDING else None


def wilson_interval(rate: float, num: int) -> list[float] | None:
    """Wilson's 95 % interval of a rate among `num` independent answers; None for fewer than two."""
    if num < 2:
        return None
    z2 = float(ndtri(0.975)) ** 2
    middle, reach = rate + z2 / (2 * num), (z2 * (rate * (1 - rate) / num + z2 / (4 * num**2))) ** 0.5
    low, high = ((middle + sign * reach) / (1 + z2 / num) for sign in (-1, 1))
    return [max(low, 0.0), min(high, 1.0)]  # rounding may lead beyond


def interval_over_sources(right: np.ndarray, sources: np.ndarray) -> list[float] | None:
    """The interval of the share of films (N,) that are right, by the bootstrap over their sources (N,)."""
    _, source = np.unique(sources, return_inverse=True)
    num = int(source.max()) + 1
    sums = np.stack([np.bincount(source, right, num), np.bincount(source, minlength=num)], 1)  # (G, 2)
    drawn = np.random.default_rng(0).multinomial(num, np.full(num, 1 / num), NUM_RESAMPLES) @ sums  # (R, 2)
    return interval(drawn[:, 0] / drawn[:, 1]) or wilson_interval(float(right.mean()), num)


def majority_top1(train_labels: Sequence[int] | np.ndarray, labels: np.ndarray) -> float:
    """Share of test films (N,) that are of the class which most training films have, the first of equals."""
    return float((labels == np.bincount(train_labels).argmax()).mean())


def confusion_matrix(answers: Answers) -> np.ndarray:
    """How many films of each class (row) were taken for each class (column): (C, C) int64."""
    num = len(answers.classes)
    return np.bincount(answers.labels * num + answers.answer, minlength=num * num).reshape(num, num)


def class_table(answers: Answers) -> list[dict[str, Any]]:
    """A row for each class: class, films, top1 (None without films), most_frequent_mistake (None without any; the
    first of equals) and mistakes, how often it was that one."""
    rows = []
    for number, (name, counts) in enumerate(zip(answers.classes, confusion_matrix(answers), strict=True)):
        films, right = int(counts.sum()), int(counts[number])
        wrong = np.where(np.arange(len(counts)) == number, 0, counts)
        rows.append(
            {
                "class": str(name),
                "films": films,
                "top1": right / films if films else None,
                "most_frequent_mistake": str(answers.classes[wrong.argmax()]) if wrong.any() else None,
                "mistakes": int(wrong.max()),
            }
        )
    return rows


def write_class_table(answers: Answers, path: Path) -> None:
    """Write classes.csv, what `class_table` tells."""
    rows = class_table(answers)
    with written_whole(path) as part, open(part, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def wrong_films(answers: Answers, most: int, num_classes: int = 3) -> list[dict[str, Any]]:
    """The films that went wrong, those first in which the wrong class was the farthest ahead of the right one: video,
    label, and the most probable classes with their probabilities, a list of pairs."""
    answer, rows = answers.answer, np.arange(len(answers.labels))
    ahead = answers.probabilities[rows, answer] - answers.probabilities[rows, answers.labels]
    wrong = [row for row in np.argsort(-ahead, kind="stable") if answer[row] != answers.labels[row]]
    told = []
    for row in itertools.islice(wrong, most):
        first = np.argsort(-answers.probabilities[row], kind="stable")[:num_classes]
        classes = [(str(answers.classes[k]), float(answers.probabilities[row, k])) for k in first]
        label = str(answers.classes[answers.labels[row]])
        told.append({"video": str(answers.videos[row]), "label": label, "classes": classes})
    return told


def _in_order_of(answers: Answers, other: Answers) -> Answers:
    """The answers of another run with its films in the order of those of the first. Raises InputError."""
    first, second = (np.argsort(run.videos, kind="stable") for run in (answers, other))
    if not np.array_equal(answers.videos[first], other.videos[second]):
        raise InputError("the runs answered to different test films; compare runs on one list")
    order = np.empty_like(second)
    order[first] = second
    same = answers.classes[answers.labels] == other.classes[other.labels[order]]
    same &= answers.sources == other.sources[order]
    if not same.all():
        video = answers.videos[np.flatnonzero(~same)[0]]
        raise InputError(f"{video}: is of another class or source in the other run; compare runs on one list")
    rows = {
        name: getattr(other, name)[order] for name in ("probabilities", "labels", "videos", "sources", "view_right")
    }
    return Answers(**rows, classes=other.classes)
