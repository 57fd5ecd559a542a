"""What is told of a crowd: for every score the mean over persons with its interval, as models have it over seeds.

A person is the unit: nothing here is found of the answers of several persons together.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr

from recognition.common.command_line import InputError
from recognition.common.files import is_there, read_whole, written_whole
from recognition.evaluation.retention import NUM_PLACES
from recognition.evaluation.scores import without_nan
from recognition.evaluation.signal_detection import answered, scores_of_counts, seed_interval
from recognition.people.crowd import GRADES, SCORES, Crowd

EVALUATION_FILE = "evaluation.json"
UNBOUNDED = ("d_prime", "criterion", "slope", "intercept", "median_rt_s")  # the others are shares
LEAST_PROBES = 10  # of a person, for a d' of their own: of fewer it says more of its correction than of memory
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with which a text is a formula to spreadsheets
TABLES = {  # of `retention`: what tells the rows apart, and the scores
    "by_lag": ("lag_frames_from", ("hit_rate", "d_prime")),
    "by_serial_position": ("position_from", ("hit_rate", "d_prime")),
    "by_probe_order": ("position_from", ("hit_rate", "false_alarm_rate", "d_prime")),
    "by_kind": ("kind", ("says_old", "d_prime")),
    "by_clip_kind": ("kind", ("hit_rate", "d_prime")),
}


def describe_crowd(crowd: Crowd, evaluations: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The evaluation.json of a crowd. `evaluations` are those of the persons who count, where they have such: their
    tables of retention are averaged.

    Raises InputError if all persons are left out.
    """
    persons = crowd.counted
    if not persons:
        raise InputError(
            f"{crowd.name}: all {len(crowd.persons)} persons are left out, {crowd.persons[0]['id']} as "
            f"{crowd.persons[0]['left_out']}; --keep_all keeps those who can be scored"
        )
    told: dict[str, Any] = {
        "model": "people",
        "num_persons": len(persons),
        "num_left_out": len(crowd.persons) - len(persons),
    }
    told["persons"] = [person["id"] for person in persons]
    told["source"], told["index_sha256"] = crowd.source, crowd.index_sha256
    told["episodes"] = sorted(set(crowd.episode[crowd.is_counted].tolist()))
    for score in SCORES:
        told |= mean_of(score, (person["scores"][score] for person in persons))
        told[f"{score}_values"] = [person["scores"][score] for person in persons]
    told |= mean_of("median_rt_s", (person["median_rt_s"] for person in persons))
    told["zroc"] = mean_zroc([person["scores"]["zroc"] for person in persons])
    told["by_clip_kind"] = mean_rows(
        [person["by_clip_kind"] for person in persons], "kind", ("hit_rate", "false_alarm_rate", "d_prime")
    )
    told["order"] = _mean_order([person["order"] for person in persons if person["order"]])
    told["by_grade"] = _by_grade(crowd)
    told["retention"] = {
        name: mean_rows([evaluation["retention"][name] for evaluation in evaluations], key, scores)
        for name, (key, scores) in TABLES.items()
    }
    if not evaluations and crowd.index_sha256 is None:  # else its answers may be in another order than they were asked
        tables = [_by_probe_order(crowd.answer[k], crowd.is_old[k]) for k in np.flatnonzero(crowd.is_counted)]
        told["retention"]["by_probe_order"] = mean_rows(tables, *TABLES["by_probe_order"])
    return without_nan(told)


