"""The figures of a crowd: each person a thin line or an open mark, the mean over persons with its interval."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from recognition.common.pages import number
from recognition.common.plotting import BLUE, GREY, VERMILION, Look, band, finished, panel, reach
from recognition.evaluation import figures as draw
from recognition.people.crowd import SCORES, Crowd

NAMES = {"accuracy": "accuracy", "hit_rate": "hit rate", "false_alarm_rate": "false-alarm rate", "auc": "AUC"}


def crowd_figures(crowd: Crowd, told: Mapping[str, Any]) -> dict[str, Figure]:
    """The figures of a crowd's page by their names, those alone for which there is something to draw."""
    zrocs, retention = [person["scores"]["zroc"] for person in crowd.counted], told["retention"]
    figures = {"persons": persons_figure(told), "roc": roc_figure(zrocs, told), "zroc": zroc_figure(zrocs, told)}
    figures["times"] = times_figure(told["by_grade"])
    if retention["by_lag"]:
        figures["retention_hit_rate"] = draw.retention_curve({"people": retention["by_lag"]}, "hit_rate")
    for name, title, label in (
        ("by_serial_position", "Serial position", "place of the clip in the study"),
        ("by_probe_order", "Order of test", "place of the probe in the test"),
    ):
        if len(retention[name]) > 1:
            figures[name] = draw.place_curve(retention[name], title, label)
    if len(retention["by_kind"]) > 1:
        label = "share “old”: right for old ones alone"
        figures["kinds"] = draw.kinds_bars(retention["by_kind"], "says_old", "Kinds of probes", label)
    if told["by_clip_kind"]:
        label = "hit rate of their old probes"
        figures["clip_kinds"] = draw.kinds_bars(told["by_clip_kind"], "hit_rate", "Kinds of study clips", label)
    return figures


def persons_figure(told: Mapping[str, Any]) -> Figure:
    """Every score that is a share, of each person, with the mean and its interval."""
    shares = [score for score in SCORES if score in NAMES]
    figure, axis = panel(height=1.5 + 0.45 * len(shares))
    for place, score in enumerate(shares):
        values = told[f"{score}_values"]
        axis.plot(values, [place] * len(values), "o", color=BLUE, fillstyle="none", linestyle="")
        axis.errorbar(
            told[score], place, xerr=reach(told, score), color=VERMILION, marker="|", markersize=16, capsize=4
        )
    axis.set_yticks(range(len(shares)), [NAMES[score] for score in shares])
    axis.set_ylim(len(shares) - 0.5, -0.5)
    axis.set(title="Persons", xlabel="share", xlim=(-0.03, 1.03))
    return finished(figure, axis)


def roc_figure(zrocs: Sequence[Mapping[str, Any]], told: Mapping[str, Any]) -> Figure:
    """Hit rate against false-alarm rate at the bounds of the scale."""
    figure, axis = panel(height=4.6)
    for zroc in zrocs:
        axis.plot([0, *zroc["false_alarm_rate"][::-1], 1], [0, *zroc["hit_rate"][::-1], 1], color=GREY, linewidth=0.6)
    mean = told["zroc"]
    axis.plot(mean["false_alarm_rate"], mean["hit_rate"], "o-", color=BLUE, label="mean of the z-scores")
    axis.plot([0, 1], [0, 1], ":", color=GREY, label="chance")
    axis.set(title="ROC", xlabel="false-alarm rate", ylabel="hit rate", aspect="equal", xlim=(-0.03, 1.03),
             ylim=(-0.03, 1.03))  # fmt: skip
    return finished(figure, axis)


def zroc_figure(zrocs: Sequence[Mapping[str, Any]], told: Mapping[str, Any]) -> Figure:
    """The same in z-scores."""
    figure, axis = panel()
    for zroc in zrocs:
        axis.plot(zroc["z_false_alarm"], zroc["z_hit"], color=GREY, linewidth=0.6)
    mean = told["zroc"]
    label = "mean" if mean["slope"] is None else f"mean; slopes {number(mean['slope'], 2)} on average"
    axis.plot(mean["z_false_alarm"], mean["z_hit"], "o-", color=BLUE, label=label)
    axis.set(title="zROC", xlabel="z(false-alarm rate)", ylabel="z(hit rate)")
    return finished(figure, axis)


def times_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """The time to answer by the answer."""
    figure, axis = panel()
    places = [{**row, "place": place} for place, row in enumerate(rows)]
    band(axis, places, "place", "median_rt_s", "mean over persons", Look(BLUE, "o", "-"))
    axis.set_xticks(range(len(rows)), ["sure\nnew", "less", "unsure", "unsure", "less", "sure\nold"])
    axis.set(title="Response times", xlabel="answer", ylabel="seconds (median)")
    axis.set_ylim(bottom=0)
    return finished(figure, axis)
