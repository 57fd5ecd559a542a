"""Several runs side by side: runs that differ in their seed alone are one row."""

import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from recognition.evaluation.signal_detection import seed_interval
from recognition.training.config import RunConfig
from recognition.training.runs import INPUT_KEYS, deciding_settings


class Column(NamedTuple):
    """How a table shows a score."""

    name: str  # on the page
    latex: str
    digits: int = 3


CALIBRATED = "calibrated_accuracy"  # of runs that have found a threshold of their own
COLUMNS = {
    "accuracy": Column("accuracy", "Accuracy"),
    CALIBRATED: Column("calibrated accuracy", "Calibrated"),
    "d_prime": Column("d′", "$d'$", 2),
    "hit_rate": Column("hit rate", "Hit rate"),
    "false_alarm_rate": Column("false alarms", "False alarms"),
    "auc": Column("AUC", "AUC"),
}
SCORES = tuple(score for score in COLUMNS if score != CALIBRATED)  # what every run has
_INTERVALS = [f"{score}_interval" for score in COLUMNS]
_OTHERS = ("model", "state_size", "state_bytes", "seconds_per_episode", "test_indices_file")
_NO_SCORES = dict.fromkeys([*COLUMNS, *_OTHERS]) | {"seeds": []}
SEED_KEYS = ("name", "training.seed")  # differ between the runs of one row


class Comparison(NamedTuple):
    """What is told of several runs.

    rows: a dict for each group of runs, in the order given: name, model, unit (what its seeds are: "seed", or "person"
        of people, who follow the models), seeds, evaluations; of every score in
        COLUMNS its mean, <score>_interval over seeds (None for one run) and <score>_values run by run; state_size,
        state_bytes, seconds_per_episode in training (the mean, None if not known),
        test_indices_file. CALIBRATED is None where a run has no threshold of its own.
    controls: a dict for each control on the same episodes, with the same keys, None where they say nothing. Empty
        where the rows were tested on different episodes.
    notes: what a reader must know before comparing.
    """

    rows: list[dict[str, Any]]
    controls: list[dict[str, Any]]
    notes: list[str]

    @property
    def columns(self) -> dict[str, Column]:
        """The scores that the table shows: CALIBRATED is among them if any row has it."""
        has_any = any(row[CALIBRATED] is not None for row in self.rows)
        return {score: column for score, column in COLUMNS.items() if has_any or score != CALIBRATED}

    @property
    def csv(self) -> str:
        """The table as CSV, intervals as two columns."""
        return self._table().to_csv(index=False, lineterminator="\n")

    @property
    def latex(self) -> str:
        """The table as LaTeX, for \\usepackage{booktabs}."""
        table = pd.DataFrame(
            [
                {
                    "Model": row["name"],
                    "Seeds": len(row["seeds"]) or "",
                    **{c.latex: _with_interval(row, score, c.digits) for score, c in self.columns.items()},
                    "Bytes": f"{row['state_bytes']:,}" if row["state_bytes"] else "--",
                    "ms": f"{1000 * row['seconds_per_episode']:.1f}" if row["seconds_per_episode"] else "--",
                }
                for row in [*self.rows, *self.controls]
            ]
        )
        styled = table.style.format(escape="latex", subset=["Model"]).hide(axis="index")
        return styled.to_latex(hrules=True, column_format=f"lr{'l' * len(self.columns)}rr")

    def _table(self) -> pd.DataFrame:
        lines = []
        for row in [*self.rows, *self.controls]:
            line = {"name": row["name"], "model": row["model"], "num_seeds": len(row["seeds"])}
            for score in self.columns:
                low, high = row[f"{score}_interval"] or (None, None)
                line |= {score: row[score], f"{score}_low": low, f"{score}_high": high}
            line |= {key: row[key] for key in ("state_size", "state_bytes", "seconds_per_episode", "test_indices_file")}
            lines.append(line)
        return pd.DataFrame(lines).astype({"state_size": "Int64", "state_bytes": "Int64"})


