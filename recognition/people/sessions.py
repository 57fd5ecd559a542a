"""Sessions of people read back: files of answers become arrays, and it is said who is left out and why.

A session may ask the probes in another order than the key has them: rows tell their files, and all arrays here are in
the order of the key.

Shapes: P probes, Q pairs of the order task.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recognition.common.command_line import InputError, shown
from recognition.people.key import Key
from recognition.people.session_facts import facts_of, flags_of, why_left_out
from recognition.people.session_files import Row, submissions
from recognition.people.session_rows import Record, record

MOST_DROPPED = 0.05  # of a clip's frames
LEAST_SHOWN = 0.5  # of a clip's frames: of fewer it broke off
SLACK_MS = 1000.0  # a browser may end a trial late
GRADE = {"old_first": (3, 2, 1, -1, -2, -3), "new_first": (-3, -2, -1, 1, 2, 3)}  # of the keys 1 to 6
LEFT_FIRST = GRADE["old_first"]  # of the keys of the order task, above 0 for the left picture


@dataclass(frozen=True)
class Session:
    """What one person answered in one session.

    answer (P,) float32: 3 sure old, 2, 1, -1, -2, -3 sure new, nan for none, and for old probes whose clip was not seen
        as it should be. rt_ms (P,) from the onset of the picture, nan for none. lag_s (P,) from the onset of the frame
        in its clip to that of the picture, nan for new probes. place (P,) int: of each probe in the test, from 0; those
        that were not asked come last. order_answer (Q,) float32: 3 surely left first ... -3
        surely right, nan for none; None without the task.
    facts: what else is known, numbers and texts by name. flags: what is odd. left_out: why the session does not count,
        None if it does.
    """

    session: str
    participant: str
    episode: int
    answer: np.ndarray
    rt_ms: np.ndarray
    lag_s: np.ndarray
    place: np.ndarray
    order_answer: np.ndarray | None
    facts: dict[str, float | str]
    flags: list[str]
    left_out: str | None

    @property
    def id(self) -> str:
        """The name of the session, and of its folder."""
        return f"{self.participant}-{self.session[:8]}"


def read_sessions(key: Key, paths: Sequence[Path]) -> list[Session]:
    """The sessions in files, archives and folders, ordered by participant; of each its longest version.

    Raises InputError, naming the file, if one is not whole, is of another experiment, or says what cannot be.
    """
    longest: dict[str, Record] = {}
    experiment, longest_rt_ms = key.experiment, 1000 * float(key.settings.get("answer_s", 10)) + SLACK_MS
    for submission in submissions(paths):
        for name, rows in _by_session(submission.source, submission.rows).items():
            found = record(submission.source, rows, experiment, longest_rt_ms)
            before = longest.get(name)
            if before and not before.begins_as(found):
                raise InputError(
                    f"{found.source}: tells of session {name} otherwise than {before.source}: one was edited"
                )
            if not before or found.num_rows > before.num_rows:
                longest[name] = found
    sessions = [session_of(key, found) for found in longest.values()]
    ids = [session.id for session in sessions]
    if len(set(ids)) < len(ids):
        raise InputError(f"{paths[0]}: two sessions of a participant begin alike; one of them is forged")
    counts = Counter(session.participant for session in sessions)
    for session in sessions:
        if counts[session.participant] > 1:
            session.flags.append(f"one of {counts[session.participant]} sessions of {session.participant}")
    return sorted(sessions, key=lambda session: session.id)


def session_of(key: Key, found: Record) -> Session:
    """A checked record as arrays. Raises InputError where it does not fit the episode of the key."""
    episode = episode_of(key, found)
    clips, probes, pairs = episode["clips"], episode["probes"], episode["pairs"]
    study, test, order = (found.parts[part] for part in ("study", "test", "order"))
    for part, due in (("study", clips), ("test", probes), ("order", pairs), ("check", episode["checks"])):
        if len(rows := found.parts[part]) > len(due):
            raise InputError(f"{found.source}: has {len(rows)} {part} rows of {len(due)}: it was edited")
    _check_clips(found, clips)
    asked = _asked(found, probes)
    for row, check in zip(found.parts["check"], episode["checks"], strict=False):
        if row["expected"] != check["key"].lower():
            raise InputError(
                f"{found.source}: a check wants {shown(row['expected'])}, the key {check['key']}: it was edited"
            )
    if test and len(study) < len(clips):
        raise InputError(f"{found.source}: {len(clips) - len(study)} clips are missing before the test: it was edited")
    if test and test[0]["onset"] <= study[-1]["onset"]:
        raise InputError(f"{found.source}: the test begins before the study ends: it was edited")
    given, rt_ms = (np.full(len(probes), np.nan, np.float32) for _ in range(2))
    given[asked] = _graded(test, GRADE[found.scale], len(test))
    rt_ms[asked] = [np.nan if row["rt"] is None else row["rt"] for row in test]
    is_lost = np.array([_is_lost(row, clip) for row, clip in zip(study, clips, strict=False)], bool)
    answer = given.copy()
    for place, probe in enumerate(probes):
        if probe["is_old"] and probe["clip"] < len(is_lost) and is_lost[probe["clip"]]:
            answer[place] = np.nan
    facts = facts_of(found, given, rt_ms, int(is_lost.sum()))
    return Session(
        session=found.session,
        participant=found.participant,
        episode=found.episode,
        answer=answer,
        rt_ms=rt_ms,
        lag_s=_lags(probes, study, test, asked),
        place=_places(asked, len(probes)),
        order_answer=_graded(order, LEFT_FIRST, len(pairs)) if pairs else None,
        facts=facts,
        flags=flags_of(facts),
        left_out=why_left_out(facts, found.is_simulated, given, answer, probes),
    )


def episode_of(key: Key, found: Record) -> Mapping[str, Any]:
    """What the key says of the episode of a session."""
    if (name := str(found.episode)) not in key.episodes:
        raise InputError(f"{found.source}: episode {name} is not in the key, which has {', '.join(key.episodes)}")
    return key.episodes[name]


def _by_session(source: str, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each session, as a host may put several into one table."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        name = row.get("session")
        if not isinstance(name, str):
            raise InputError(f"{source}: a row names no session ({shown(name)}): no answers to an experiment of ours")
        found.setdefault(name, []).append(row)
    return found


def _check_clips(found: Record, clips: Sequence[Mapping[str, Any]]) -> None:
    """Raise InputError if the rows of the study show other clips than the key says."""
    for number, (row, clip) in enumerate(zip(found.parts["study"], clips, strict=False)):
        if row["file"] is not None and row["file"] != clip["file"]:
            raise InputError(f"{found.source}: study row {number} shows {shown(row['file'])}, the key {clip['file']}")


def _asked(found: Record, probes: Sequence[Mapping[str, Any]]) -> list[int]:
    """Which probe of the key each row of the test asked about, by its file. Raises InputError if it has none, or one
    that was asked before."""
    number = {probe["file"]: place for place, probe in enumerate(probes)}
    asked: list[int] = []
    for place, row in enumerate(found.parts["test"]):
        if not isinstance(row["file"], str) or row["file"] not in number:
            raise InputError(
                f"{found.source}: test row {place} shows {shown(row['file'])}, which the key does not have in episode "
                f"{found.episode}: it was edited"
            )
        if number[row["file"]] in asked:
            raise InputError(f"{found.source}: test row {place} shows {row['file']} again: it was edited")
        asked.append(number[row["file"]])
    return asked


def _places(asked: Sequence[int], num: int) -> np.ndarray:
    """The place of each probe in the test, (num,): those that were not asked come last."""
    order = [*asked, *(probe for probe in range(num) if probe not in set(asked))]
    return np.argsort(order)


def _graded(rows: Sequence[Mapping[str, Any]], grades: Sequence[int], num: int) -> np.ndarray:
    """The grades of the keys that were pressed, (num,) float32, nan for none."""
    answer = np.full(num, np.nan, np.float32)
    answer[: len(rows)] = [np.nan if row["response"] is None else grades[int(row["response"]) - 1] for row in rows]
    return answer


def _is_lost(row: Mapping[str, Any], clip: Mapping[str, Any]) -> bool:
    """Whether a clip was not seen as it should be, as far as the browser can tell."""
    dropped, total = row["frames_dropped"], row["frames_total"]
    if total is None:
        return False
    return total < LEAST_SHOWN * clip["num_frames"] or (dropped or 0) > MOST_DROPPED * total


def _lags(
    probes: Sequence[Mapping[str, Any]],
    study: Sequence[Mapping[str, Any]],
    test: Sequence[Mapping[str, Any]],
    asked: Sequence[int],
) -> np.ndarray:
    """Seconds from the onset of each old probe's frame in its clip to the onset of the probe."""
    lag_s = np.full(len(probes), np.nan, np.float32)
    for place, row in zip(asked, test, strict=True):
        if (probe := probes[place])["is_old"]:
            seen_s = study[probe["clip"]]["onset"] / 1000 + (probe["at_s"] or 0.0)
            lag_s[place] = row["onset"] / 1000 - seen_s
    return lag_s
