"""Figures of people from the literature, to hold models against: published_figures.csv beside this file.

Each stands with its source and its basis: "published", as the source gives it; "computed", by this project from
published data; "direction", where only the direction of a difference is known. The last has no value, so that it cannot
be drawn or taken for a number.
"""

import csv
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).with_suffix(".csv")
BASES = ("published", "computed", "direction")
DIRECTIONS = ("lower", "no difference", "higher")


class PublishedFigure(NamedTuple):
    """One figure of people: either a value or a direction."""

    measure: str
    task: str
    condition: str
    value: float | None  # None where only the direction is known
    direction: str | None  # one of DIRECTIONS, None where there is a value
    num_people: int | None
    num_trials: int | None
    basis: str  # one of BASES
    source: str
    note: str


class RatePair(NamedTuple):
    """A hit rate with the false-alarm rate that belongs to it."""

    task: str
    hit_rate: float
    false_alarm_rate: float
    source: str


def published_figures() -> list[PublishedFigure]:
    """All figures, in the order of the file."""
    with open(FILE, encoding="utf-8", newline="") as file:
        return [_figure(row) for row in csv.DictReader(file)]


def rate_pairs() -> list[RatePair]:
    """Hit rates and false-alarm rates that were published of the same test: they have a place in a figure of both."""
    known = {
        (figure.task, figure.condition, figure.source, figure.measure): figure.value
        for figure in published_figures()
        if figure.basis == "published"
    }
    pairs = []
    for (task, condition, source, measure), hits in known.items():
        false_alarms = known.get((task, condition, source, "false_alarm_rate"))
        if measure == "hit_rate" and hits is not None and false_alarms is not None:
            pairs.append(RatePair(task, hits, false_alarms, source))
    return pairs


def _figure(row: dict[str, str]) -> PublishedFigure:
    return PublishedFigure(
        measure=row["measure"],
        task=row["task"],
        condition=row["condition"],
        value=float(row["value"]) if row["value"] else None,
        direction=row["direction"] or None,
        num_people=int(row["num_people"]) if row["num_people"] else None,
        num_trials=int(row["num_trials"]) if row["num_trials"] else None,
        basis=row["basis"],
        source=row["source"],
        note=row["note"],
    )
