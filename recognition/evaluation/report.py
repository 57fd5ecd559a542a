"""The reports: HTML pages that need nothing else. All text from outside is escaped."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader, PrefixLoader
from matplotlib.figure import Figure

from recognition.common.files import written_whole
from recognition.common.pages import interval, number, render
from recognition.evaluation import figures as draw
from recognition.evaluation import pages
from recognition.evaluation.comparison import Comparison
from recognition.evaluation.pages import find_pages
from recognition.evaluation.signal_detection import NUM_RESAMPLES
from recognition.features.geometry import geometry_lines
from recognition.training.config import RunConfig, dump_config
from recognition.training.runs import Run

FOLDER = Path(__file__).parent / "templates"
COMPARISON_FILES = "comparison.html", "comparison.csv", "comparison.tex"
COMPARISON_FIGURES = "comparison-figures"
SCORES = (  # name in evaluation.json, what it is called, digits, meaning
    ("accuracy", "accuracy", 3, "share of right answers"),
    ("hit_rate", "hit rate", 3, "“old” to the {n_old:,} old probes"),
    ("false_alarm_rate", "false-alarm rate", 3, "“old” to the {n_new:,} new probes"),
    ("d_prime", "d′", 2, "sensitivity in standard deviations, log-linear correction"),
    ("criterion", "criterion", 2, "above 0: reluctant to say “old”"),
    ("auc", "AUC", 3, "area under the ROC of the graded answers"),
    ("accuracy_shown", "accuracy, probes shown", 3, "the {n_shown:,} old probes that were study frames themselves"),
    ("accuracy_between", "accuracy, probes between", 3, "the {n_between:,} old probes between two study frames"),
)
CLIP_KINDS = {"no_cut": "no cut", "cut": "a cut within the film", "other_film": "a cut to another film"}
CONTROLS = {  # by what their names begin with
    "chance": "one and the same answer always, the commoner",
    "always": "“old” to every probe",
    "nearest_frame": "a threshold on the cosine with the nearest studied frame, chosen on validation",
    "nearest_of": "the same, with a memory of so many study frames, drawn at random",
    "nearest_in": "the same, with features projected onto so many random directions",
    "novelty_filter": "what no sum of studied frames gives a probe, along so many whitened axes, as do the following",
    "hebbian": "the squares of the products of the probe with all studied frames, added up",
    "bloom": "so many random units, each with the most that it was ever excited; their mean over the probe’s four",
    "sum": "the product of the probe with the sum of all studied frames",
}
MEMORABILITY = {  # what memorability is correlated with, and what it is called
    "hit_rate": "hit rate",
    "false_alarm_rate": "false-alarm rate",
    "answer_to_old": "graded answer to old",
    "answer_to_new": "graded answer to new",
}


def report_figures(evaluation: Mapping[str, Any], metrics: list[dict[str, Any]]) -> dict[str, Figure]:
    """The figures of a run's report by their names, those alone for which there is something to draw."""
    retention = evaluation["retention"]
    figures = {}
    if metrics:
        figures["loss"] = draw.training_curve(metrics, "loss")
        figures["accuracy"] = draw.training_curve(metrics, "accuracy", evaluation["accuracy"])
    figures["roc"] = draw.roc_curve(evaluation)
    figures["zroc"] = draw.zroc_line(evaluation)
    for score in ("hit_rate", "d_prime"):
        figures[f"retention_{score}"] = draw.retention_curve({"model": retention["by_lag"]}, score)
    by_position, by_order = retention["by_serial_position"], retention["by_probe_order"]
    if len(by_position) > 1:
        figures["serial_position"] = draw.place_curve(by_position, "Serial position", "place of the clip in the study")
    if len(by_order) > 1:
        figures["probe_order"] = draw.place_curve(by_order, "Order of test", "place of the probe in the test")
    if evaluation["capacity"]:
        figures["capacity"] = draw.capacity_curve({"model": evaluation["capacity"]})
    for name, described in described_pages(evaluation).items():
        figures |= find_pages()[name].figures(described)
    figures |= _kinds(retention)
    if memorability := evaluation["memorability"]:
        figures["memorability"] = draw.memorability_curve(memorability["bins"])
        figures["memorability_histogram"] = draw.memorability_histogram(memorability["histogram"])
    for place, other in enumerate(_other_kinds(evaluation), 1):
        figures |= {f"{name}_{place}": figure for name, figure in _kinds(other["retention"]).items()}
    model = {"name": evaluation["model"], "is_control": False}
    points = [{**model, **{key: evaluation[key] for key in ("state_bytes", "d_prime", "d_prime_interval")}}]
    figures["memory_per_byte"] = draw.memory_per_byte(points + control_points(evaluation["controls"]))
    return figures