def write_evaluation(folder: Path, told: Mapping[str, Any]) -> None:
    """Keep what `describe_crowd` told in the crowd's folder."""
    with written_whole(folder / EVALUATION_FILE) as part:
        part.write_text(json.dumps(told, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """What `write_evaluation` kept, None if there is nothing. Raises InputError if it is damaged."""
    path = folder / EVALUATION_FILE
    if not is_there(path):
        return None
    try:
        told = json.loads(read_whole(path).getvalue())
        is_whole = isinstance(told, dict) and all(told.get(score) is not None for score in (*SCORES, "retention"))
    except (ValueError, RecursionError):
        is_whole = False
    if not is_whole:
        raise InputError(f"{path}: not an evaluation of people; remove it, or read their sessions anew")
    return told


def cell(value: Any) -> Any:
    """A value for a table: no text that a spreadsheet would compute."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def mean_of(name: str, values: Iterable[float | None]) -> dict[str, Any]:
    """{name: mean, name_interval: its interval} over the persons who have a value; None without any."""
    known = [value for value in values if value is not None and np.isfinite(value)]
    if not known:
        return {name: None, f"{name}_interval": None}
    mean, ends = seed_interval(known)
    if ends and name not in UNBOUNDED:  # t knows no bounds
        ends = [max(ends[0], 0.0), min(ends[1], 1.0)]
    return {name: mean, f"{name}_interval": ends}


def mean_rows(tables: Sequence[Sequence[Mapping[str, Any]]], key: str, scores: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of several persons' tables that agree in `key` as one, with the mean of each of `scores`; num_probes is the
    sum. Other numbers are averaged, too. A d' from few probes counts for nothing."""
    places: dict[Any, list[Mapping[str, Any]]] = {}
    for table in tables:
        for row in table:
            places.setdefault(row[key], []).append(row)
    found = []
    for rows in (places[place] for place in (sorted(places) if key != "kind" else places)):
        mean: dict[str, Any] = {
            name: value if isinstance(value, str) else mean_of(name, (row[name] for row in rows))[name]
            for name, value in rows[0].items()
            if not isinstance(value, list)
        }
        for score in scores:
            told = [row for row in rows if score != "d_prime" or row["num_probes"] >= LEAST_PROBES]
            mean |= mean_of(score, (row[score] for row in told))
        num_probes = sum(row["num_probes"] for row in rows)
        found.append({**mean, "num_probes": num_probes, "num_persons": len(rows)})
    return found


def mean_zroc(zrocs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The zROCs of persons as one: slopes and intercepts averaged, and at each bound of the scale the z-scores of those
    who have it. Rates follow from these: averaged themselves they would bend the ROC where criteria differ."""
    points: dict[float, list[tuple[float, float]]] = {}
    for zroc in zrocs:
        for bound, *point in zip(zroc["bound"], zroc["z_false_alarm"], zroc["z_hit"], strict=True):
            points.setdefault(bound, []).append((point[0], point[1]))
    z_false_alarm, z_hit = np.array([np.mean(points[bound], 0) for bound in sorted(points)]).reshape(-1, 2).T
    return {
        "bound": sorted(points),
        "z_false_alarm": z_false_alarm.tolist(),
        "z_hit": z_hit.tolist(),
        "false_alarm_rate": ndtr(z_false_alarm).tolist(),
        "hit_rate": ndtr(z_hit).tolist(),
        **mean_of("slope", (zroc["slope"] for zroc in zrocs)),
        **mean_of("intercept", (zroc["intercept"] for zroc in zrocs)),
    }


def _by_probe_order(answer: np.ndarray, is_old: np.ndarray) -> list[dict[str, Any]]:
    """The table of `retention` of this name of one person, from answers (P,)."""
    rows, says_old, (old, new) = [], answer > 0, answered(answer, is_old)
    for places in np.array_split(np.arange(len(answer)), min(NUM_PLACES, len(answer))):
        chosen = np.isin(np.arange(len(answer)), places)
        counts = [(part & chosen).sum() for part in (says_old & old, old, says_old & new, new)]
        if counts[1] + counts[3]:
            scores = scores_of_counts(*map(np.asarray, counts))
            first, last = int(places[0]) + 1, int(places[-1]) + 1
            position = {"position": (first + last) / 2, "position_from": first, "position_to": last}
            told = {name: float(scores[name]) for name in TABLES["by_probe_order"][1]}
            rows.append({**position, **told, "num_probes": int(counts[1] + counts[3])})
    return rows


def _mean_order(orders: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if not orders:
        return None
    kinds = [[{"num_probes": row["num_pairs"], **row} for row in order["by_clip_kind"]] for order in orders]
    by_kind = mean_rows(kinds, "kind", ("accuracy",))
    told = mean_of("accuracy", (order["accuracy"] for order in orders))
    return {**told, "num_persons": len(orders), "by_clip_kind": by_kind}


def _by_grade(crowd: Crowd) -> list[dict[str, Any]]:
    """For each grade the persons' means: how often it was given to old and to new probes, how often it was right, and
    the median time that it took."""
    rows = []
    counts = crowd.is_counted
    answer, is_old, rt_ms = crowd.answer[counts], crowd.is_old[counts] == 1, crowd.rt_ms[counts]
    for grade in GRADES:
        chosen = answer == grade
        shares, times = [], []
        for person in np.flatnonzero(chosen.any(1)):
            its = chosen[person]
            shares.append(float((is_old[person, its] == (grade > 0)).mean()))
            times.append(float(np.nanmedian(rt_ms[person, its])) / 1000 if (rt_ms[person, its] >= 0).any() else None)
        share = chosen.sum(1) / np.maximum((~np.isnan(answer)).sum(1), 1)
        rows.append(
            {
                "grade": grade,
                **mean_of("share", share.tolist()),
                **mean_of("share_right", shares),
                **mean_of("median_rt_s", times),
                "num_persons": len(shares),
            }
        )
    return rows
