"""The table of captions, captions.csv: a row a clip, with the columns film, clip, start_s, end_s, caption, split."""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recognition.common.command_line import InputError, shown
from recognition.common.files import is_there, naming, written_whole

COLUMNS = ("film", "clip", "start_s", "end_s", "caption", "split")
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Caption:
    """A clip of a film, and what is said of it."""

    film: str  # its feature file is <film>.h5
    clip: int  # its number within the film
    start_s: float
    end_s: float
    caption: str  # as `clean` has it
    split: str  # a word of SPLITS
    place: str  # file:line


def read_captions(path: Path) -> list[Caption]:
    """The captions of a table: films as they first appear, clips of a film by their start, then their end.

    Raises InputError, which names file and line, for what is wrong: see `checked`.
    """
    captions = []
    for place, row in read_table(path):
        if missing := [column for column in COLUMNS if column not in row]:
            raise InputError(f"{path}: has no column {missing[0]}; it needs {', '.join(COLUMNS)}")
        start_s, end_s = (seconds(place, column, row[column]) for column in ("start_s", "end_s"))
        clip = _number(place, row["clip"])
        captions.append(Caption(row["film"], clip, start_s, end_s, row["caption"], row["split"], place))
    return checked(captions, path)


def checked(captions: Sequence[Caption], path: Path) -> list[Caption]:
    """Captions cleaned and in order, see `read_captions`. Raises InputError if there is none, and for a film whose name
    can be no file's, a segment that ends before it starts, a caption without words, an unknown split, a film in two
    splits and two rows for one clip."""
    if not captions:
        raise InputError(f"{path}: has no captions")
    cleaned, first_of_film, first_of_clip = [], dict[str, Caption](), dict[tuple[str, int], Caption]()
    for row in captions:
        cleaned.append(_checked_row(row))
        other = first_of_film.setdefault(row.film, row)
        if other.split != row.split:
            raise InputError(
                f"{row.place}: film {shown(row.film)} is for {row.split}, and for {other.split} at {other.place}; "
                f"a film must be in one split"
            )
        if (other := first_of_clip.setdefault((row.film, row.clip), row)) is not row:
            raise InputError(
                f"{row.place}: clip {row.clip} of {shown(row.film)} has a caption at {other.place} already"
            )
    order = {film: number for number, film in enumerate(first_of_film)}
    return sorted(cleaned, key=lambda row: (order[row.film], row.start_s, row.end_s, row.clip))


def clean(text: str) -> str:
    """A caption as it is trained on: one blank between words, none at its ends, and a full stop at its end."""
    text = " ".join(text.split())
    return text if text.endswith(".") else f"{text}."


def has_words(text: str) -> bool:
    """Whether a text says anything: has a letter or a digit."""
    return any(character.isalnum() for character in text)


def write_captions(path: Path, captions: Iterable[Caption]) -> None:
    """Write a table, whole."""
    with written_whole(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for row in captions:
            times = (format_seconds(row.start_s), format_seconds(row.end_s))
            table.writerow([row.film, row.clip, *times, row.caption, row.split])


def format_seconds(time_s: float) -> str:
    """A time to the microsecond, without zeros at its end."""
    return f"{time_s:.6f}".rstrip("0").rstrip(".")


def read_table(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a CSV file with a header, each with the place of its first line; blank rows are passed over. Raises
    InputError where it is no such table."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    header: list[str] = []
    line = 1
    try:
        for row in reader:
            place, line = f"{path}:{line}", reader.line_num + 1
            if not any(cell.strip() for cell in row):
                continue
            if not header:
                header = [cell.strip() for cell in row]
                if twice := {name for name in header if header.count(name) > 1}:
                    raise InputError(f"{place}: the column {shown(min(twice))} is there twice")
            elif len(row) != len(header):
                raise InputError(f"{place}: has {len(row)} columns, the header has {len(header)}; quote commas")
            else:
                yield place, dict(zip(header, map(str.strip, row), strict=True))
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: cannot be read as CSV ({error})") from None


def read_text(path: Path) -> str:
    """A text file in UTF-8, with its line breaks as they are. Raises InputError if it is none, or not there."""
    if not is_there(path):
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, and a file is due")
    with naming(path):
        data = path.read_bytes()
    if data[:1] == b"\x80":
        raise InputError(
            f"{path}: is a pickle, which can run code, and no text; see python -m captioning.prepare rows --help"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: is not text in UTF-8") from None
    if "\0" in text:
        raise InputError(f"{path}:{text.count(chr(10), 0, text.index(chr(0))) + 1}: holds a character of code 0")
    return text


def seconds(place: str, name: str, value: Any) -> float:
    """A time as a text or a number. Raises InputError if it is none, or before 0."""
    try:
        time_s = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        time_s = math.nan
    if not 0 <= time_s < math.inf:
        raise InputError(f"{place}: {name} {shown(value)} is no time in seconds")
    return time_s


def _number(place: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InputError(f"{place}: clip {shown(text)} is no whole number from 0")
    return int(text)


def _checked_row(row: Caption) -> Caption:
    check_film(row.place, row.film)
    if row.end_s <= row.start_s:
        raise InputError(f"{row.place}: the segment ends at {row.end_s:g} s, and starts at {row.start_s:g} s")
    if not has_words(row.caption):
        raise InputError(f"{row.place}: the caption {shown(row.caption)} says nothing; leave the row out")
    if row.split not in SPLITS:
        raise InputError(f"{row.place}: split {shown(row.split)} is none of {', '.join(SPLITS)}")
    return Caption(row.film, row.clip, row.start_s, row.end_s, clean(row.caption), row.split, row.place)


def check_film(place: str, film: Any) -> None:
    """Raise InputError unless a film's name can be that of its file."""
    if not isinstance(film, str) or not film or film.startswith(".") or "/" in film or not film.isprintable():
        raise InputError(f"{place}: film {shown(film)} cannot be the name of a file")
