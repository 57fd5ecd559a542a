"""The figures of the reports: one panel each, as wide as a phone, to stand in a page as SVG or in a paper as PDF.

Colours are Okabe and Ito's, which the colour-blind can tell apart; lines differ in style and marker too.
"""

import io
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from recognition.common.files import written_whole

BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE, GREY = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555",
)  # fmt: skip
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # as many as have no common divisor with the colours
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
WIDTH = 4.6  # inches; on a page of 358 pixels letters of 11 points are then 12 pixels high
# Letters are drawn as shapes, so that a figure looks alike wherever it is opened. The salt makes equal figures equal.
STYLE = {"font.size": 11, "svg.fonttype": "path", "svg.hashsalt": "report", "pdf.fonttype": 42, "axes.axisbelow": True}
MIN_PROBES = 20  # of a bin of lags
Row = Mapping[str, Any]


def training_curve(metrics: Sequence[Row], quantity: str, test_accuracy: float | None = None) -> Figure:
    """Loss or accuracy against epochs, as in the published figure: training dashed, validation solid.

    `test_accuracy` adds a dotted line.
    """
    epochs = [line["epoch"] for line in metrics]
    marker = "o" if len(epochs) == 1 else None
    figure, axis = _panel()
    axis.plot(epochs, [m[f"train_{quantity}"] for m in metrics], "--", color=BLUE, label="training", marker=marker)
    axis.plot(epochs, [m[f"validation_{quantity}"] for m in metrics], "-", color=VERMILION, label="validation",
              marker="s" if marker else None)  # fmt: skip
    if test_accuracy is not None:
        axis.axhline(test_accuracy, color=GREY, linestyle=":", label="test, best weights")
    words = {
        "loss": ("Loss", "binary cross-entropy (nats a probe)"),
        "accuracy": ("Accuracy", "share of right answers"),
    }
    axis.set(title=words[quantity][0], ylabel=words[quantity][1], xlabel="epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _finished(figure, axis)


def roc_curve(scores: Row) -> Figure:
    """Hit rate against false-alarm rate at all thresholds, with the bounds of the confidence bins."""
    figure, axis = _panel(height=4.6)
    roc, points = scores["roc"], scores["zroc"]
    axis.plot(roc["false_alarm_rate"], roc["hit_rate"], color=BLUE, label=f"model, AUC {scores['auc']:.3f}")
    axis.plot(points["false_alarm_rate"], points["hit_rate"], "o", color=BLUE, label="bounds of confidence")
    axis.plot(scores["false_alarm_rate"], scores["hit_rate"], "s", color=VERMILION, label="its answers")
    axis.plot([0, 1], [0, 1], ":", color=GREY, label="chance")
    axis.set(title="ROC", xlabel="false-alarm rate", ylabel="hit rate", aspect="equal", xlim=(-0.03, 1.03),
             ylim=(-0.03, 1.03))  # fmt: skip
    return _finished(figure, axis)


def zroc_line(scores: Row) -> Figure:
    """The bounds of the confidence bins in z-scores, with the line through them."""
    figure, axis = _panel()
    zroc = scores["zroc"]
    x, y = zroc["z_false_alarm"], zroc["z_hit"]
    axis.plot(x, y, "o", color=BLUE, label="bounds of confidence")
    if zroc["slope"] is not None:
        ends = [min(x), max(x)]
        label = f"slope {_number(zroc['slope'], 2)}, intercept {_number(zroc['intercept'], 2)}"
        axis.plot(ends, [zroc["intercept"] + zroc["slope"] * end for end in ends], color=BLUE, label=label)
    axis.set(title="zROC", xlabel="z(false-alarm rate)", ylabel="z(hit rate)")
    return _finished(figure, axis)


def retention_curve(curves: Mapping[str, Sequence[Row]], score: str) -> Figure:
    """hit_rate or d_prime against lag, a curve for each name, with bands where rows have intervals.

    Seconds stand above where the films run equally fast, so that frames translate into them. Bins of fewer than
    MIN_PROBES probes are left out: their d' says more of its correction than of memory.
    """
    figure, axis = _panel()
    curves = {name: [row for row in rows if row["num_probes"] >= MIN_PROBES] or rows for name, rows in curves.items()}
    for (name, rows), (colour, marker, style) in zip(curves.items(), _looks(), strict=False):
        _band(axis, rows, "lag_frames", score, name, colour, marker, style)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.set(title=f"Retention: {NAMES[score]} against lag", ylabel=NAMES[score],
             xlabel="frames shown from study to probe")  # fmt: skip
    if score == "hit_rate":
        axis.set_ylim(-0.03, 1.03)
    frame_s = [row["lag_s"] and row["lag_s"] / row["lag_frames"] for rows in curves.values() for row in rows]
    if None not in frame_s and max(frame_s) < 1.05 * min(frame_s):
        above = axis.secondary_xaxis("top", functions=(lambda x: x * frame_s[0], lambda x: x / frame_s[0]))
        above.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        above.set_xlabel("seconds of film", fontsize=10)
    return _finished(figure, axis)


def place_curve(rows: Sequence[Row], title: str, label: str) -> Figure:
    """Hit rate, and false-alarm rate where rows have one, against the place of a clip or a probe."""
    figure, axis = _panel()
    _band(axis, rows, "position", "hit_rate", "hit rate", BLUE, "o", "-")
    if "false_alarm_rate" in rows[0]:
        _band(axis, rows, "position", "false_alarm_rate", "false-alarm rate", VERMILION, "s", "--")
    axis.set(title=title, xlabel=label, ylabel="share “old”", ylim=(-0.03, 1.03))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _finished(figure, axis)


def capacity_curve(curves: Mapping[str, Sequence[Row]]) -> Figure:
    """d' against the number of clips studied: a curve for each name, and the nearest-frame control of the first."""
    figure, axis = _panel()
    for (name, rows), (colour, marker, style) in zip(curves.items(), _looks(), strict=False):
        _band(axis, rows, "num_clips", "d_prime", name, colour, marker, style)
    control = next(iter(curves.values()))
    _band(axis, control, "num_clips", "nearest_frame_d_prime", "nearest studied frame", GREY, "x", ":")
    counts = sorted({row["num_clips"] for rows in curves.values() for row in rows})
    axis.set(title="Capacity", xlabel="clips studied", ylabel="d′", xscale="log")
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.xaxis.set_minor_locator(NullLocator())
    return _finished(figure, axis)


def lookup_curve(rows: Sequence[Row]) -> Figure:
    """Accuracy of one model against the capacity of its kNN memory: a curve for each number of neighbours."""
    figure, axis = _panel()
    for k, (colour, marker, style) in zip(sorted({row["k"] for row in rows}), _looks(), strict=False):
        of_k = [row for row in rows if row["k"] == k]
        _band(axis, of_k, "capacity", "accuracy", f"k = {k}", colour, marker, style)
    capacities = sorted({row["capacity"] for row in rows})
    axis.set(title="Smaller memories", xlabel="study frames in the memory", ylabel="accuracy", xscale="log")
    axis.set_xticks(capacities, [f"{capacity:,}" for capacity in capacities])
    axis.xaxis.set_minor_locator(NullLocator())
    return _finished(figure, axis)


def kinds_bars(rows: Sequence[Row], score: str, title: str, label: str) -> Figure:
    """A bar with its interval for each kind of probe or clip; "old" stands out by colour and hatching."""
    figure, axis = _panel(height=1.3 + 0.42 * len(rows))
    for place, row in enumerate(rows):
        is_old = row["kind"] == "old"
        axis.barh(place, row[score], color=SKY if is_old else ORANGE, hatch="//" if is_old else None, edgecolor="white")
        axis.errorbar(row[score], place, xerr=_reach(row, score), color="black", capsize=3)
    axis.set_yticks(range(len(rows)), [row["kind"].replace("_", " ") for row in rows])
    axis.invert_yaxis()
    axis.set(title=title, xlabel=label, xlim=(0, 1.03))
    return _finished(figure, axis)


def memorability_curve(rows: Sequence[Row]) -> Figure:
    """Hit rate and false-alarm rate against memorability."""
    figure, axis = _panel()
    _band(axis, rows, "memorability", "hit_rate", "hit rate", BLUE, "o", "-")
    _band(axis, rows, "memorability", "false_alarm_rate", "false-alarm rate", VERMILION, "s", "--")
    axis.set(
        title="Answers by memorability", xlabel="memorability of the probe", ylabel="share “old”", ylim=(-0.03, 1.03)
    )
    axis.xaxis.set_major_locator(MaxNLocator(5))
    return _finished(figure, axis)


def memorability_histogram(histogram: Row) -> Figure:
    """How memorable old and new probes are: shares in bars from each `edge` to the next."""
    figure, axis = _panel()
    for kind, colour, style in (("old", BLUE, "-"), ("new", VERMILION, "--")):
        axis.stairs(histogram[kind], histogram["edge"], color=colour, linestyle=style, label=f"{kind} probes")
    axis.set(title="Memorability of the probes", xlabel="memorability of the probe", ylabel="share of the probes")
    axis.xaxis.set_major_locator(MaxNLocator(5))
    return _finished(figure, axis)


def memory_per_byte(points: Sequence[Row]) -> Figure:
    """d' against what is carried from study to probe: name, state_bytes, d_prime, d_prime_interval, is_control.

    What carries nothing has no place on the logarithmic axis and is left out.
    """
    points = [point for point in points if point["state_bytes"]]
    figure, axis = _panel(height=3.2 + 0.25 * len(points))
    looks, markers = iter(_looks()), itertools.cycle(MARKERS)
    for point in points:
        colour, marker = (GREY, next(markers)) if point["is_control"] else next(looks)[:2]
        axis.errorbar(point["state_bytes"], point["d_prime"], _reach(point, "d_prime"), color=colour, marker=marker,
                      linestyle="", capsize=3, markersize=7, label=_label(point["name"]),
                      fillstyle="none" if point["is_control"] else "full")  # fmt: skip
    sizes = [point["state_bytes"] for point in points]
    limits = 10 ** np.floor(np.log10(min(sizes) * 0.8)), 10 ** np.ceil(np.log10(max(sizes) * 1.25))  # whole decades
    axis.set(title="Memory per byte", xlabel="state from study to probe (bytes, float32)", ylabel="d′", xscale="log",
             xlim=limits)  # fmt: skip
    axis.xaxis.set_minor_formatter(NullFormatter())
    return _finished(figure, axis, num_columns=1)


def scores_by_model(rows: Sequence[Row], score: str) -> Figure:
    """One line for each row of a comparison: its runs as open points, their mean as a bar with its interval."""
    figure, axis = _panel(height=1.5 + 0.45 * len(rows))
    for place, (row, (colour, marker, _)) in enumerate(zip(rows, _looks(), strict=False)):
        values = row[f"{score}_values"]
        axis.plot(values, [place] * len(values), marker, color=colour, fillstyle="none", linestyle="")
        axis.errorbar(row[score], place, xerr=_reach(row, score), color=colour, marker="|", markersize=16, capsize=4)
    axis.set_yticks(range(len(rows)), [_label(row["name"]) for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set(title=f"Test episodes: {NAMES[score]}", xlabel=NAMES[score])
    if score == "accuracy":  # the interval of two seeds may reach beyond what an accuracy can be
        low, high = axis.get_xlim()
        axis.set_xlim(max(low, -0.02), min(high, 1.02))
    return _finished(figure, axis)


NAMES = {"hit_rate": "hit rate", "d_prime": "d′", "accuracy": "accuracy"}


def svg(name: str, figure: Figure) -> str:
    """The figure as SVG to stand in a page; `name` keeps its ids apart from those of other figures."""
    text = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(text, format="svg", metadata={"Date": None})
    drawing = text.getvalue()[text.getvalue().index("<svg") :]
    drawing = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", drawing)
    title = escape(figure.axes[0].get_title())
    return drawing.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


def write_figures(figures: Mapping[str, Figure], folder: Path) -> None:
    """Write every figure as `folder`/<name>.pdf, and remove those of an earlier report that are no more."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.pdf"):
        if path.stem not in figures:
            path.unlink()
    for name, figure in figures.items():
        with matplotlib.rc_context(STYLE), written_whole(folder / f"{name}.pdf") as part:
            figure.savefig(part, format="pdf", metadata={"CreationDate": None})


def _panel(height: float = 3.6) -> tuple[Figure, Axes]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        return figure, figure.subplots()


def _finished(figure: Figure, axis: Axes, num_columns: int = 2) -> Figure:
    """The figure with what all have in common; its legend stands below, where it hides nothing."""
    with matplotlib.rc_context(STYLE):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        handles, labels = axis.get_legend_handles_labels()
        if handles:
            columns = 1 if max(map(len, labels)) > 24 else num_columns
            figure.legend(handles, labels, loc="outside lower center", frameon=False, ncols=columns, fontsize=10)
    return figure


def _looks() -> Iterable[tuple[str, str, Any]]:
    """Colours, markers and line styles for one curve after the other."""
    return zip(itertools.cycle(COLOURS), itertools.cycle(MARKERS), itertools.cycle(STYLES))


def _band(axis: Axes, rows: Sequence[Row], x: str, y: str, name: str, colour: str, marker: str, style: Any) -> None:
    """A curve through the rows that have a score, with the band of their intervals where they have one."""
    known = [row for row in rows if row[y] is not None]
    places = [row[x] for row in known]
    axis.plot(places, [row[y] for row in known], color=colour, marker=marker, linestyle=style, label=_label(name))
    ends = np.array([row.get(f"{y}_interval") or (np.nan, np.nan) for row in known]).reshape(-1, 2)
    axis.fill_between(places, *ends.T, color=colour, alpha=0.2, linewidth=0)


def _reach(row: Row, score: str) -> list[list[float]] | None:
    """How far an interval reaches below and above its score, as an error bar wants it; None where there is none."""
    if (ends := row.get(f"{score}_interval")) is None:
        return None
    return [[max(0.0, row[score] - ends[0])], [max(0.0, ends[1] - row[score])]]


def _label(name: str, longest: int = 26) -> str:
    """A name as matplotlib takes it as it is, with dots in the middle if it is long."""
    if len(name) > longest:
        name = f"{name[: longest // 2]}…{name[-(longest // 2 - 1) :]}"
    name = name.replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name  # labels with a leading _ are kept out of legends


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "−")
