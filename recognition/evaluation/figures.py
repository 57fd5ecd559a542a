"""The figures of the reports: one panel each, as wide as a phone, to stand in a page as SVG or in a paper as PDF."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from recognition.common.files import written_whole
from recognition.common.pages import number
from recognition.common.plotting import (
    BLUE,
    GREY,
    MARKERS,
    ORANGE,
    SKY,
    STYLE,
    VERMILION,
    Look,
    Row,
    band,
    finished,
    looks,
    panel,
    reach,
    short_label,
)

MIN_PROBES = 20  # of a bin of lags


def training_curve(metrics: Sequence[Row], quantity: str, test_accuracy: float | None = None) -> Figure:
    """Loss or accuracy against epochs, as in the published figure: training dashed, validation solid.

    `test_accuracy` adds a dotted line.
    """
    epochs = [line["epoch"] for line in metrics]
    marker = "o" if len(epochs) == 1 else None
    figure, axis = panel()
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
    return finished(figure, axis)


def roc_curve(scores: Row) -> Figure:
    """Hit rate against false-alarm rate at all thresholds, with the bounds of the confidence bins."""
    figure, axis = panel(height=4.6)
    roc, points = scores["roc"], scores["zroc"]
    axis.plot(roc["false_alarm_rate"], roc["hit_rate"], color=BLUE, label=f"model, AUC {scores['auc']:.3f}")
    axis.plot(points["false_alarm_rate"], points["hit_rate"], "o", color=BLUE, label="bounds of confidence")
    axis.plot(scores["false_alarm_rate"], scores["hit_rate"], "s", color=VERMILION, label="its answers")
    axis.plot([0, 1], [0, 1], ":", color=GREY, label="chance")
    axis.set(title="ROC", xlabel="false-alarm rate", ylabel="hit rate", aspect="equal", xlim=(-0.03, 1.03),
             ylim=(-0.03, 1.03))  # fmt: skip
    return finished(figure, axis)


def zroc_line(scores: Row) -> Figure:
    """The bounds of the confidence bins in z-scores, with the line through them."""
    figure, axis = panel()
    zroc = scores["zroc"]
    x, y = zroc["z_false_alarm"], zroc["z_hit"]
    axis.plot(x, y, "o", color=BLUE, label="bounds of confidence")
    if zroc["slope"] is not None:
        ends = [min(x), max(x)]
        label = f"slope {number(zroc['slope'], 2)}, intercept {number(zroc['intercept'], 2)}"
        axis.plot(ends, [zroc["intercept"] + zroc["slope"] * end for end in ends], color=BLUE, label=label)
    axis.set(title="zROC", xlabel="z(false-alarm rate)", ylabel="z(hit rate)")
    return finished(figure, axis)


def retention_curve(curves: Mapping[str, Sequence[Row]], score: str) -> Figure:
    """hit_rate or d_prime against lag, a curve for each name, with bands where rows have intervals.

    Seconds stand above where the films run equally fast, so that frames translate into them. Bins of fewer than
    MIN_PROBES probes are left out: their d' says more of its correction than of memory.
    """
    figure, axis = panel()
    curves = {name: [row for row in rows if row["num_probes"] >= MIN_PROBES] or rows for name, rows in curves.items()}
    for (name, rows), look in zip(curves.items(), looks(), strict=False):
        band(axis, rows, "lag_frames", score, name, look)
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
    return finished(figure, axis)


def place_curve(rows: Sequence[Row], title: str, label: str) -> Figure:
    """Hit rate, and false-alarm rate where rows have one, against the place of a clip or a probe."""
    figure, axis = panel()
    band(axis, rows, "position", "hit_rate", "hit rate", Look(BLUE, "o", "-"))
    if "false_alarm_rate" in rows[0]:
        band(axis, rows, "position", "false_alarm_rate", "false-alarm rate", Look(VERMILION, "s", "--"))
    axis.set(title=title, xlabel=label, ylabel="share “old”", ylim=(-0.03, 1.03))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return finished(figure, axis)


def capacity_curve(curves: Mapping[str, Sequence[Row]]) -> Figure:
    """d' against the number of clips studied: a curve for each name, and the nearest-frame control of the first."""
    figure, axis = panel()
    for (name, rows), look in zip(curves.items(), looks(), strict=False):
        band(axis, rows, "num_clips", "d_prime", name, look)
    control = next(iter(curves.values()))
    band(axis, control, "num_clips", "nearest_frame_d_prime", "nearest studied frame", Look(GREY, "x", ":"))
    counts = sorted({row["num_clips"] for rows in curves.values() for row in rows})
    axis.set(title="Capacity", xlabel="clips studied", ylabel="d′", xscale="log")
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.xaxis.set_minor_locator(NullLocator())
    return finished(figure, axis)


