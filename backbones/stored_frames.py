"""Folders with the pictures of a film in a database, as dataset2database lays them out: frames.db beside n_frames.

    Images(ObjId, frames, size)     a row a frame: <folder's name>/frame_<number from 1>, a JPEG file, its width

n_frames has their number as text. Rows come in any order, and the published table has no key: a film's rows are looked
through once, for which frame is where.
"""

import os
import sqlite3
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np

from backbones.film_reader import check_numbers, stacked
from recognition.common.command_line import InputError, one_line, shown
from recognition.common.files import written_whole

DATABASE, COUNT = "frames.db", "n_frames"
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"  # ITU-T T.81, B.1.1.3


class StoredFrames:
    """The frames of such a folder; see `frame_store.FilmReader`. Nothing is written, and no lock is waited for.

    Raises InputError where it is not such a database, has no frame, or lacks one. A count in n_frames that differs is
    told on stderr.
    """

    def __init__(self, folder: Path, fps: float = 0.0):
        self._path, self.fps = folder / DATABASE, fps
        self._connection: sqlite3.Connection | None = None
        self._process_id = 0  # of the one that has the connection: SQLite allows no other that forks from it
        self._rows = self._find_rows()
        self.num_frames = len(self._rows)
        count = folder / COUNT
        said = count.read_text(errors="replace").strip() if count.exists() else str(self.num_frames)
        if said != str(self.num_frames):
            print(one_line(f"{count}: says {said}, but {DATABASE} has {self.num_frames} frames"), file=sys.stderr)

    def frames(self, numbers: Sequence[int]) -> np.ndarray:
        wanted = check_numbers(self._path, numbers, self.num_frames)
        if self._connection is None or self._process_id != os.getpid():
            self._connection, self._process_id = self._connect(), os.getpid()
        pictures = {number: self._picture(self._connection, number) for number in set(wanted)}
        return stacked(self._path, [pictures[number] for number in wanted])

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_connection": None}

    def _find_rows(self) -> np.ndarray:
        """The rowid (n,) of each frame."""
        try:
            with closing(self._connect()) as connection:
                rows = connection.execute("SELECT rowid, ObjId FROM Images").fetchall()
        except sqlite3.Error as error:
            raise InputError(f"{self._path}: holds no frames that can be read ({error}); extract them again") from None
        if not rows:
            raise InputError(f"{self._path}: holds no frame; extract them again, or leave it out")
        found = {self._number(rowid, name): rowid for rowid, name in rows}
        if len(found) < len(rows):
            raise InputError(f"{self._path}: names a frame twice; extract them again")
        for number in range(len(found)):
            if number not in found:
                raise InputError(f"{self._path}: frame {number + 1} is missing, of {len(found)}; extract them again")
        return np.array([found[number] for number in range(len(found))])

    def _number(self, rowid: int, name: object) -> int:
        """A frame's number, from 0, by its name."""
        digits = name.rpartition("_")[2] if isinstance(name, str) else ""
        if not digits.isdecimal():
            raise InputError(f"{self._path}, row {rowid}: ObjId {shown(name)} does not end in _ and a number")
        if int(digits) == 0:
            raise InputError(f"{self._path}, row {rowid}: ObjId {shown(name)} counts from 0, frames count from 1 here")
        return int(digits) - 1

    def _picture(self, connection: sqlite3.Connection, number: int) -> np.ndarray:
        row = int(self._rows[number])
        try:
            [data] = connection.execute("SELECT frames FROM Images WHERE rowid = ?", (row,)).fetchone()
        except (sqlite3.Error, TypeError) as error:
            raise InputError(f"{self._path}, row {row}: cannot be read ({error}); extract it again") from None
        # OpenCV makes a picture of half a file, too.
        is_whole = isinstance(data, bytes) and data.startswith(JPEG_START) and JPEG_END in data[-64:]
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if is_whole else None
        if image is None:
            raise InputError(f"{self._path}, row {row}: frame {number + 1} is no whole JPEG; extract the film again")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def _connect(self) -> sqlite3.Connection:
        # Immutable: neither a lock that somebody holds nor a folder that nobody may write to is in the way.
        return sqlite3.connect(f"file:{quote(str(self._path.absolute()))}?mode=ro&immutable=1", uri=True)


def is_whole(folder: Path) -> bool:
    """Whether `write_frames` has done a folder."""
    return all((folder / name).exists() for name in (DATABASE, COUNT))


def write_frames(folder: Path, pictures: Iterable[np.ndarray]) -> None:
    """Write pictures (H, W, 3) uint8 RGB as such a folder, with a key by name, which the published table lacks.

    n_frames comes last, so a folder that has it is whole. Raises OSError if a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    num_frames = 0
    try:
        with written_whole(folder / DATABASE) as part, closing(sqlite3.connect(part)) as connection:
            connection.execute("PRAGMA journal_mode = OFF")  # a file that is not whole is thrown away
            connection.execute("CREATE TABLE Images (ObjId TEXT PRIMARY KEY, frames BLOB, size INT)")
            for picture in pictures:
                num_frames += 1
                _, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
                row = f"{folder.name}/frame_{num_frames:05d}", data.tobytes(), picture.shape[1]
                connection.execute("INSERT INTO Images VALUES (?, ?, ?)", row)
            connection.commit()
    except sqlite3.Error as error:
        raise OSError(f"{folder / DATABASE}: could not be written ({error})") from error
    with written_whole(folder / COUNT) as part:
        part.write_text(str(num_frames))
