"""The rows of one session, checked: what is in them by now is what the page of the experiment writes, or nothing.

Answers come from outside. Every value is looked at before it is used, and a session in which one cannot be true is
refused: what was edited once may have been edited elsewhere, too.
"""

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from recognition.common.command_line import InputError, shown
from recognition.people.session_files import Row

FORMAT_VERSION = 1
SESSION = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
PARTICIPANT = re.compile(r"[A-Za-z0-9_-]{1,64}")
SCALES = ("old_first", "new_first")
PARTS = ("study", "check", "test", "order")  # those that count
LONGEST_MS = 30 * 86_400_000  # a session that is resumed may last days
LIMITS = {  # of numbers in rows: the least, the most
    "onset": (0, LONGEST_MS),
    "left": (0, 10_000),
    "seconds": (0, LONGEST_MS / 1000),
    "frames_shown": (0, 1e7),
    "frames_dropped": (0, 1e7),
    "frames_total": (0, 1e7),
}
WANTED = {  # numbers that must be there, by part
    "study": ("onset",),
    "test": ("onset",),
    "order": ("onset",),
    "check": (),
}
TOLD = {  # what other rows tell of the browser and the person, and how it is called
    "browser": ("browser", "browser_version", "os", "vsync_rate"),
    "survey": ("known", "which_films"),
}
LONGEST_TEXT = 1000  # letters, of what a person wrote


@dataclass
class Record:
    """One version of a session.

    parts: the rows of each of PARTS, in order of `number`, from 0 without a gap; numbers are floats or None, `response`
        and `expected` text or None. told: what TOLD names, as far as it is there.
    """

    source: str
    session: str
    participant: str
    episode: int
    scale: str
    is_simulated: bool = False
    resumed: int = 0
    parts: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {part: [] for part in PARTS})
    told: dict[str, str | float] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        return sum(map(len, self.parts.values()))

    @property
    def head(self) -> tuple[str, int, str]:
        return self.participant, self.episode, self.scale

    def begins_as(self, other: "Record") -> bool:
        """Whether one of two versions of a session is the beginning of the other."""
        return self.head == other.head and all(
            all(mine == its for mine, its in zip(self.parts[part], other.parts[part], strict=False)) for part in PARTS
        )


def record(source: str, rows: Sequence[Row], experiment: str, longest_rt_ms: float) -> Record:
    """Check the rows of one session. `experiment` is the digest of its key, `longest_rt_ms` the time to answer.

    Raises InputError, naming `source` and what is wrong.
    """
    first = rows[0]
    found = Record(
        source,
        _text(source, first, "session", SESSION),
        _text(source, first, "participant", PARTICIPANT),
        int(_number(source, first, "episode", 0, 2**31 - 1)),
        _word(source, first, "scale", SCALES),
    )
    for row in rows:
        _check_head(found, row, experiment)
        part = row.get("part")
        if part in PARTS:
            _add(found, part, row, longest_rt_ms)
        elif part in TOLD:
            found.told |= {name: _told(name, row[name]) for name in TOLD[part] if row.get(name) is not None}
    return found


def _check_head(found: Record, row: Row, experiment: str) -> None:
    """Raise InputError unless a row is of this session, of this experiment."""
    source = found.source
    if (its := row.get("experiment")) != experiment:
        raise InputError(
            f"{source}: answers to another experiment ({shown(its)}) than the key's, {experiment}; take its own key"
        )
    version = _number(source, row, "format_version", 0, 10_000)
    if version != FORMAT_VERSION:
        raise InputError(f"{source}: format {version:.0f}, this program reads {FORMAT_VERSION}")
    if (row.get("participant"), int(_number(source, row, "episode", 0, 2**31 - 1)), row.get("scale")) != found.head:
        raise InputError(f"{source}: session {found.session} has two participants, episodes or scales: it was edited")
    found.resumed = max(found.resumed, int(_number(source, {"resumed": 0} | row, "resumed", 0, 10_000)))
    found.is_simulated |= row.get("simulated") is not None


def _add(found: Record, part: str, row: Row, longest_rt_ms: float) -> None:
    """Add a row that counts, checked."""
    source, earlier = found.source, found.parts[part]
    number = _number(source, row, "number", 0, 1e6)
    where = f"{source}: {part} row {number:g}"
    if number < len(earlier):
        raise InputError(f"{where} of session {found.session} is there twice: it was edited, or joined with another")
    if number != len(earlier):
        raise InputError(f"{where} follows {len(earlier) - 1}: rows are missing, or out of order")
    told: dict[str, Any] = {"file": row.get("file")}
    for name, (least, most) in LIMITS.items():
        is_wanted = name in WANTED[part] or row.get(name) is not None
        told[name] = _number(where, row, name, least, most) if is_wanted else None
    if earlier and told["onset"] is not None and told["onset"] <= earlier[-1]["onset"]:
        raise InputError(f"{where} begins before the one before it: it was edited")
    told["rt"] = None if row.get("rt") is None else _number(where, row, "rt", 0, longest_rt_ms)
    told["response"] = row.get("response")
    if part in ("test", "order"):
        if told["response"] not in (None, *"123456"):
            raise InputError(f"{where}: response {shown(told['response'])} is none of the keys 1 to 6: it was edited")
        if (told["response"] is None) != (told["rt"] is None):
            raise InputError(f"{where}: has a response without its time, or the reverse: it was edited")
    if part == "check":
        told["expected"] = row.get("expected")
        if not all(isinstance(told[name], str | None) for name in ("response", "expected")):
            raise InputError(f"{where}: its keys are no text: it was edited")
    earlier.append(told)


def _number(where: str, row: Mapping[str, Any], name: str, least: float, most: float) -> float:
    value = row.get(name)
    try:
        number = float("nan" if isinstance(value, bool) or value is None else value)
    except (ValueError, TypeError, OverflowError):
        number = math.nan
    if not least <= number <= most:
        what = "is missing" if value is None else f"{shown(value)} is not a number from {least:g} to {most:g}"
        raise InputError(f"{where}: {name} {what}: it was edited, or is no file of this experiment")
    return number


def _text(where: str, row: Row, name: str, pattern: re.Pattern[str]) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise InputError(f"{where}: {name} {shown(value)} is none that the experiment gives: it was edited")
    return value


def _word(where: str, row: Row, name: str, known: Sequence[str]) -> str:
    if (value := row.get(name)) not in known:
        raise InputError(f"{where}: {name} {shown(value)} is none of {', '.join(known)}: it was edited")
    return str(value)


def _told(name: str, value: Any) -> str | float:
    """What a browser or a person said, cut where it is long."""
    if name == "vsync_rate":
        with suppress(ValueError, TypeError, OverflowError):
            if math.isfinite(rate := float(value)):
                return rate
    return str(value)[:LONGEST_TEXT]