def kinds_bars(rows: Sequence[Row], score: str, title: str, label: str) -> Figure:
    """A bar with its interval for each kind of probe or clip; "old" stands out by colour and hatching."""
    figure, axis = panel(height=1.3 + 0.42 * len(rows))
    for place, row in enumerate(rows):
        is_old = row["kind"] == "old"
        axis.barh(place, row[score], color=SKY if is_old else ORANGE, hatch="//" if is_old else None, edgecolor="white")
        axis.errorbar(row[score], place, xerr=reach(row, score), color="black", capsize=3)
    axis.set_yticks(range(len(rows)), [row["kind"].replace("_", " ") for row in rows])
    axis.invert_yaxis()
    axis.set(title=title, xlabel=label, xlim=(0, 1.03))
    return finished(figure, axis)


def memorability_curve(rows: Sequence[Row]) -> Figure:
    """Hit rate and false-alarm rate against memorability."""
    figure, axis = panel()
    band(axis, rows, "memorability", "hit_rate", "hit rate", Look(BLUE, "o", "-"))
    band(axis, rows, "memorability", "false_alarm_rate", "false-alarm rate", Look(VERMILION, "s", "--"))
    axis.set(
        title="Answers by memorability", xlabel="memorability of the probe", ylabel="share “old”", ylim=(-0.03, 1.03)
    )
    axis.xaxis.set_major_locator(MaxNLocator(5))
    return finished(figure, axis)


def memorability_histogram(histogram: Row) -> Figure:
    """How memorable old and new probes are: shares in bars from each `edge` to the next."""
    figure, axis = panel()
    for kind, colour, style in (("old", BLUE, "-"), ("new", VERMILION, "--")):
        axis.stairs(histogram[kind], histogram["edge"], color=colour, linestyle=style, label=f"{kind} probes")
    axis.set(title="Memorability of the probes", xlabel="memorability of the probe", ylabel="share of the probes")
    axis.xaxis.set_major_locator(MaxNLocator(5))
    return finished(figure, axis)


def memory_per_byte(points: Sequence[Row]) -> Figure:
    """d' against what is carried from study to probe: name, state_bytes, d_prime, d_prime_interval, is_control.

    What carries nothing has no place on the logarithmic axis and is left out.
    """
    points = [point for point in points if point["state_bytes"]]
    figure, axis = panel(height=3.2 + 0.25 * len(points))
    others, markers = looks(), itertools.cycle(MARKERS)
    for point in points:
        colour, marker = (GREY, next(markers)) if point["is_control"] else next(others)[:2]
        axis.errorbar(point["state_bytes"], point["d_prime"], reach(point, "d_prime"), color=colour, marker=marker,
                      linestyle="", capsize=3, markersize=7, label=short_label(point["name"]),
                      fillstyle="none" if point["is_control"] else "full")  # fmt: skip
    sizes = [point["state_bytes"] for point in points]
    limits = 10 ** np.floor(np.log10(min(sizes) * 0.8)), 10 ** np.ceil(np.log10(max(sizes) * 1.25))  # whole decades
    axis.set(title="Memory per byte", xlabel="state from study to probe (bytes, float32)", ylabel="d′", xscale="log",
             xlim=limits)  # fmt: skip
    axis.xaxis.set_minor_formatter(NullFormatter())
    return finished(figure, axis, num_columns=1)


def scores_by_model(rows: Sequence[Row], score: str) -> Figure:
    """One line for each row of a comparison: its runs as open points, their mean as a bar with its interval."""
    figure, axis = panel(height=1.5 + 0.45 * len(rows))
    for place, (row, (colour, marker, _)) in enumerate(zip(rows, looks(), strict=False)):
        values = row[f"{score}_values"]
        axis.plot(values, [place] * len(values), marker, color=colour, fillstyle="none", linestyle="")
        axis.errorbar(row[score], place, xerr=reach(row, score), color=colour, marker="|", markersize=16, capsize=4)
    axis.set_yticks(range(len(rows)), [short_label(row["name"]) for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set(title=f"Test episodes: {NAMES[score]}", xlabel=NAMES[score])
    if score == "accuracy":  # the interval of two seeds may reach beyond what an accuracy can be
        low, high = axis.get_xlim()
        axis.set_xlim(max(low, -0.02), min(high, 1.02))
    return finished(figure, axis)


NAMES = {"hit_rate": "hit rate", "d_prime": "d′", "accuracy": "accuracy"}


def write_figures(figures: Mapping[str, Figure], folder: Path) -> None:
    """Write every figure as `folder`/<name>.pdf, and remove those of an earlier report that are no more."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.pdf"):
        if path.stem not in figures:
            path.unlink()
    for name, figure in figures.items():
        with matplotlib.rc_context(STYLE), written_whole(folder / f"{name}.pdf") as part:
            figure.savefig(part, format="pdf", metadata={"CreationDate": None})
