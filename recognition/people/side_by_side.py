"""People and models as rows of one table: of each score the mean over persons or seeds, with its interval."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recognition.common.command_line import InputError
from recognition.common.files import is_there, read_whole
from recognition.episodes.episode_spec import CLIP_KINDS
from recognition.evaluation.comparison import compare
from recognition.evaluation.signal_detection import seed_interval
from recognition.people.crowd import Crowd
from recognition.training.config import RunConfig
from recognition.training.model import read_config
from recognition.training.runs import Run

ORDER_FILE = "order.json"  # what `participants order` writes into a run's folder
ALL_PAIRS = "all"
LEAST_PROBES = 5  # of a person, in a bin of lags


class Score(NamedTuple):
    """How a score is told."""

    label: str
    digits: int
    is_share: bool
    meaning: str


SCORES = {
    "accuracy": Score("accuracy", 3, True, "share of right answers"),
    "d_prime": Score("d′", 2, False, "standard deviations"),
    "hit_rate": Score("hit rate", 3, True, "“old” to old probes"),
    "false_alarm_rate": Score("false alarms", 3, True, "“old” to new probes"),
    "criterion": Score("criterion", 2, False, "above 0: reluctant to say “old”"),
    "zroc_slope": Score("zROC slope", 2, False, "deviation of new over that of old"),
    "auc": Score("AUC", 3, True, "area under the ROC"),
}
COUNTED = tuple(score for score in SCORES if score != "zroc_slope")  # stand in evaluation.json by these names
NEEDED = (*COUNTED, "zroc", "retention", "sha256", "trained_on", "calibrated", "controls", "num_study_frames",
          "state_size", "state_bytes", "seconds_per_episode")  # fmt: skip


class Estimate(NamedTuple):
    """A score of several persons or seeds: its mean with the 95 % interval of that, None for one of them alone."""

    values: list[float]
    mean: float | None
    interval: list[float] | None


class Shown(NamedTuple):
    """A row: a crowd, or runs that differ in their seed alone.

    Attributes:
        scores: by the names in SCORES.
        by_lag: of old probes, seconds from study to probe, and the hit rate at that lag; ascending.
        by_clip_kind: hit rates of old probes by the kind of their clip.
        by_order: accuracy of which came first, ALL_PAIRS together and by the kind of their clip; empty if not asked.
        index_sha256: of the episodes, None if they are of another source.
    """

    name: str
    is_people: bool
    kind: str  # what it is, in words
    num: int  # persons or seeds
    num_left_out: int
    scores: dict[str, Estimate]
    by_lag: list[tuple[float, Estimate]]
    by_clip_kind: dict[str, Estimate]
    by_order: dict[str, Estimate]
    index_sha256: str | None


class ScoredRun(NamedTuple):
    """A run that evaluate.py has scored."""

    path: Path
    config: RunConfig
    evaluation: dict[str, Any]  # the content of evaluation.json; "order" is that of order.json, None without


def open_scored(path: Path) -> ScoredRun:
    """Read what evaluate.py, and perhaps `participants order`, left in a run's folder.

    Raises InputError if it is no run, or not scored yet, or if its file of orders is not one.
    """
    run = Run(path)
    if not is_there(run.config_file):
        raise InputError(f"{path}: neither people (no people.json there) nor a run (no config.yaml)")
    config = read_config(run.config_file)
    evaluation = run.read_evaluation()
    if not evaluation:
        raise InputError(f"{run.evaluation_file}: no such file; score the run with evaluate.py first")
    if missing := sorted(set(NEEDED) - evaluation.keys()):
        raise InputError(f"{run.evaluation_file}: {missing[0]} is missing; score the run anew with evaluate.py")
    for score in COUNTED:
        if not isinstance(evaluation[score], int | float | None):
            raise InputError(f"{run.evaluation_file}: {score} is not a number; score the run anew with evaluate.py")
    return ScoredRun(path, config, evaluation | {"order": _read_order(path / ORDER_FILE, evaluation)})


def people_row(crowd: Crowd, name: str) -> Shown:
    """A crowd as a row. Raises InputError if everyone is left out."""
    persons = crowd.counted
    if not persons:
        raise InputError(f"{name}: all {len(crowd.persons)} persons are left out; nothing is left to compare")
    scores = {
        score: estimate((person["scores"].get(score) for person in persons), SCORES[score].is_share)
        for score in COUNTED
    }
    scores["zroc_slope"] = estimate(((person["scores"].get("zroc") or {}).get("slope") for person in persons), False)
    return Shown(
        name=name,
        is_people=True,
        kind=crowd.source,
        num=len(persons),
        num_left_out=len(crowd.persons) - len(persons),
        scores=scores,
        by_lag=people_by_lag(crowd),
        by_clip_kind=_by_kind((person["by_clip_kind"] for person in persons), "hit_rate"),
        by_order=_by_order([person["order"] for person in persons if person["order"]]),
        index_sha256=crowd.index_sha256,
    )


def model_rows(runs: Sequence[ScoredRun]) -> tuple[list[Shown], list[str]]:
    """Runs as rows, those that differ in their seed alone as one, and what a reader must know of them."""
    compared = compare([(run.config, run.evaluation) for run in runs])
    rows = []
    for row in compared.rows:
        evaluations = row["evaluations"]
        scores = {
            score: estimate((evaluation[score] for evaluation in evaluations), SCORES[score].is_share)
            for score in COUNTED
        }
        scores["zroc_slope"] = estimate((evaluation["zroc"]["slope"] for evaluation in evaluations), False)
        retention = [evaluation["retention"] for evaluation in evaluations]
        rows.append(
            Shown(
                name=row["name"],
                is_people=False,
                kind=row["model"],
                num=len(evaluations),
                num_left_out=0,
                scores=scores,
                by_lag=_models_by_lag([told["by_lag"] for told in retention]),
                by_clip_kind=_by_kind((told["by_clip_kind"] for told in retention), "hit_rate"),
                by_order=_by_order([evaluation["order"] for evaluation in evaluations if evaluation["order"]]),
                index_sha256=evaluations[0]["sha256"]["test"],
            )
        )
    return rows, [note for note in compared.notes if "left out" in note]


def estimate(values: Iterable[float | None], is_share: bool) -> Estimate:
    """The mean of the values that there are, with its interval over persons or seeds."""
    known = [float(value) for value in values if value is not None and np.isfinite(value)]
    if not known:
        return Estimate([], None, None)
    mean, ends = seed_interval(known)
    if ends and is_share:  # t knows no bounds
        ends = [max(ends[0], 0.0), min(ends[1], 1.0)]
    return Estimate(known, mean, ends)


def people_by_lag(crowd: Crowd) -> list[tuple[float, Estimate]]:
    """Hit rates by the lag as it was measured, in bins that double: of each bin the geometric mean of its lags, and the
    persons' hit rates, of those with at least LEAST_PROBES old probes in it."""
    counted = crowd.is_counted
    lag, answer = crowd.lag_s[counted], crowd.answer[counted]
    with np.errstate(invalid="ignore", divide="ignore"):
        doubling = np.floor(np.log2(lag))
    is_there = (crowd.is_old[counted] == 1) & ~np.isnan(answer) & np.isfinite(doubling)
    rows = []
    for number in np.unique(doubling[is_there]):
        inside = is_there & (doubling == number)
        enough = inside.sum(1) >= LEAST_PROBES
        if enough.any():
            rates = [float((answer[k, inside[k]] > 0).mean()) for k in np.flatnonzero(enough)]
            place = float(np.exp(np.log(lag[inside & enough[:, None]]).mean()))
            rows.append((place, estimate(rates, True)))
    return rows


