"""What all figures share: colours, panels and curves with bands.

Colours are Okabe and Ito's, which the colour-blind can tell apart; lines differ in style and marker too.
"""

import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE, GREY = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555",
)  # fmt: skip
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # as many as have no common divisor with the colours
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
WIDTH = 4.6  # inches; on a page of 358 pixels letters of 11 points are then 12 pixels high
# Letters are drawn as shapes, so that a figure looks alike wherever it is opened. The salt makes equal figures equal.
STYLE: dict[Any, Any] = {  # matplotlib's own type is a list of all its keys
    "font.size": 11,
    "svg.fonttype": "path",
    "svg.hashsalt": "report",
    "pdf.fonttype": 42,
    "axes.axisbelow": True,
}
Row = Mapping[str, Any]


class Look(NamedTuple):
    """How a curve is drawn."""

    colour: str
    marker: str
    style: Any  # of the line, as matplotlib has it


def panel(height: float = 3.6, width: float = WIDTH) -> tuple[Figure, Axes]:
    """A figure of one panel, in inches."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots()


def finished(figure: Figure, axis: Axes, num_columns: int = 2) -> Figure:
    """The figure with what all have in common; its legend stands below, where it hides nothing."""
    with matplotlib.rc_context(STYLE):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        handles, labels = axis.get_legend_handles_labels()
        if handles:
            columns = 1 if max(map(len, labels)) > 24 else num_columns
            figure.legend(handles, labels, loc="outside lower center", frameon=False, ncols=columns, fontsize=10)
    return figure


def looks() -> Iterator[Look]:
    """Colours, markers and line styles for one curve after the other."""
    return map(Look, itertools.cycle(COLOURS), itertools.cycle(MARKERS), itertools.cycle(STYLES))


def band(axis: Axes, rows: Sequence[Row], x: str, y: str, name: str, look: Look) -> None:
    """A curve through the rows that have a score, with the band of their intervals where they have one."""
    known = [row for row in rows if row[y] is not None]
    places = [row[x] for row in known]
    colour, marker, style = look
    axis.plot(places, [row[y] for row in known], color=colour, marker=marker, linestyle=style, label=short_label(name))
    ends = np.array([row.get(f"{y}_interval") or (np.nan, np.nan) for row in known]).reshape(-1, 2)
    axis.fill_between(places, *ends.T, color=colour, alpha=0.2, linewidth=0)


def score_bars(rows: Sequence[Row], score: str, title: str, label: str) -> tuple[Figure, Axes]:
    """A bar for each row, by its name, with the interval of its score if it has one; the first stands out."""
    figure, axis = panel(height=1.5 + 0.42 * len(rows))
    for place, row in enumerate(rows):
        first = not place
        axis.barh(place, row[score], color=BLUE if first else SKY, hatch=None if first else "//", edgecolor="white")
        if ends := reach(row, score):
            axis.errorbar(row[score], place, xerr=ends, color="black", capsize=3)
    axis.set_yticks(range(len(rows)), [short_label(row["name"]) for row in rows])
    axis.invert_yaxis()
    axis.set(title=title, xlabel=label)
    return figure, axis


def reach(row: Row, score: str) -> list[list[float]] | None:
    """How far an interval reaches below and above its score, as an error bar wants it; None where there is none."""
    if (ends := row.get(f"{score}_interval")) is None:
        return None
    return [[max(0.0, row[score] - ends[0])], [max(0.0, ends[1] - row[score])]]


def short_label(name: str, longest: int = 26) -> str:
    """A name as matplotlib takes it as it is, with dots in the middle if it is long."""
    if len(name) > longest:
        name = f"{name[: longest // 2]}…{name[-(longest // 2 - 1) :]}"
    name = name.replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name  # labels with a leading _ are kept out of legends


def svg(name: str, figure: Figure) -> Markup:
    """The figure as SVG to stand in a page; `name` keeps its ids apart from those of other figures."""
    text = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(text, format="svg", metadata={"Date": None})
    drawing = text.getvalue()[text.getvalue().index("<svg") :]
    drawing = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", drawing)
    title = escape(figure.axes[0].get_title() or figure.get_label())
    return Markup(drawing.replace("<svg", f'<svg role="img" aria-label="{title}"', 1))
