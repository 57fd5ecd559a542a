"""The figure of people beside models: one panel for each thing that is compared."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from recognition.common.files import written_whole
from recognition.common.plotting import GREY, STYLE, WIDTH, Look, finished, looks, panel, short_label
from recognition.people.published_figures import RatePair, rate_pairs
from recognition.people.side_by_side import ALL_PAIRS, SCORES, Estimate, Shown

KIND_LABELS = {ALL_PAIRS: "all", "no_cut": "no cut", "cut": "cut", "other_film": "other film"}
FORMATS = ("pdf", "svg", "png")
DODGE = 0.6  # of the width between two kinds is shared by the rows
Draw = Callable[[Axes, Sequence[Shown]], None]


def panels(rows: Sequence[Shown]) -> dict[str, Draw]:
    """What there is to draw of some rows, by name: functions that draw it on an axis."""
    drawn: dict[str, Draw] = {
        score: partial(_dots, score=score) for score in ("accuracy", "d_prime", "criterion", "zroc_slope")
    }
    drawn = {score: draw for score, draw in drawn.items() if any(row.scores[score].values for row in rows)}
    drawn["rates"] = _rates
    if any(row.by_lag for row in rows):
        drawn["retention"] = _retention
    if any(row.by_clip_kind for row in rows):
        drawn["clip_kinds"] = _clip_kinds
    if any(row.by_order for row in rows):
        drawn["order"] = _order
    return drawn


def panel_figures(rows: Sequence[Shown]) -> dict[str, Figure]:
    """Each panel as a figure of its own, as wide as a phone, to stand in a page."""
    figures = {}
    for name, draw in panels(rows).items():
        figure, axis = panel(height=1.7 + 0.45 * len(rows) if name in SCORES else 4.2)
        draw(axis, rows)
        figures[name] = finished(figure, axis)
    return figures


def joined_figure(rows: Sequence[Shown]) -> Figure:
    """All panels in one figure of two columns, for a paper."""
    drawn = panels(rows)
    num_lines = -(-len(drawn) // 2)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2 * WIDTH, num_lines * max(3.2, 1.5 + 0.45 * len(rows))), layout="constrained")
        axes = figure.subplots(num_lines, 2, squeeze=False).ravel()
        for axis, draw in zip(axes, drawn.values(), strict=False):
            draw(axis, rows)
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
        for axis in axes[len(drawn) :]:
            axis.remove()
        known = [axis.get_legend_handles_labels() for axis in axes[: len(drawn)]]
        legend = {label: handle for handles, labels in known for handle, label in zip(handles, labels, strict=True)}
        figure.legend(legend.values(), legend.keys(), loc="outside lower center", frameon=False, ncols=2, fontsize=10)
    return figure


def write_figure(rows: Sequence[Shown], path: Path) -> None:
    """Write the joined figure in all FORMATS, as `path` with their endings."""
    figure = joined_figure(rows)
    with matplotlib.rc_context(STYLE):
        figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once for all, which takes most of the time
    for kind in FORMATS:
        metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}[kind]
        with matplotlib.rc_context(STYLE), written_whole(path.with_suffix(f".{kind}")) as part:
            figure.savefig(part, format=kind, metadata=metadata, dpi=200)


def _dots(axis: Axes, rows: Sequence[Shown], score: str) -> None:
    """One line for each row: persons or seeds as open marks, their mean as a bar with its interval."""
    for place, (row, look) in enumerate(zip(rows, looks(), strict=False)):
        told = row.scores[score]
        places = [place] * len(told.values)
        axis.plot(told.values, places, look.marker, color=look.colour, fillstyle="none", linestyle="", alpha=0.5)
        if told.mean is not None:
            axis.errorbar(told.mean, place, xerr=_reach(told), color=look.colour, marker="|", markersize=18, capsize=5,
                          linewidth=2, markeredgewidth=2)  # fmt: skip
    axis.set_yticks(range(len(rows)), [short_label(row.name, 20) for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    label = SCORES[score].label
    axis.set(title=label if score in ("d_prime", "zroc_slope") else label.capitalize(), xlabel=SCORES[score].meaning)
    if SCORES[score].is_share:  # the interval of two seeds may reach beyond what a share can be
        low, high = axis.get_xlim()
        axis.set_xlim(max(low, -0.02), min(high, 1.02))


def _rates(axis: Axes, rows: Sequence[Shown]) -> None:
    """Hit rate against false-alarm rate: persons or seeds as small open marks, means as full ones."""
    for row, look in zip(rows, looks(), strict=False):
        hits, false_alarms = row.scores["hit_rate"], row.scores["false_alarm_rate"]
        if hits.mean is None or false_alarms.mean is None:
            continue
        if len(hits.values) == len(false_alarms.values) > 1:
            axis.plot(false_alarms.values, hits.values, look.marker, color=look.colour, fillstyle="none", markersize=4,
                      alpha=0.5)  # fmt: skip
        axis.errorbar(false_alarms.mean, hits.mean, _reach(hits), _reach(false_alarms), color=look.colour,
                      marker=look.marker, markersize=8, capsize=2, linestyle="",
                      label=short_label(row.name))  # fmt: skip
    for pair in rate_pairs():
        axis.plot(pair.false_alarm_rate, pair.hit_rate, "*", color=GREY, markersize=11, label=pair_label(pair))
    axis.plot([0, 1], [0, 1], ":", color=GREY)
    axis.set(title="Hits and false alarms", xlabel="false-alarm rate", ylabel="hit rate", xlim=(-0.03, 1.03),
             ylim=(-0.03, 1.03))  # fmt: skip


def pair_label(pair: RatePair) -> str:
    """How a published pair of rates is named in the figure; the page has its source."""
    return f"published: {pair.task}"


def _retention(axis: Axes, rows: Sequence[Shown]) -> None:
    for row, look in zip(rows, looks(), strict=False):
        if row.by_lag:
            lags, told = zip(*row.by_lag, strict=True)
            _curve(axis, lags, told, look, row.name)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set(title="Retention", xlabel="seconds from study to probe", ylabel="hit rate", ylim=(-0.03, 1.03))


def _clip_kinds(axis: Axes, rows: Sequence[Shown]) -> None:
    _kinds(axis, rows, [row.by_clip_kind for row in rows])
    axis.set(title="Kinds of study clips", ylabel="hit rate of old probes", ylim=(-0.03, 1.03))


def _order(axis: Axes, rows: Sequence[Shown]) -> None:
    axis.axhline(0.5, color=GREY, linestyle=":")
    _kinds(axis, rows, [row.by_order for row in rows])
    axis.set(title="Which came first?", ylabel="share right, chance 0.5", ylim=(-0.03, 1.03))


def _kinds(axis: Axes, rows: Sequence[Shown], tables: Sequence[Mapping[str, Estimate]]) -> None:
    """Scores by kinds, the rows beside each other at each kind."""
    names = [name for name in KIND_LABELS if any(name in table for table in tables)]
    for number, (row, table, look) in enumerate(zip(rows, tables, looks(), strict=False)):
        shift = DODGE * ((number + 0.5) / len(rows) - 0.5)
        known = [(place + shift, table[name]) for place, name in enumerate(names) if name in table]
        if known:
            _curve(axis, [place for place, _ in known], [told for _, told in known], look._replace(style=""), row.name)
    axis.set_xticks(range(len(names)), [KIND_LABELS[name] for name in names])


def _curve(axis: Axes, places: Sequence[float], told: Sequence[Estimate], look: Look, name: str) -> None:
    """Means with their intervals as bars."""
    means = {place: one.mean for place, one in zip(places, told, strict=True) if one.mean is not None}
    for place, one in zip(places, told, strict=True):
        if place in means and (bar := _reach(one)):
            axis.errorbar(place, means[place], bar, color=look.colour, capsize=2, linestyle="")
    axis.plot(list(means), list(means.values()), color=look.colour, marker=look.marker, linestyle=look.style,
              label=short_label(name))  # fmt: skip


def _reach(told: Estimate) -> list[list[float]] | None:
    """How far an interval reaches below and above its mean, as an error bar wants it."""
    if told.mean is None or told.interval is None:
        return None
    return [[max(0.0, told.mean - told.interval[0])], [max(0.0, told.interval[1] - told.mean)]]