def _models_by_lag(tables: Sequence[Sequence[Mapping[str, Any]]]) -> list[tuple[float, Estimate]]:
    """The same of seeds, whose bins are alike; empty where films do not tell how fast they run."""
    return [
        (rows[0]["lag_s"], estimate((row["hit_rate"] for row in rows), True))
        for rows in zip(*tables, strict=False)
        if rows[0]["lag_s"] is not None
    ]


def _by_kind(tables: Iterable[Sequence[Mapping[str, Any]]], score: str) -> dict[str, Estimate]:
    """A score by kind of clip, in the order of CLIP_KINDS."""
    values: dict[str, list[float | None]] = {kind: [] for kind in CLIP_KINDS}
    for table in tables:
        for row in table:
            if row["kind"] in values:
                values[row["kind"]].append(row[score])
    return {kind: estimate(known, True) for kind, known in values.items() if known}


def _by_order(orders: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
    if not orders:
        return {}
    everything = estimate((order["accuracy"] for order in orders), True)
    return {ALL_PAIRS: everything} | _by_kind((order["by_clip_kind"] for order in orders), "accuracy")


def _read_order(path: Path, evaluation: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `participants order` found of a run's present weights; None if it did not."""
    if not is_there(path):
        return None
    try:
        order = json.loads(read_whole(path).getvalue())
        rows = [order, *order["by_clip_kind"]]
        if not all(isinstance(row["accuracy"], int | float | None) for row in rows):
            raise ValueError("an accuracy is not a number")
        is_current = order["sha256"] == evaluation["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{path}: not a file of orders; write it anew with participants order") from None
    return order if is_current else None
