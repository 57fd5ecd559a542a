"""The page of a run that names actions: HTML that needs nothing else. All text from outside is escaped."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from backbones import figures as draw
from backbones.answers import Answers
from backbones.scores import NUM_RESAMPLES, class_table, confusion_matrix, wrong_films
from recognition.common.files import written_whole
from recognition.common.pages import render

FOLDER = Path(__file__).parent / "templates"
FILE = "report.html"
MOST_WRONG = 30  # films that went wrong
SCORES = (  # name in test.json, what it is called, meaning
    ("top1", "top-1", "films whose class is the most probable"),
    ("top5", "top-5", "films whose class is among the five most probable"),
    ("mean_class_accuracy", "mean class accuracy", "top-1 of each class, the mean of classes that have films"),
    ("clip_top1", "top-1 of single views", "one crop of one clip at a time"),
    ("clip_top5", "top-5 of single views", "the same of the five most probable"),
)
CONTROLS = {  # names in test.json, what they are called, meaning
    "majority": ("majority class", "the class of most training films, whatever the film"),
    "repeated": ("one frame repeated", "the middle frame of each clip: looks alone"),
    "shuffled": ("frames shuffled", "all frames, their order lost"),
    "reversed": ("frames reversed", "all frames, from the last to the first"),
}
OPTIONAL = ("name", "network", "views", "controls", "gates", "retrieval", "config")


def write_report(folder: Path, told: Mapping[str, Any], answers: Answers, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Write a run's report.html.

    Args:
        folder: the run's.
        told: what `scores.describe` found, and where there is something to tell: name (of the run; the folder's
            otherwise), network (its name and settings in words), views ({clips, crops}), controls (by their names in
            CONTROLS, each with top1 and, if known, top1_interval), gates (a row for each: layer, and shares by their
            names), retrieval (shares by their names), config (the settings as text).
        answers: to the test films.
        metrics: the lines of metrics.jsonl.
    """
    told = {**dict.fromkeys(OPTIONAL), "name": folder.name, **told}
    controls = _control_rows(told)
    page = render(
        FILE,
        FOLDER,
        _figures(controls, answers, metrics),
        told=told,
        num_resamples=NUM_RESAMPLES,
        num_classes=len(answers.classes),
        chance=1 / len(answers.classes),
        scores=_score_rows(told),
        controls=controls,
        gates=told["gates"],
        retrieval=told["retrieval"],
        classes=sorted(class_table(answers), key=lambda row: (row["top1"] is None, row["top1"])),
        wrong=wrong_films(answers, MOST_WRONG),
        num_wrong=int((answers.answer != answers.labels).sum()),
    )
    with written_whole(folder / FILE) as part:
        part.write_text(page, encoding="utf-8")


def _figures(
    controls: Sequence[Mapping[str, Any]], answers: Answers, metrics: Sequence[Mapping[str, Any]]
) -> dict[str, Figure]:
    """The figures by their names, those alone for which there is something to draw."""
    classes = answers.classes.tolist()
    figures = {
        "controls": draw.score_bars(controls, 1 / len(classes)),
        "confusion": draw.confusion_image(confusion_matrix(answers), classes),
    }
    for quantity, label in (("loss", "Loss"), ("top1", "Top-1")):
        if any(f"{split}_{quantity}" in line for line in metrics for split in ("train", "validation")):
            figures[quantity] = draw.training_curve(metrics, quantity, label)
    return figures


def _score_rows(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"label": label, "meaning": meaning, "score": told[name], "interval": told[f"{name}_interval"]}
        for name, label, meaning in SCORES
    ]


def _control_rows(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The run's own score, then the controls' that there are."""
    run = {"name": "the run", "meaning": "clips as they are", **_top1(told)}
    found = told["controls"] or {}
    return [run] + [
        {"name": name, "meaning": meaning, **_top1(found[control])}
        for control, (name, meaning) in CONTROLS.items()
        if control in found
    ]


def _top1(scores: Mapping[str, Any]) -> dict[str, Any]:
    return {name: scores[name] for name in ("top1", "top1_interval") if name in scores}
