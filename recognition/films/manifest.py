"""The list of films to fetch, and manifest.csv, which says what became of each."""

import csv
import io
import re
from pathlib import Path
from typing import NamedTuple

from recognition.common.command_line import InputError
from recognition.common.files import is_there, written_whole

COLUMNS = ("video_id", "title", "status", "reason", "message", "file", "size_bytes", "sha256", "duration_s")
VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{11}")

Row = dict[str, str]


class Film(NamedTuple):
    """One row of the list. The address may be any that yt-dlp reads; the id alone names the file."""

    video_id: str
    video_url: str
    title: str


def read_films(path: Path) -> list[Film]:
    """The films of a CSV file, in its order. InputError names the first row that is wrong."""
    films = [Film(**row) for row in _read_csv(path, Film._fields)]
    if not films:
        raise InputError(f"{path} lists no film")
    first_place: dict[str, int] = {}
    for place, film in enumerate(films, start=1):
        if not VIDEO_ID.fullmatch(film.video_id):
            raise InputError(f"{path}, film {place}: video_id {film.video_id!r} is not 11 letters, digits, - or _")
        if not re.fullmatch(r"https?://\S+", film.video_url):
            raise InputError(f"{path}, film {place}: video_url {film.video_url!r} is not an http(s) address")
        if first_place.setdefault(film.video_id, place) != place:
            raise InputError(f"{path}, film {place}: {film.video_id} is film {first_place[film.video_id]} already")
    return films


class Manifest:
    """`<folder>/manifest.csv`: one row for every film tried or skipped so far, in the order of the list.

    Rows of films that are no longer listed are kept, at the end. The file is written whole at every change:
    a kill loses the row of a film already in place at worst, and `download` finds such a film again.
    """

    def __init__(self, folder: Path, films: list[Film]):
        self.folder = folder
        self.path = folder / "manifest.csv"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {folder}: {error.strerror}") from None
        old = _read_csv(self.path, COLUMNS) if is_there(self.path) else []
        self.rows = {row["video_id"]: row for row in old}
        self._order = list(dict.fromkeys([*(film.video_id for film in films), *self.rows]))

    def is_done(self, film: Film) -> bool:
        """Whether the film was fetched and its file is still there, as long as it was.

        A link that leads nowhere, as git-annex leaves them, stands for the file it had. Raises OSError if the system
        does not let the file be looked at.
        """
        row = self.rows.get(film.video_id)
        if row is None or row["status"] != "done":
            return False
        file = self.folder / row["file"]
        is_its_name = (file.parent, file.stem) == (self.folder, film.video_id)
        if not is_its_name or not is_there(file):
            return False
        try:
            return str(file.stat().st_size) == row["size_bytes"]
        except FileNotFoundError:
            return True

    def record(self, *rows: Row) -> None:
        """Enter rows, each in place of an earlier one of its film, and write the file."""
        self.rows.update({row["video_id"]: row for row in rows})
        with written_whole(self.path) as part, open(part, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            table.writeheader()
            table.writerows(self.rows[video_id] for video_id in self._order if video_id in self.rows)


def make_row(film: Film, status: str, **fields: str) -> Row:
    """A row of manifest.csv; columns that are not given stay empty."""
    return {**dict.fromkeys(COLUMNS, ""), "video_id": film.video_id, "title": film.title, "status": status, **fields}


def _read_csv(path: Path, columns: tuple[str, ...]) -> list[Row]:
    import pandas as pd

    try:
        data = path.read_bytes()  # by its path pandas would unpack an archive or fetch an address
        if b"\0" in data:  # Python 3.10 cannot write it back
            raise ValueError("it holds a character of code 0")
        table = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False)  # a film may be called NA
    except OSError as error:
        if is_there(path) and not path.is_dir():
            raise
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # not CSV, empty, or not UTF-8
        raise InputError(f"{path} is not a table in CSV, UTF-8: {' '.join(str(error).split())}") from None
    if missing := [column for column in columns if column not in table]:
        raise InputError(f"{path} has no column {missing[0]}; it needs {', '.join(columns)}")
    return table[list(columns)].fillna("").to_dict("records")
