"""Frames of films by their numbers, from wherever they lie: one reader for films, small films, folders with frames.db
and memory.

Small films (see small_films.py) are the ones to train on. Full-size films are decoded to their end when they are
opened, to count their frames, and from a key frame on for every clip.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from backbones.film_index import ANEW, INDEX, IndexRow, find_row, read_times
from backbones.film_reader import FilmReader, check_numbers, stacked
from backbones.stored_frames import DATABASE, StoredFrames
from recognition.common.command_line import InputError
from recognition.common.files import sha256
from recognition.films.picture import DecodeError
from recognition.films.video import decode, picture_stream, probe, read_frames, reason

COUNTING_SIDE = 16  # pixels of the pictures that are made only to be counted


def open_film(path: Path, store_fps: float | None = None) -> FilmReader:
    """A reader of a film; of a small film, if an index.h5 beside it names it; of a folder with frames.db, whose frame
    rate is `store_fps`.

    Raises InputError, which names the film, where it cannot be read to its end or is not what its index says.
    """
    if path.is_dir():
        if not (path / DATABASE).exists():
            raise InputError(f"{path}: is a folder without {DATABASE}; name a film, or a folder that has it")
        return StoredFrames(path, store_fps or 0.0)
    row = _row(path)
    return PlainFilm(path) if row is None else SmallFilm(path, path.with_name(INDEX), row)


def original_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a film's bytes: of a small film those of the film that it was made of, of a folder those
    of its frames.db. Raises InputError for an index that is damaged, OSError for what cannot be read."""
    row = _row(path)
    return row.original_sha256 if row else sha256(path / DATABASE if path.is_dir() else path)


def _row(path: Path) -> IndexRow | None:
    """A film's row of the index beside it, if it has one."""
    index = path.with_name(INDEX)
    return find_row(index, path.name) if index.exists() else None


class HeldFilm:
    """Frames (n, H, W, 3) uint8 that are in memory."""

    def __init__(self, frames: np.ndarray, fps: float):
        self._frames, self.num_frames, self.fps = frames, len(frames), fps

    def frames(self, numbers: Sequence[int]) -> np.ndarray:
        return self._frames[check_numbers("a film in memory", numbers, self.num_frames)]

    def close(self) -> None:
        pass


class PlainFilm:
    """A film as it is, with the pictures, the numbers and the times that `decode` gives."""

    def __init__(self, path: Path):
        self._path = path
        try:
            self._times = np.array([time_s for _, time_s in decode(path, short_side=COUNTING_SIDE)])
            self.fps = probe(path).fps
        except DecodeError as error:
            raise _cannot_be_read(path, error) from error
        self.num_frames = len(self._times)

    def frames(self, numbers: Sequence[int]) -> np.ndarray:
        numbers = check_numbers(self._path, numbers, self.num_frames)
        try:
            pictures = read_frames(self._path, self._times[numbers].tolist())
        except DecodeError as error:
            raise _cannot_be_read(self._path, error) from error
        return stacked(self._path, pictures)

    def close(self) -> None:
        pass


class SmallFilm:
    """A film with its row of an index: decoding begins at the key frame before a clip, and goes on where it can."""

    def __init__(self, path: Path, index: Path, row: IndexRow):
        self._path, self._index, self._row = path, index, row
        self.num_frames, self.fps = row.num_frames, row.fps
        self._open: _Decoding | None = None
        self._process_id = 0  # in which it is open; those forked from that one would move its place in the file
        try:
            is_same = path.stat().st_size == row.size_bytes
        except FileNotFoundError:
            raise InputError(f"{path}: no such film, though {index} names it; {ANEW}") from None
        if not is_same:
            raise self._is_other("its size differs")

    def frames(self, numbers: Sequence[int]) -> np.ndarray:
        numbers = check_numbers(self._path, numbers, self.num_frames)
        try:
            if self._open is None or self._process_id != os.getpid():
                self._open = _Decoding(self._path, *read_times(self._index, self._row))
                self._process_id = os.getpid()
            pictures = None
            for number in sorted(set(numbers)):
                picture = self._open.picture(number)
                if pictures is None:
                    pictures = np.empty((len(numbers), *picture.shape), np.uint8)
                for place, other in enumerate(numbers):
                    if other == number:
                        pictures[place] = picture
        except (DecodeError, av.error.FFmpegError) as error:
            self.close()
            raise self._is_other(str(error) if isinstance(error, DecodeError) else reason(error)) from error
        return np.empty((0, 0, 0, 3), np.uint8) if pictures is None else pictures

    def close(self) -> None:
        if self._open is not None:
            self._open.container.close()
            self._open = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}

    def _is_other(self, why: str) -> InputError:
        return InputError(
            f"{self._path}: is not the film that {self._index} was made of ({why}); remove both and run "
            f"python -m backbones.prepare films again"
        )


class _Decoding:
    """A small film that is open, at some frame."""

    def __init__(self, path: Path, times: np.ndarray, keys: np.ndarray):
        self.container = av.open(str(path.absolute()), metadata_errors="replace")
        self._stream = picture_stream(self.container)
        self._stream.thread_type, self._stream.codec_context.thread_count = "NONE", 1
        self._stream.codec_context.options = {"err_detect": "explode"}
        self._reformatter = VideoReformatter()
        self._times, self._keys = times, keys
        self._frames = self.container.decode(self._stream)
        self._next = 0

    def picture(self, number: int) -> np.ndarray:
        """A frame's picture (H, W, 3), which is to be copied.

        Raises DecodeError where the film's frames are not at the times of the index.
        """
        key = int(self._keys[np.searchsorted(self._keys, number, "right") - 1])
        if not key <= self._next <= number:
            assert self._stream.time_base is not None
            self.container.seek(round(self._times[key] / self._stream.time_base), stream=self._stream)
            self._frames, self._next = self.container.decode(self._stream), key
        for frame in self._frames:
            if frame.time != self._times[self._next] or frame.is_corrupt:
                raise DecodeError(f"frame {self._next} is damaged or at another time")
            self._next += 1
            if self._next > number:
                # All that PictureMaker would do: small films lie upright, and their pixels are square.
                rgb = self._reformatter.reformat(frame, format="rgb24", threads=1)
                plane = rgb.planes[0]
                lines = np.frombuffer(plane, np.uint8).reshape(rgb.height, plane.line_size)  # type: ignore[call-overload]
                return lines[:, : 3 * rgb.width].reshape(rgb.height, rgb.width, 3)
        raise DecodeError(f"ends before frame {self._next}")


def _cannot_be_read(path: Path, error: DecodeError) -> InputError:
    return InputError(f"{path}: cannot be read ({error}); leave it out, python -m backbones.prepare lists such films")
