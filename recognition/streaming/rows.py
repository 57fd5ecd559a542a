"""events.csv and answers.csv: tables of a stream that has no end, written row by row.

A row is one line, whatever is in it, and is written at once. A process that is killed leaves at most a half line behind
the last, which is never read, and is removed before the file is gone on with.
"""

import csv
import dataclasses
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from recognition.common.command_line import InputError
from recognition.common.files import naming
from recognition.streaming.answers import Answer
from recognition.streaming.event import Event

DECIMALS = 4  # of seconds, milliseconds, logits and cosines
Row = TypeVar("Row", Event, Answer)

READ: dict[Any, Callable[[str], Any]] = {
    str: str,
    int: int,
    float: float,
    bool: lambda text: {"1": True, "0": False}[text],
    float | None: lambda text: float(text) if text else None,
}


class RowsFile(Generic[Row]):
    """A table that is being written, of one kind of rows: their fields are its columns.

    Args:
        path: begun anew, unless `is_kept` is given.
        is_kept: go on with a file from before, if there is one, after the last row of those at its start that this
            holds for; others are removed, as they will be written again.

    Raises OSError if it cannot be written, InputError if what is to be gone on with is another table.
    """

    def __init__(self, path: Path, kind: type[Row], is_kept: Callable[[Row], bool] | None = None):
        self.path, size = path, 0
        if is_kept and path.is_file():
            size = _end_of_kept(path, kind, is_kept)
        with naming(path):
            self._file = open(path, "ab" if is_kept else "wb", buffering=0)  # noqa: SIM115, it stays open
            if is_kept and self._file.seekable():
                self._file.truncate(size)
        if size == 0:
            self._write([field.name for field in dataclasses.fields(kind)])

    def write(self, row: Row) -> None:
        """Add one row; it is in the file when this returns."""
        self._write([_text(value) for value in dataclasses.astuple(row)])

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "RowsFile[Row]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, cells: list[str]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(cells)
        data = line.getvalue().encode("utf-8", "backslashreplace")
        with naming(self.path):
            while data:
                data = data[self._file.write(data) :]


def events_file(path: Path, next_start_s: float | None = None) -> RowsFile[Event]:
    """events.csv; to go on with it, given `Events.next_start_s` of the state that is gone on with."""
    if next_start_s is None:
        return RowsFile(path, Event)
    return RowsFile(path, Event, lambda event: event.start_s < round(next_start_s, DECIMALS))


def answers_file(path: Path, last_s: float | None = None) -> RowsFile[Answer]:
    """answers.csv; to go on with it, given the time of the last answer of what is gone on with."""
    if last_s is None:
        return RowsFile(path, Answer)
    return RowsFile(path, Answer, lambda answer: answer.time_s <= round(last_s, DECIMALS))


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a table, without one that is only half written, while another process may write it.

    Raises InputError if it is no such table, OSError if it cannot be read.
    """
    return [row for row, _ in _rows(path, kind)]


def _rows(path: Path, kind: type[Row]) -> Iterator[tuple[Row, int]]:
    """The whole rows, each with the place in the file where it ends."""
    columns = {field.name: READ[field.type] for field in dataclasses.fields(kind)}
    with naming(path), open(path, "rb") as file:
        head = file.readline()
        if not head.endswith(b"\n") and (",".join(columns) + "\n").encode().startswith(head):
            return
        if _cells(head) != list(columns):
            raise InputError(f"{path}: its columns are not {','.join(columns)}; give another file")
        end = len(head)
        for number, line in enumerate(file, 2):
            if not line.endswith(b"\n"):
                return
            end += len(line)
            try:
                values = [read(cell) for read, cell in zip(columns.values(), _cells(line), strict=True)]
            except (ValueError, KeyError) as error:
                raise InputError(f"{path}:{number}: no row of such a table ({error}); give another file") from None
            yield kind(*values), end


def _end_of_kept(path: Path, kind: type[Row], is_kept: Callable[[Row], bool]) -> int:
    """Where the last of the first rows that are kept ends; 0 if not even the line of columns is whole."""
    with naming(path), open(path, "rb") as file:
        head = file.readline()
    end = len(head) if head.endswith(b"\n") else 0
    for row, its_end in _rows(path, kind):
        if not is_kept(row):
            break
        end = its_end
    return end


def _cells(line: bytes) -> list[str]:
    try:
        return next(csv.reader([line.decode("utf-8")], strict=True), [])
    except (UnicodeDecodeError, csv.Error) as error:
        return [f"not read: {error}"]


def _text(value: Any) -> str:
    value = value.item() if isinstance(value, np.generic) else value
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return repr(round(value, DECIMALS))
    return str(value).replace("\r", "\\r").replace("\n", "\\n")
