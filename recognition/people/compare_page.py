"""What `participants compare` finds of people and models, and the files that tell it."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recognition.common.command_line import InputError
from recognition.common.files import written_whole
from recognition.evaluation.report import evaluation_page
from recognition.evaluation.scores import without_nan
from recognition.people.agreement import NUM_SPLITS, Probes, agreement, mean_answers
from recognition.people.compare_figure import FORMATS, KIND_LABELS, panel_figures, write_figure
from recognition.people.crowd import Crowd
from recognition.people.crowd_scores import cell
from recognition.people.published_figures import published_figures
from recognition.people.side_by_side import SCORES, Estimate, ScoredRun, Shown, model_rows, people_row
from recognition.training.runs import Run

PAGE, TABLE, AGREEMENT, PROBES = "compare.html", "compare.csv", "agreement.csv", "agreement_probes.csv"
FIGURE = "compare"
FILES = (PAGE, TABLE, AGREEMENT, PROBES, *(f"{FIGURE}.{kind}" for kind in FORMATS))


@dataclass(frozen=True)
class Agreement:
    """What people and models said of the same probes."""

    people: str  # the name of the crowd's row
    told: dict[str, Any]  # what `agreement` tells, None for what is not defined
    probes: Probes
    is_old: np.ndarray  # (E, P)
    answers: dict[str, np.ndarray]  # of each model, (E, P)


@dataclass(frozen=True)
class Compared:
    """People and models side by side, and what a reader must know of them."""

    rows: list[Shown]
    agreements: list[Agreement]
    notes: list[str]


def compare_people(crowds: Mapping[Path, Crowd], runs: Sequence[ScoredRun]) -> Compared:
    """Put crowds, by their folders, beside runs."""
    names = _distinct([(crowd.name, path) for path, crowd in crowds.items()])
    rows = [people_row(crowd, name) for name, crowd in zip(names, crowds.values(), strict=True)]
    of_models, notes = model_rows(runs) if runs else ([], [])
    rows += of_models
    run_names = _distinct([(run.config.name or run.path.name, run.path) for run in runs])
    agreements = []
    for name, crowd in zip(names, crowds.values(), strict=True):
        try:
            same, elsewhere = _answers(crowd, dict(zip(run_names, runs, strict=True)))
            agreements.append(_agreement(name, crowd, same))
        except InputError as error:
            notes.append(f"No agreement with {name} is told: {error}.")
            continue
        if same:
            numbers = ", ".join(map(str, agreements[-1].probes.episode.tolist()))
            notes.append(f"{name} saw, of the models’ test episodes, only these: {numbers}. Models are scored on all.")
        if elsewhere:
            told = ", ".join(elsewhere)
            notes.append(f"Tested on other episodes than those of {name}, so that no agreement is told: {told}.")
    if len({row.index_sha256 for row in rows}) > 1:
        notes.append("The rows are of different episodes: what differs between them may be the episodes.")
    return Compared(rows, agreements, notes)


def write_comparison(compared: Compared, folder: Path, writes_figure: bool = False) -> None:
    """Write FILES into a folder: those of agreement if there is any, those of the figure if they are asked for. What an
    earlier comparison left of the others is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {PAGE: render_page(compared), TABLE: table_csv(compared.rows)}
    if compared.agreements:
        texts |= {AGREEMENT: agreement_csv(compared.agreements), PROBES: probes_csv(compared.agreements)}
    for name in FILES:
        if name not in texts:
            (folder / name).unlink(missing_ok=True)
    for name, text in texts.items():
        with written_whole(folder / name) as part:
            part.write_text(text, encoding="utf-8")
    if writes_figure:
        write_figure(compared.rows, folder / FIGURE)


def render_page(compared: Compared) -> str:
    """The page as HTML."""
    return evaluation_page(
        "people_beside_models.html",
        panel_figures(compared.rows),
        compared=compared,
        columns=SCORES,
        kinds=KIND_LABELS,
        tables=list(_kind_tables(compared.rows)),
        published=published_figures(),
        num_splits=NUM_SPLITS,
    )


def table_csv(rows: Sequence[Shown]) -> str:
    """A line for each row: every score with the ends of its interval."""
    lines = []
    for row in rows:
        line: dict[str, Any] = {"name": row.name, "who": "people" if row.is_people else "model", "kind": row.kind}
        line |= {"num": row.num, "num_left_out": row.num_left_out}
        told: dict[str, Estimate | None] = {score: row.scores[score] for score in SCORES}
        told |= {f"hit_rate_{kind}": row.by_clip_kind.get(kind) for kind in KIND_LABELS if kind != "all"}
        told |= {f"order_{kind}": row.by_order.get(kind) for kind in KIND_LABELS}
        for name, one in told.items():
            low, high = (one and one.interval) or (None, None)
            line |= {name: one and one.mean, f"{name}_low": low, f"{name}_high": high}
        lines.append(line | {"index_sha256": row.index_sha256})
    return _csv(lines)


