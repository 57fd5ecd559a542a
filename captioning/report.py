"""The report of captions: what they are worth beside floors and other runs, what was seen how long ago, and the films
that went worst. HTML that needs nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from captioning.bootstrap import RESAMPLES
from captioning.config import CaptionSettings
from captioning.page import SCORES, TEMPLATES, worst_films
from captioning.retention import MOST_PLACES
from captioning.said import Said
from recognition.common.files import written_whole
from recognition.common.pages import render
from recognition.common.plotting import band, finished, looks, panel, score_bars
from recognition.training.config import dump_config

HEADS = SCORES | {"meteor": "METEOR"}
MIN_CLIPS = 20  # of a point of a curve
Told = Mapping[str, Any]


def report_file(scores_file: Path) -> Path:
    """The page that goes with a scores.json."""
    return scores_file.with_name(scores_file.stem.replace("scores", "report") + ".html")


def write_report(
    scores_file: Path,
    told: Told,
    others: Mapping[str, Told],
    said: Sequence[Said],
    config: CaptionSettings | None,
    videos: Path | None,
) -> None:
    """Write the report of captions.

    Args:
        scores_file: beside which it is to stand.
        told: what scores.json has: scores, intervals, floors, differences, retention.
        others: the same of other captions of these clips, by their names.
        said: all captions.
        config: of the run, if it is one.
        videos: the films, for frames; None or a film that is not there shows none.
    """
    rows = [_row(told["name"], told), *(_row(name, other) for name, other in others.items())]
    floors = [_row(name, floor) for name, floor in told["floors"].items()]
    runs = {told["name"]: told, **others}
    page = render(
        "report.html",
        TEMPLATES,
        report_figures(rows, floors, runs),
        told=told,
        heads=HEADS,
        scores=rows,
        floors=floors,
        differences=[_difference(name, found) for name, found in told["differences"].items()],
        retention={name: [_percent(row) for row in run["retention"]["by_lag"]] for name, run in runs.items()},
        films=worst_films(said, videos),
        num_resamples=RESAMPLES,
        min_clips=MIN_CLIPS,
        most_places=MOST_PLACES,
        config=config,
        settings=config and dump_config(config),
    )
    with written_whole(report_file(scores_file)) as part:
        part.write_text(page, encoding="utf-8")


def report_figures(rows: Sequence[Told], floors: Sequence[Told], runs: Mapping[str, Told]) -> dict[str, Figure]:
    """The figures by their names, those alone for which there is something to draw."""
    bars, axis = score_bars([*rows, *floors], "cider_d", "CIDEr-D", "CIDEr-D, times 100")
    axis.set_xlim(left=0)
    figures = {"scores": finished(bars, axis)}
    lags = {name: run["retention"]["by_lag"] for name, run in runs.items()}
    if any(row["lag"] for of_run in lags.values() for row in of_run):
        figures["lag_exact"] = retention_curve(lags, "lag", "exact")
        figures["lag_rouge_l"] = retention_curve(lags, "lag", "rouge_l")
    places = {name: run["retention"]["by_place"] for name, run in runs.items()}
    if any(len(of_run) > 1 for of_run in places.values()):
        figures["place"] = retention_curve(places, "place", "rouge_l")
    return figures


def retention_curve(curves: Mapping[str, Sequence[Told]], by: str, score: str) -> Figure:
    """rouge_l or exact against lag or place, a curve with its band for each name. Points of fewer than MIN_CLIPS clips
    are left out, unless all are; so are things that are new, which have no lag."""
    figure, axis = panel()
    for (name, rows), look in zip(curves.items(), looks(), strict=False):
        rows = [_percent(row) for row in rows if row[by]]
        band(axis, [row for row in rows if row["num_clips"] >= MIN_CLIPS] or rows, by, score, name, look)
    label = {"rouge_l": "ROUGE-L, times 100", "exact": "exact captions (%)"}[score]
    title, x = {
        "lag": ("Retention", "clips since it was first seen"),
        "place": ("Place", "place of the clip in its film"),
    }[by]
    axis.set(title=f"{title}: {label.split(',')[0].removesuffix(' (%)')}", ylabel=label, xlabel=x, ylim=(-3, 103))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return finished(figure, axis)


def _row(name: str, told: Told) -> dict[str, Any]:
    """A row of the table of scores, times 100."""
    ends = {f"{metric}_interval": told["intervals"].get(metric) for metric in HEADS}
    caption = {"caption": told.get("caption")}
    return {"name": name, **caption, **_percent({metric: told["scores"][metric] for metric in HEADS} | ends)}


def _difference(name: str, found: Mapping[str, Told]) -> dict[str, Any]:
    by = {metric: found[metric]["by"] if metric in found else None for metric in HEADS}
    ends = {f"{metric}_interval": found[metric]["interval"] if metric in found else None for metric in HEADS}
    return {"name": name, "caption": None, **_percent(by | ends)}


def _percent(row: Told) -> dict[str, Any]:
    """Scores and intervals of a row times 100; counts as they are."""
    return {name: _times_100(value) if name.removesuffix("_interval") in (*HEADS, "exact") else value
            for name, value in row.items()}  # fmt: skip


def _times_100(value: Any) -> Any:
    if value is None:
        return None
    return [100 * end for end in value] if isinstance(value, list | tuple) else 100 * value
