"""index.h5: what a folder of small films says of each of them, so that a clip is found without reading its packets.

Datasets, of F films with N frames and K key frames together; films are in the order of their names:

    name (F,)                       of each film's file in the folder, text
    size_bytes, fps (F,)            of the file; frames a second, as its original says
    first_frame, first_key (F + 1,) where each film's frames and key frames begin below, and where the last one's end
    time_s (N,)                     float64, the times that `decode` gives the frames
    key_frame (K,)                  int64, numbers of the frames at which decoding can begin, counted within the film
    original_sha256, original_bytes (F,)    of the film that each was made of

Attributes: format_version, short_side, keyframes.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np

from recognition.common.command_line import InputError, first_line
from recognition.common.files import is_of_system, written_whole
from recognition.common.hdf5 import new_hdf5, opened_hdf5

INDEX = "index.h5"
FORMAT_VERSION = 1
ANEW = "remove it and run python -m backbones.prepare films again, which makes it anew"
TEXT = h5py.string_dtype()


@dataclass(frozen=True)
class Shape:
    """What small films of one folder have in common."""

    short_side: int = 144  # pixels, at most
    keyframes: int = 16  # every so many-th frame


@dataclass(frozen=True)
class IndexedFilm:
    """A row of the index, with all that it stands for."""

    name: str
    size_bytes: int
    fps: float
    time_s: np.ndarray  # (n,) float64
    key_frame: np.ndarray  # (k,) int64
    original_sha256: str
    original_bytes: int


@dataclass(frozen=True)
class IndexRow:
    """What is at hand of a film before its frames are asked for: little, for there may be many films. Where the rest is
    saves opening the index as HDF5, which takes as long as a few frames."""

    size_bytes: int
    fps: float
    num_frames: int
    num_keys: int
    times_at: int  # byte of the index at which its times begin
    keys_at: int  # the same of its key frames
    original_sha256: str


def write_index(folder: Path, films: list[IndexedFilm], shape: Shape) -> None:
    """Write the folder's index.h5, whole. Raises OSError if it cannot be written."""
    films = sorted(films, key=lambda film: film.name)
    with written_whole(folder / INDEX) as part, new_hdf5(part) as file:
        for name in ("name", "original_sha256"):
            file.create_dataset(name, data=[getattr(film, name) for film in films], dtype=TEXT)
        for name in ("size_bytes", "fps", "original_bytes"):
            file.create_dataset(name, data=np.array([getattr(film, name) for film in films]))
        for name, first, dtype in (("time_s", "first_frame", "float64"), ("key_frame", "first_key", "int64")):
            parts = [getattr(film, name) for film in films]
            file.create_dataset(name, data=np.concatenate(parts).astype(dtype))
            file.create_dataset(first, data=np.cumsum([0, *map(len, parts)]))
        file.attrs.update(format_version=FORMAT_VERSION, short_side=shape.short_side, keyframes=shape.keyframes)


def read_index(path: Path) -> tuple[list[IndexedFilm], Shape]:
    """All of an index. Raises InputError where it is damaged or of another version, OSError where it cannot be read."""
    try:
        with opened_hdf5(path) as file:
            shape = _shape(path, file)
            columns = {name: file[name][()] for name in ("size_bytes", "fps", "original_bytes", "time_s", "key_frame")}
            columns |= {name: file[name].asstr()[()] for name in ("name", "original_sha256")}
            for name, first in (("time_s", "first_frame"), ("key_frame", "first_key")):
                columns[name] = np.split(columns[name], file[first][1:-1])
    except Exception as error:
        raise _told(path, error) from error
    rows = zip(*columns.values(), strict=True)
    return [IndexedFilm(**dict(zip(columns, row, strict=True))) for row in rows], shape


def find_row(path: Path, film: str) -> IndexRow | None:
    """What an index says of one film; None where it does not name it. Raises as `read_index` does."""
    status = path.stat()
    return _rows(path, status.st_mtime_ns, status.st_size).get(film)


def read_times(path: Path, row: IndexRow) -> tuple[np.ndarray, np.ndarray]:
    """The times (n,) of a film's frames in seconds, and the numbers (k,) of its key frames. Raises as `read_index`."""
    with open(path, "rb") as file:
        file.seek(row.times_at)
        times = np.frombuffer(file.read(8 * row.num_frames), np.float64)
        file.seek(row.keys_at)
        keys = np.frombuffer(file.read(8 * row.num_keys), np.int64)
    if len(times) < row.num_frames or len(keys) < max(1, row.num_keys) or keys[0] != 0:
        raise InputError(f"{path}: is damaged (its parts do not fit together); {ANEW}")
    return times, keys


@lru_cache(maxsize=1024)  # folders; films are opened one by one
def _rows(path: Path, modified_ns: int, size: int) -> dict[str, IndexRow]:
    try:
        with opened_hdf5(path) as file:
            _shape(path, file)
            names, sizes, rates = file["name"].asstr()[()], file["size_bytes"][()], file["fps"][()]
            digests = file["original_sha256"].asstr()[()]
            counts, starts = [], []
            for name, first in (("time_s", "first_frame"), ("key_frame", "first_key")):
                bounds, offset = file[first][()], file[name].id.get_offset()
                if offset is None or file[name].dtype.itemsize != 8 or bounds[-1] != len(file[name]):
                    raise ValueError("its parts do not fit together")
                counts.append(np.diff(bounds).tolist())
                starts.append((offset + 8 * bounds[:-1]).tolist())
    except Exception as error:
        raise _told(path, error) from error
    columns = zip(sizes.tolist(), rates.tolist(), *counts, *starts, digests, strict=True)
    return {name: IndexRow(*row) for name, row in zip(names, columns, strict=True)}


def _shape(path: Path, file: h5py.File) -> Shape:
    if file.attrs["format_version"] != FORMAT_VERSION:
        raise InputError(f"{path}: is of format {file.attrs['format_version']}, not {FORMAT_VERSION}; {ANEW}")
    return Shape(int(file.attrs["short_side"]), int(file.attrs["keyframes"]))


def _told(path: Path, error: Exception) -> Exception:
    """The error to raise for what went wrong with an index."""
    if isinstance(error, InputError) or is_of_system(error):
        return error
    return InputError(f"{path}: is damaged ({first_line(error)}); {ANEW}")