def compare(
    evaluated: Sequence[tuple[RunConfig, dict[str, Any]]], crowds: Sequence[tuple[str, dict[str, Any]]] = ()
) -> Comparison:
    """Group runs, given as configuration and content of evaluation.json, into the rows of a table. People follow them:
    crowds, given as name and content of evaluation.json, a row each, in which persons are what seeds are to models."""
    groups: dict[str, dict[int, tuple[RunConfig, dict[str, Any]]]] = {}
    notes = []
    for config, evaluation in evaluated:
        digests = {INPUT_KEYS[name]: digest for name, digest in evaluation["trained_on"].items()}
        settings = deciding_settings(config) | digests  # the same files may lie elsewhere by now
        settings = {key: value for key, value in settings.items() if key not in SEED_KEYS}
        runs = groups.setdefault(repr(sorted(settings.items())), {})
        if config.training.seed in runs:
            same = runs[config.training.seed][0].name
            notes.append(f"{config.name} is left out: {same} has the same settings and the same seed.")
        else:
            runs[config.training.seed] = config, evaluation
    rows: list[dict[str, Any]] = []
    controls: list[dict[str, Any]] = []
    for runs in groups.values():
        rows.append(_row(list(runs.values()), {row["name"] for row in rows}))

    if len({row["episodes"] for row in rows}) > 1:
        notes.append("The rows were tested on different episodes, so their scores do not compare; see the files named.")
    elif evaluated:
        controls = [
            {**_NO_SCORES, **scores, **dict.fromkeys(_INTERVALS), "name": name.replace("_", " ")}
            for name, scores in evaluated[0][1]["controls"].items()
        ]
    tested = {row["episodes"][0] for row in rows}
    for name, told in crowds:
        rows.append(_row_of_people(name, told, {row["name"] for row in rows}))
        if told["index_sha256"] is None or told["index_sha256"] not in tested:
            notes.append(f"{rows[-1]['name']}, {told['source']}, saw other episodes than the models.")
        else:
            numbers = ", ".join(map(str, told["episodes"]))
            notes.append(f"{rows[-1]['name']} saw, of the models’ test episodes, only these: {numbers}.")
    return Comparison(rows, controls, notes)


def _row_of_people(name: str, told: dict[str, Any], taken: set[str]) -> dict[str, Any]:
    scores = {
        f"{score}{ending}": told[f"{score}{ending}"] for score in SCORES for ending in ("", "_interval", "_values")
    }
    return {
        **_NO_SCORES,
        **dict.fromkeys(_INTERVALS),
        **scores,
        f"{CALIBRATED}_values": [None],
        "name": _common_name([name], taken),
        "model": "people",
        "unit": "person",
        "runs": [name],
        "seeds": told["persons"],
        "evaluations": [told],
        "test_indices_file": told["source"],
    }


def _row(runs: list[tuple[RunConfig, dict[str, Any]]], taken: set[str]) -> dict[str, Any]:
    configs, evaluations = zip(*runs, strict=True)
    row: dict[str, Any] = {
        "name": _common_name([config.name for config in configs], taken),
        "model": configs[0].model.model,
        "unit": "seed",
        "runs": [config.name for config in configs],
        "seeds": [config.training.seed for config in configs],
        "evaluations": list(evaluations),
    }
    told = {score: [evaluation[score] for evaluation in evaluations] for score in SCORES}
    calibrated = [evaluation["calibrated"] for evaluation in evaluations]
    told[CALIBRATED] = [scores["accuracy"] if scores else None for scores in calibrated]
    for score, values in told.items():
        row[score], ends = (None, None) if None in values else seed_interval(values)
        if ends and score != "d_prime":  # shares: t knows no bounds
            ends = [max(ends[0], 0.0), min(ends[1], 1.0)]
        row[f"{score}_interval"] = ends
        row[f"{score}_values"] = values
    first = evaluations[0]
    row |= {key: first[key] for key in ("state_size", "state_bytes")}
    seconds = [evaluation["seconds_per_episode"] for evaluation in evaluations]
    row["seconds_per_episode"] = None if None in seconds else sum(seconds) / len(seconds)
    row["test_indices_file"] = configs[0].dataset.test_indices_file
    row["episodes"] = first["sha256"]["test"], first["num_study_frames"]
    return row


def _common_name(names: list[str], taken: set[str]) -> str:
    """What the names of a row's runs begin with, such as "lstm" for lstm-seed0 and lstm-seed1."""
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    common = "".join(letters[0] for letters in same)
    if len(names) > 1:
        common = re.sub(r"[-_.=+]+(s(eed)?[-_.=+]?\d*)?$", "", common) or names[0]
    if common not in taken:
        return common
    return names[0] if names[0] not in taken else f"{names[0]} ({len(taken) + 1})"


def _with_interval(row: dict[str, Any], score: str, digits: int) -> str:
    if row[score] is None:
        return "--"
    value, ends = f"${row[score]:.{digits}f}$", row[f"{score}_interval"]
    return f"{value} [${ends[0]:.{digits}f}$, ${ends[1]:.{digits}f}$]" if ends else value
