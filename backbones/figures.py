"""The figures of a run's page: one panel each, as wide as a phone, as SVG that stands in the page."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from recognition.common import plotting
from recognition.common.plotting import BLUE, GREY, STYLE, VERMILION, WIDTH, finished, panel, short_label

MOST_NAMED, MOST_COUNTED = 30, 12  # classes whose names, and whose counts, a confusion matrix has room for
LONGEST_NAME = 18  # letters


def training_curve(metrics: Sequence[Mapping[str, Any]], quantity: str, label: str) -> Figure:
    """A number of the lines of metrics.jsonl against epochs: training dashed, validation solid."""
    figure, axis = panel()
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
    return finished(figure, axis)


def score_bars(rows: Sequence[Mapping[str, Any]], chance: float, title: str = "Right answers") -> Figure:
    """A bar for each row with name, top1 and top1_interval; the first stands out. A dotted line where chance is."""
    figure, axis = plotting.score_bars(rows, "top1", title, "share")
    axis.axvline(chance, color=GREY, linestyle=":", label="chance")
    axis.set_xlim(0, 1.03)
    return finished(figure, axis)


def confusion_image(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """Shares of each class's films (row) that were taken for each class (column), from their counts (C, C)."""
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    num = len(classes)
    figure, axis = panel(height=min(9.0, 4.4 + 0.12 * min(num, MOST_NAMED)), width=WIDTH + 2 * (num > MOST_COUNTED))
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
