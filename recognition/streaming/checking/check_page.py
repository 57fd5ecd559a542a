"""What a check of runs on a stream tells: check.json, check.csv, check.html, and a table for the terminal."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from recognition.common.files import written_whole
from recognition.common.pages import interval, number, render
from recognition.common.plotting import GREY, Look, band, finished, looks, panel, short_label
from recognition.people.crowd_scores import cell
from recognition.streaming.checking.check_scores import RATES

FOLDER = Path(__file__).parent / "templates"
SHOWN_RATE = RATES[-1]  # of false events an hour, in the figure of lags
MOST_BANDS = 4  # that can be told apart in a figure; the tables have all intervals
UNITS = ("B", "kB", "MB", "GB")
Row = Mapping[str, Any]


def write_check(folder: Path, found: Mapping[str, Any]) -> None:
    """Write what `Bench.found` tells into a folder, each file whole."""
    texts = {
        "check.json": json.dumps(found, indent=2, allow_nan=False) + "\n",
        "check.csv": table_csv(found["rows"]),
        "check.html": page(found),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        with written_whole(folder / name) as part:
            part.write_text(text, encoding="utf-8")


def page(found: Mapping[str, Any]) -> str:
    """The page as HTML."""
    return render("check.html", FOLDER, figures(found), found=found, rates=RATES, shown_rate=SHOWN_RATE, size=size)


def figures(found: Mapping[str, Any]) -> dict[str, Figure]:
    """Recall by lag and by false events, of each run and beside them the ring and chance."""
    drawn = {}
    known, by_rate = found["streams"][0]["lags_s"], {"lags": panel(height=4.2), "false_events": panel(height=4.2)}
    hidden = {"recall_interval": None} if len(found["rows"]) > MOST_BANDS else {}
    for row, look in zip(found["rows"], _looks(found["rows"]), strict=True):
        by_lag = [of for of in _at(row, SHOWN_RATE)["by_lag"] if of["name"] in known]
        rows = [{**of, **hidden, "lag_s": known[of["name"]]} for of in by_lag]
        band(by_rate["lags"][1], rows, "lag_s", "recall", row["name"], look)
        by_rate["false_events"][1].plot(
            [point["false_per_hour"] for point in row["curve"]],
            [point["recall"] for point in row["curve"]],
            color=look.colour,
            linestyle=look.style,
            label=short_label(row["name"]),
            drawstyle="steps-post" if row["kind"] != "chance" else "default",
        )
    figure, axis = by_rate["lags"]
    axis.set(title=f"Recall by lag, at {SHOWN_RATE:g} false events an hour", xlabel="about so long ago",
             ylabel="share of repeats found", xscale="log", ylim=(-0.03, 1.03))  # fmt: skip
    axis.set_xticks(list(known.values()), list(known))
    axis.xaxis.set_minor_locator(NullLocator())
    drawn["lags"] = finished(figure, axis)
    figure, axis = by_rate["false_events"]
    axis.set_xscale("symlog", linthresh=1)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set(title="Recall by false events", xlabel="false events an hour", ylabel="share of repeats found",
             ylim=(-0.03, 1.03))  # fmt: skip
    drawn["false_events"] = finished(figure, axis)
    return drawn


def table(rows: Sequence[Row]) -> str:
    """The rows for a terminal, a line each."""
    heads = ["", *(f"recall at {rate:g}/h" for rate in RATES), "mean precision", "calibrated: recall, false/h"]
    heads += ["when: median, near", "step", "state"]
    lines = [heads, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) if not place else text.rjust(width)
                  for place, (text, width) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in lines
    )  # fmt: skip


def table_csv(rows: Sequence[Row]) -> str:
    """A line for each number with its interval."""
    text = io.StringIO()
    columns = ("name", "kind", "measure", "false_per_hour", "of", "value", "low", "high", "num_repeats")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        for line in _lines(row):
            writer.writerow({name: cell(value) for name, value in line.items()})
    return text.getvalue()


def size(num_bytes: float) -> str:
    """Bytes in words: 37.4 MB."""
    for unit in UNITS[:-1]:
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} {UNITS[-1]}"


def _lines(row: Row) -> Iterator[dict[str, Any]]:
    def line(measure: str, value: Any, ends: Sequence[float] | None = None, **others: Any) -> dict[str, Any]:
        low, high = ends or (None, None)
        told = {"name": row["name"], "kind": row["kind"], "measure": measure, "of": "all"}
        return told | {"value": value, "low": low, "high": high} | others

    for at in row["recall"]:
        for of in (at | {"name": "all"}, *at["by_lag"], *at["by_change"]):
            others = {"false_per_hour": at["false_per_hour"], "of": of["name"], "num_repeats": of["num"]}
            yield line("recall", of["recall"], of["recall_interval"], **others)
    if calibrated := row["calibrated"]:
        others = {"false_per_hour": calibrated["false_per_hour"], "num_repeats": calibrated["num"]}
        yield line("recall at the calibrated threshold", calibrated["recall"], calibrated["recall_interval"], **others)
        yield line("calibrated threshold", calibrated["threshold"])
    yield line("mean precision", row["mean_precision"])
    yield line("error of when, median in s", row["when"]["median_s"])
    yield line("share of when within 1 s", row["when"]["within"], row["when"]["within_interval"])
    yield line("step in ms", row["step_ms"])
    yield line("state in bytes", row["state_bytes"])


def _cells(row: Row) -> list[str]:
    calibrated, when = row["calibrated"], row["when"]
    told = [f"{number(at['recall'], 2)} {interval(at['recall_interval'], 2)}" for at in row["recall"]]
    if row["kind"] == "chance":
        told = [number(at["recall"], 2) for at in row["recall"]]
    return [
        row["name"],
        *told,
        number(row["mean_precision"], 2),
        f"{calibrated['recall']:.2f}, {calibrated['false_per_hour']:.1f}" if calibrated else "–",
        "–" if when["median_s"] is None else f"{when['median_s']:.2g} s, {when['within']:.0%}",
        "–" if row["step_ms"] is None else f"{row['step_ms']:.2g} ms",
        size(row["state_bytes"]) if row["state_bytes"] else "–",
    ]


def _at(row: Row, rate: float) -> Row:
    return next(at for at in row["recall"] if at["false_per_hour"] == rate)


def _looks(rows: Sequence[Row]) -> Iterator[Look]:
    """Looks of runs, and grey ones for what stands beside them."""
    others = looks()
    for row in rows:
        yield next(others) if row["kind"] == "run" else Look(GREY, "x", "--" if row["kind"] == "ring" else ":")