def described_pages(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What the layers of a model had to tell, by their pages."""
    return {name: evaluation[name] for name in find_pages() if evaluation.get(name)}


def comparison_figures(comparison: Comparison) -> dict[str, Figure]:
    """The figures of a comparison by their names. Curves are those of each row's first run."""
    rows, firsts = comparison.rows, {row["name"]: row["evaluations"][0] for row in comparison.rows}
    lags = {name: evaluation["retention"]["by_lag"] for name, evaluation in firsts.items()}
    figures = {score: draw.scores_by_model(rows, score) for score in ("accuracy", "d_prime")}
    controls = control_points({row["name"]: row for row in comparison.controls})
    if points := [{**row, "is_control": False} for row in rows if row["state_bytes"]] + controls:
        figures["memory_per_byte"] = draw.memory_per_byte(points)
    for score in ("hit_rate", "d_prime"):
        told = {name: [row for row in rows if row[score] is not None] for name, rows in lags.items()}
        if told := {name: rows for name, rows in told.items() if rows}:
            figures[f"retention_{score}"] = draw.retention_curve(told, score)
    if capacity := {name: found for name, evaluation in firsts.items() if (found := evaluation.get("capacity"))}:
        figures["capacity"] = draw.capacity_curve(capacity)
    return figures


def control_points(controls: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The controls that have a memory, as points of the figure of memory per byte: those that no other one beats with
    as few bytes, since all of them would crowd it."""
    points = [
        {**scores, "name": name.replace("_", " "), "is_control": True}
        for name, scores in controls.items()
        if scores.get("state_bytes")
    ]
    return [
        point
        for point in points
        if not any(
            other["state_bytes"] <= point["state_bytes"] and other["d_prime"] > point["d_prime"] for other in points
        )
    ]


def render_report(
    config: RunConfig,
    evaluation: Mapping[str, Any],
    metrics: list[dict[str, Any]],
    figures: Mapping[str, Figure],
    gallery: Mapping[str, list] | str,
) -> str:
    """A run's page as HTML. `gallery` is what the function of this name returned, or a line that says why not."""
    best = max(metrics, key=lambda line: (line["validation_accuracy"], -line["validation_loss"]), default=None)
    return evaluation_page(
        "report.html",
        figures,
        name=config.name,
        scores=evaluation,
        rows=_score_rows(evaluation),
        pages=described_pages(evaluation),
        controls=_control_rows(evaluation["controls"]),
        geometry={name: geometry_lines(found) for name, found in evaluation["geometry"].items() if found},
        others=_other_kinds(evaluation),
        best_epoch=best and best["epoch"],
        num_epochs=len(metrics),
        gallery=gallery,
        clip_kinds=CLIP_KINDS,
        memorability_names=MEMORABILITY,
        config=dump_config(config),
    )


def render_comparison(comparison: Comparison, figures: Mapping[str, Figure]) -> str:
    """The page that compares several runs as HTML."""
    return evaluation_page("comparison.html", figures, comparison=comparison)


def write_report(
    run: Run, config: RunConfig, evaluation: Mapping[str, Any], gallery: Mapping[str, list] | str, as_pdf: bool = False
) -> None:
    """Write a run's report.html, and with `as_pdf` every figure of it as a file of its own."""
    metrics = run.read_metrics()
    figures = report_figures(evaluation, metrics)
    with written_whole(run.report_file) as part:
        part.write_text(render_report(config, evaluation, metrics, figures, gallery), encoding="utf-8")
    if as_pdf:
        draw.write_figures(figures, run.figures_folder)


def write_comparison(comparison: Comparison, folder: Path, as_pdf: bool = False) -> None:
    """Write COMPARISON_FILES into a folder, and with `as_pdf` the figures into COMPARISON_FIGURES in it."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = comparison_figures(comparison)
    texts = render_comparison(comparison, figures), comparison.csv, comparison.latex
    for name, text in zip(COMPARISON_FILES, texts, strict=True):
        with written_whole(folder / name) as part:
            part.write_text(text, encoding="utf-8")
    if as_pdf:
        draw.write_figures(figures, folder / COMPARISON_FIGURES)


def evaluation_page(template: str, figures: Mapping[str, Figure], **values: Any) -> str:
    """A page of templates/ as HTML, with its figures by their names and all else that it tells."""
    of_pages = PrefixLoader({"pages": FileSystemLoader(pages.__path__)})
    values |= {"num_resamples": NUM_RESAMPLES, "min_probes": draw.MIN_PROBES}
    return render(template, FOLDER, figures, of_pages, **values)


def _score_rows(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table of scores. Those of no probes are left out."""
    return [
        {
            "label": label,
            "value": number(evaluation[name], digits),
            "interval": interval(evaluation[f"{name}_interval"], digits),
            "meaning": meaning.format(**evaluation),
        }
        for name, label, digits, meaning in SCORES
        if evaluation[name] is not None
    ]


def _control_rows(controls: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "label": name.replace("_", " "),
            "meaning": next(meaning for start, meaning in CONTROLS.items() if name.startswith(start)),
            "scores": {"d_prime": None, "d_prime_interval": None, "state_bytes": None, **scores},
        }
        for name, scores in controls.items()
    ]


def _other_kinds(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The further episodes that are no point of the capacity curve: they are told apart."""
    return [other for other in evaluation["other_episodes"] if not other["is_other_length"]]


def _kinds(retention: Mapping[str, Any]) -> dict[str, Figure]:
    label = "share “old”: right for old ones alone"
    figures = {"kinds": draw.kinds_bars(retention["by_kind"], "says_old", "Kinds of probes", label)}
    if by_clip_kind := retention["by_clip_kind"]:
        label = "hit rate of their old probes"
        figures["clip_kinds"] = draw.kinds_bars(by_clip_kind, "hit_rate", "Kinds of study clips", label)
    return figures
