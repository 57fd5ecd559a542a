"""Sessions become folders: a crowd, in it each person as a crowd of one, a table and a page; all of it or nothing."""

import csv
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from recognition.common.command_line import InputError
from recognition.common.files import is_there, written_whole
from recognition.evaluation.scores import describe_answers, without_nan
from recognition.people.crowd import ANSWERS_FILE, PEOPLE_FILE, SCORES, TYPES, Crowd, is_crowd, write_crowd
from recognition.people.crowd_scores import EVALUATION_FILE, cell, describe_crowd, write_evaluation
from recognition.people.key import Key
from recognition.people.key_episodes import key_dataset, subsample_of
from recognition.people.people_page import REPORT_FILE, write_page
from recognition.people.person import describe_order, describe_person
from recognition.people.sessions import Session

TABLE_FILE = "participants.csv"
OURS = (PEOPLE_FILE, ANSWERS_FILE, EVALUATION_FILE, TABLE_FILE, REPORT_FILE)


def import_sessions(
    path: Path, key: Key, sessions: Sequence[Session], output: Path, excluded: Mapping[str, str], keep_all: bool = False
) -> Crowd:
    """Score sessions of the key at `path` and write all that is told of them into `output`; returns the crowd.

    `excluded` has reasons by session, participant or id. Raises InputError if a name in it is that of no session, if
    nobody is left, or if `output` holds anything but an earlier reading.
    """
    names = {name for session in sessions for name in (session.session, session.participant, session.id)}
    if unknown := [name for name in excluded if name not in names]:
        raise InputError(f"--exclude: there is no session and no participant {unknown[0]}")
    check_output(output)
    subsample = subsample_of(key)
    evaluations = [evaluate_session(path, key, session, subsample) for session in sessions]
    persons = [_person(key, session, excluded, keep_all) for session in sessions]
    crowd = crowd_of(output.name, path, key, sessions, persons)
    counted = [told for told, counts in zip(evaluations, crowd.is_counted, strict=True) if counts and told]
    told = describe_crowd(crowd, counted)
    with written_folder(output) as part:
        write_crowd(part, crowd)
        write_evaluation(part, told)
        write_table(part / TABLE_FILE, crowd, sessions)
        write_page(part, crowd, told)
        for place, evaluation in enumerate(evaluations):
            if evaluation and persons[place]["scores"]:
                alone = alone_of(crowd, place)
                write_crowd(part / alone.name, alone)
                write_evaluation(part / alone.name, describe_crowd(alone, [evaluation]))
    return crowd


def evaluate_session(path: Path, key: Key, session: Session, subsample: int) -> dict[str, Any] | None:
    """All that evaluation.json tells of a model, of a person; None without answers to old and to new probes."""
    episode, order = key.episodes[str(session.episode)], np.argsort(session.place)  # tables tell of the order of asking
    asked = {**episode, "probes": [episode["probes"][probe] for probe in order]}
    dataset, answer, lag_s = key_dataset(path, asked, subsample), session.answer[order], session.lag_s[order]
    is_old, is_known = dataset.episodes.is_old[0] == 1, ~np.isnan(answer)
    if not (is_old & is_known).any() or not (~is_old & is_known).any():
        return None
    return without_nan(describe_answers(dataset, answer[None], Path(), lag_s=lag_s[None], is_rated=True))


def crowd_of(name: str, path: Path, key: Key, sessions: Sequence[Session], persons: Sequence[dict[str, Any]]) -> Crowd:
    """The crowd of some sessions."""
    is_old = [[probe["is_old"] for probe in key.episodes[str(session.episode)]["probes"]] for session in sessions]
    if len({len(row) for row in is_old}) > 1:
        raise InputError(
            f"{path}: its episodes differ in the number of probes; read the sessions of each by themselves"
        )
    arrays: dict[str, np.ndarray] = {
        "answer": np.array([session.answer for session in sessions], np.float32),
        "is_old": np.array(is_old, np.uint8),
        "rt_ms": np.array([session.rt_ms for session in sessions], np.float32),
        "lag_s": np.array([session.lag_s for session in sessions], np.float32),
        "episode": np.array([session.episode for session in sessions], np.int32),
        "id": np.array([session.id for session in sessions]),
    }
    return Crowd(name, f"sessions of experiment {key.experiment}", key.index_sha256, list(persons), **arrays)


def alone_of(crowd: Crowd, place: int) -> Crowd:
    """One person of a crowd as a crowd of one, in which they count."""
    person = crowd.persons[place] | {"left_out": None}
    arrays = {name: getattr(crowd, name)[place : place + 1] for name in (*TYPES, "id")}
    return replace(crowd, name=person["id"], persons=[person], **arrays)


def _person(key: Key, session: Session, excluded: Mapping[str, str], keep_all: bool) -> dict[str, Any]:
    episode = key.episodes[str(session.episode)]
    kinds = [None if probe["clip"] is None else episode["clips"][probe["clip"]]["kind"] for probe in episode["probes"]]
    order = None if session.order_answer is None else describe_order(session.order_answer, episode["pairs"])
    is_old = np.array([probe["is_old"] for probe in episode["probes"]], np.uint8)
    left_out, flags = session.left_out, session.flags
    if keep_all and left_out:
        left_out, flags = None, [f"kept though {left_out}", *flags]
    for name in (session.session, session.participant, session.id):
        if name in excluded:
            left_out = f"excluded: {excluded[name] or 'no reason given'}"
    facts = session.facts | {"session": session.session, "participant": session.participant}
    told = {"left_out": left_out, "flags": flags, "order": order, "facts": facts}
    return describe_person(session.id, session.answer, is_old, session.rt_ms, kinds, **told)


def write_table(path: Path, crowd: Crowd, sessions: Sequence[Session]) -> None:
    """participants.csv: a line a session."""
    lines = []
    for person, session in zip(crowd.persons, sessions, strict=True):
        scores = person["scores"] or {}
        lines.append(
            {
                "id": person["id"],
                "participant": session.participant,
                "session": session.session,
                "episode": session.episode,
                "left_out": person["left_out"],
                "flags": "; ".join(person["flags"]),
                **{name: scores.get(name) for name in (*SCORES, "n_old", "n_new")},
                "zroc_slope": scores.get("zroc", {}).get("slope"),
                "order_accuracy": (person["order"] or {}).get("accuracy"),
                **session.facts,
            }
        )
    columns = list(dict.fromkeys(name for line in lines for name in line))
    with written_whole(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        table.writerows([[_cell(line.get(name)) for name in columns] for line in lines])


def _cell(value: Any) -> Any:
    """A value as this table has it: whole numbers without a point."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else round(value, 6) + 0.0  # no -0.0
    return cell(value)


def check_output(folder: Path) -> None:
    """Raise InputError if a folder holds anything but what an earlier reading wrote, which is replaced."""
    for entry in folder.iterdir() if is_there(folder) else ():
        if entry.name not in OURS and not is_crowd(entry):
            raise InputError(f"--output {folder}: holds {entry.name}, which no reading wrote; name another folder")


@contextmanager
def written_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; put it in its place once the block has ended well, else remove it."""
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    part, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{kind}") for kind in ("part", "old"))
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        yield part
        if is_there(folder):
            folder.rename(old)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if is_there(old) and not is_there(folder):
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
