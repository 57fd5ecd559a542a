"""Files of answers as jsPsych and its hosts write them, as rows: nothing of what the rows say is believed here.

`.json` is an array of flat objects, a row each; `.csv` the same as a table; `.txt` what JATOS gives out, arrays one
after another; `.zip` and `.jrzip` archives of such files, and folders of all of them. What is called otherwise in a
folder or an archive is passed over, and so are hidden files, keys of experiments and JATOS's own metadata.json.
"""

import csv
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple, NoReturn

from recognition.common.command_line import InputError, first_line, shown
from recognition.common.files import is_there, read_whole

ANSWERS, ARCHIVES = (".json", ".csv", ".txt"), (".zip", ".jrzip")
LARGEST = 1 << 28  # bytes of a file: some thousand sessions
WHITE = " \t\r\n\ufeff"
Row = dict[str, Any]


class Submission(NamedTuple):
    """Rows that were sent together, and the file they stand in, as messages name it."""

    source: str
    rows: list[Row]


def submissions(paths: Sequence[Path]) -> Iterator[Submission]:
    """All that the files, archives and folders at `paths` hold.

    Raises InputError, naming the file, for one that is not there, was cut off or is none of these; OSError if the
    system does not let it be read.
    """
    for path in paths:
        if not is_there(path):
            raise InputError(f"{path}: no such file or folder of answers")
        if path.is_dir():
            for file in sorted(file for file in path.rglob("*") if file.is_file()):
                if _is_wanted(file.relative_to(path).as_posix(), (*ANSWERS, *ARCHIVES)):
                    yield from _file(file)
        elif path.suffix.lower() in (*ANSWERS, *ARCHIVES):
            yield from _file(path)
        else:
            raise InputError(f"{path}: not a file of answers; their names end in {', '.join((*ANSWERS, *ARCHIVES))}")


def _is_wanted(name: str, endings: tuple[str, ...]) -> bool:
    """Whether a file with this path in a folder or an archive is one of answers by its name."""
    place = PurePosixPath(name)
    is_hidden = any(part.startswith(".") or part == "__MACOSX" for part in place.parts)
    is_other = name.lower().endswith(".key.json") or place.name.lower() == "metadata.json"
    return place.suffix.lower() in endings and not is_hidden and not is_other


def _file(path: Path) -> Iterator[Submission]:
    if (size := path.stat().st_size) > LARGEST:
        raise InputError(f"{path}: {size:,} bytes, too large for a file of answers; it may have {LARGEST:,}")
    content = read_whole(path)
    if path.suffix.lower() in ARCHIVES:
        yield from _archive(path, content)
    else:
        yield from _parsed(str(path), path.suffix.lower(), content.getvalue())


def _archive(path: Path, content: io.BytesIO) -> Iterator[Submission]:
    """The files in an archive. None is unpacked; a name that leads out of the archive still is a sign of forgery."""
    try:
        with zipfile.ZipFile(content) as archive:
            for entry in archive.infolist():
                place = PurePosixPath(entry.filename.replace("\\", "/"))
                if place.is_absolute() or ".." in place.parts or PureWindowsPath(entry.filename).drive:
                    raise InputError(f"{path}: a file in it is called {shown(entry.filename)}, which leads out of it")
            for entry in archive.infolist():
                if entry.is_dir() or not _is_wanted(entry.filename, ANSWERS):
                    continue
                if entry.file_size > LARGEST:
                    raise InputError(f"{path}: {shown(entry.filename)} in it is too large for a file of answers")
                suffix = PurePosixPath(entry.filename).suffix.lower()
                with archive.open(entry) as file:
                    data = file.read(LARGEST)
                yield from _parsed(f"{path}/{entry.filename}", suffix, data)
    except InputError:
        raise
    except Exception as error:  # zipfile and zlib raise many kinds for a damaged or locked archive
        raise InputError(f"{path}: not an archive that can be read ({first_line(error)})") from None


def _parsed(source: str, suffix: str, data: bytes) -> Iterator[Submission]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: not a text in UTF-8 (byte {error.start}); export it anew") from None
    if suffix == ".csv":
        yield Submission(source, _table(source, text))
        return
    if not text.strip(WHITE):
        if suffix == ".txt":  # JATOS has such of people who left at once
            return
        raise InputError(f"{source}: is empty; export it anew")
    yield from (Submission(source, rows) for rows in _arrays(source, text))


def _arrays(source: str, text: str) -> Iterator[list[Row]]:
    """JSON arrays, one after another."""
    decoder, place = json.JSONDecoder(parse_constant=_refused), 0
    while place < len(text):
        if text[place] in WHITE:
            place += 1
            continue
        try:
            rows, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{source}: cut off, or not JSON ({first_line(error)}); export it anew") from None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise InputError(f"{source}: not answers of jsPsych, which are an array of rows")
        yield rows


def _refused(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _table(source: str, text: str) -> list[Row]:
    """The rows of a CSV. What is empty or null is None; all else stays text."""
    try:
        head, *lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    except ValueError:
        raise InputError(f"{source}: is empty; export it anew") from None
    except csv.Error as error:
        raise InputError(f"{source}: cut off, or not CSV ({first_line(error)}); export it anew") from None
    if len(set(head)) < len(head) or "part" not in head:
        raise InputError(f"{source}: not answers of jsPsych: its first line names no columns, or one twice")
    rows = []
    for number, line in enumerate(lines, 2):
        if len(line) != len(head):
            raise InputError(f"{source}: row {number} has {len(line)} fields of {len(head)}: cut off, or edited")
        rows.append({name: None if value in ("", "null") else value for name, value in zip(head, line, strict=True)})
    return rows