def agreement_csv(agreements: Sequence[Agreement]) -> str:
    """A line for each number that is told of agreement."""
    lines = []
    for one in agreements:
        for kind in ("old", "new"):
            for measure, value in one.told["ceiling"][kind].items():
                lines.append(_line(one.people, ("people", "people"), kind, measure, value))
            for model in one.told["models"]:
                for measure in ("rho", "share_rho"):
                    told = model[kind]
                    lines.append(
                        _line(one.people, ("people", model["name"]), kind, measure, told[measure])
                        | _ends(told[f"{measure}_interval"])
                    )
        for row in one.told["consistency"]:
            for kind in ("all", "old", "new"):
                told = row[kind]
                line = _line(one.people, (row["first"], row["second"]), kind, "kappa", told["kappa"])
                lines.append(line | _ends(told["kappa_interval"]) | {"num_pairs": told["num_pairs"]})
    return _csv(lines)


def probes_csv(agreements: Sequence[Agreement]) -> str:
    """A line for each probe that at least two people answered, episodes and probes counted from 0."""
    return _csv([line for one in agreements for line in _probe_lines(one)])


def _probe_lines(one: Agreement) -> Iterator[dict[str, Any]]:
    for place, probe in np.argwhere(~np.isnan(one.probes.mean_grade)).tolist():
        yield {
            "people": one.people,
            "episode": int(one.probes.episode[place]),
            "probe": probe,
            "is_old": int(one.is_old[place, probe]),
            "num_people": int(one.probes.num_people[place, probe]),
            "mean_grade": float(one.probes.mean_grade[place, probe]),
            "share_old": float(one.probes.share_old[place, probe]),
            **{f"answer of {name}": float(answer[place, probe]) for name, answer in one.answers.items()},
        }


def _kind_tables(rows: Sequence[Shown]) -> Iterator[dict[str, Any]]:
    """Tables by kind of clip, of the rows and kinds that there are."""
    for caption, tables in (
        ("hit rate by kind of clip", [(row.name, row.by_clip_kind) for row in rows]),
        ("which came first: share right", [(row.name, row.by_order) for row in rows]),
    ):
        if known := [(name, table) for name, table in tables if table]:
            kinds = [kind for kind in KIND_LABELS if any(kind in table for _, table in known)]
            yield {"caption": caption, "kinds": kinds, "rows": known}


def _answers(crowd: Crowd, runs: Mapping[str, ScoredRun]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Answers (N, P) of the runs that were tested on a crowd's episodes, and the names of the others.

    Raises InputError if the crowd's episodes are of no index file, or if a run's answers do not fit.
    """
    if crowd.index_sha256 is None:
        raise InputError("its episodes are of no index file")
    same = {name: run for name, run in runs.items() if run.evaluation["sha256"]["test"] == crowd.index_sha256}
    answers = {name: Run(run.path).read_answers() for name, run in same.items()}
    for name, answer in answers.items():
        last = int(crowd.episode.max(initial=-1))
        if answer.ndim != 2 or answer.shape[1] != crowd.answer.shape[1] or last >= len(answer):
            raise InputError(f"the answers of {name} are of another number of probes; score it anew with evaluate.py")
    return answers, [name for name in runs if name not in same]


def _agreement(name: str, crowd: Crowd, answers: dict[str, np.ndarray]) -> Agreement:
    """Raises InputError if no probe was answered by two people, or the crowd contradicts itself."""
    counted, num_probes = crowd.is_counted, crowd.answer.shape[1]
    num_episodes = max([int(crowd.episode.max()) + 1, *(len(answer) for answer in answers.values())])
    is_old = np.zeros((num_episodes, num_probes), np.uint8)
    is_old[crowd.episode[counted]] = crowd.is_old[counted]
    try:
        told = agreement(crowd, is_old, answers)
    except ValueError as error:
        raise InputError(str(error)) from None
    if not sum(told["num_probes"].values()):
        raise InputError("no probe was answered by two people; give several people the same episodes")
    probes = mean_answers(crowd.answer[counted], crowd.episode[counted])
    seen = {model: answer[probes.episode] for model, answer in answers.items()}
    return Agreement(name, without_nan(told), probes, is_old[probes.episode], seen)


def _distinct(named: Sequence[tuple[str, Path]]) -> list[str]:
    """Names, with that of the folder where two have one name, and a number where these are alike, too."""
    found: list[str] = []
    for name, path in named:
        name = name if name not in found else path.resolve().name
        found.append(name if name not in found else f"{name} ({len(found) + 1})")
    return found


def _line(people: str, pair: tuple[str, str], probes: str, measure: str, value: float | None) -> dict[str, Any]:
    line = {"people": people, "first": pair[0], "second": pair[1], "probes": probes, "measure": measure}
    return line | {"value": value, "low": None, "high": None, "num_pairs": None}


def _ends(interval: list[float] | None) -> dict[str, Any]:
    return dict(zip(("low", "high"), interval or (None, None), strict=True))


def _csv(lines: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: cell(value) for name, value in line.items()} for line in lines)
    return text.getvalue()
