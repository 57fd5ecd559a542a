"""The figures of a run's page: one panel each, as wide as a phone, as SVG that stands in the page.

Colours are Okabe and Ito's, which the colour-blind can tell apart; lines differ in style too.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

BLUE, VERMILION, SKY, GREY = "#0072b2", "#d55e00", "#56b4e9", "#555555"
WIDTH = 4.6  # inches; on a page of 358 pixels letters of 11 points are then 12 pixels high
# Letters are drawn as shapes, so that a figure looks alike wherever it is opened. The salt makes equal figures equal.
STYLE: dict[Any, Any] = {"font.size": 11, "svg.fonttype": "path", "svg.hashsalt": "report", "axes.axisbelow": True}
MOST_NAMED, MOST_COUNTED = 30, 12  # classes whose names, and whose counts, a confusion matrix has room for
LONGEST_NAME = 18  # letters


def training_curve(metrics: Sequence[Mapping[str, Any]], quantity: str, label: str) -> Figure:
    """A number of the lines of metrics.jsonl against epochs: training dashed, validation solid."""
    figure, axis = _panel()
    for split, name, colour, style in (
        ("train", "training", BLUE, "--o"),
        ("validation", "validation", VERMILION, "-s"),
    ):
        known = [line for line in metrics if line.get(f"{split}_{quantity}") is not None]
        values = [line[f"{split}_{quantity}"] for line in known]
        size = 6 if len(known) == 1 else 0  # a line of one point has nothing else to see
        axis.plot([line["epoch"] for line in known], values, style, color=colour, label=name, markersize=size)
    axis.set(title=label, xlabel="epoch", ylabel=label.lower())
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _finished(figure, axis)


def score_bars(rows: Sequence[Mapping[str, Any]], chance: float, title: str = "Right answers") -> Figure:
    """A bar for each row with name, top1 and top1_interval; the first stands out. A dotted line where chance is."""
    figure, axis = _panel(height=1.5 + 0.42 * len(rows))
    for place, row in enumerate(rows):
        first = not place
        axis.barh(place, row["top1"], color=BLUE if first else SKY, hatch=None if first else "//", edgecolor="white")
        if ends := row.get("top1_interval"):
            reach = [[max(0.0, row["top1"] - ends[0])], [max(0.0, ends[1] - row["top1"])]]
            axis.errorbar(row["top1"], place, xerr=reach, color="black", capsize=3)
    axis.axvline(chance, color=GREY, linestyle=":", label="chance")
    axis.set_yticks(range(len(rows)), [short_label(row["name"], 26) for row in rows])
    axis.invert_yaxis()
    axis.set(title=title, xlabel="share", xlim=(0, 1.03))
    return _finished(figure, axis)


def confusion_image(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """Shares of each class's films (row) that were taken for each class (column), from their counts (C, C)."""
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    num = len(classes)
    figure, axis = _panel(height=min(9.0, 4.4 + 0.12 * min(num, MOST_NAMED)), width=WIDTH + 2 * (num > MOST_COUNTED))
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    with matplotlib.rc_context(STYLE):
        figure.colorbar(image, ax=axis, location="top", shrink=0.6, label="share of the class’s films")
    axis.set(xlabel="taken for", ylabel="class", facecolor="#ddd")  # seen where a class has no films
    if num <= MOST_NAMED:
        names = [short_label(name, LONGEST_NAME) for name in classes]
        axis.set_xticks(range(num), names, rotation=90, fontsize=8)
        axis.set_yticks(range(num), names, fontsize=8)
    if num <= MOST_COUNTED:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, f"{count}" if count else "", ha="center", va="center", color=colour, fontsize=8)
    figure.set_label("Confusion matrix")
    return figure


def short_label(name: str, longest: int) -> str:
    """A name as matplotlib takes it as it is, with dots in the middle if it is long."""
    if len(name) > longest:
        name = f"{name[: longest // 2]}…{name[-(longest // 2 - 1) :]}"
    return name.replace("$", r"\$")


def svg(name: str, figure: Figure) -> Markup:
    """The figure as SVG to stand in a page; `name` keeps its ids apart from those of other figures."""
    text = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(text, format="svg", metadata={"Date": None})
    drawing = text.getvalue()[text.getvalue().index("<svg") :]
    drawing = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", drawing)
    title = escape(figure.axes[0].get_title() or figure.get_label())
    return Markup(drawing.replace("<svg", f'<svg role="img" aria-label="{title}"', 1))


def _panel(height: float = 3.6, width: float = WIDTH) -> tuple[Figure, Axes]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots()


def _finished(figure: Figure, axis: Axes) -> Figure:
    """The figure with what curves and bars have in common; its legend stands below, where it hides nothing."""
    with matplotlib.rc_context(STYLE):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        handles, labels = axis.get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside lower center", frameon=False, ncols=2, fontsize=10)
    return figure
