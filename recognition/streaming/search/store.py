"""A store of studied films on disk, to be looked up: features of about one frame a second, of unit length.

One safetensors file, memory-mapped. `features` (N, D) float16 come first, then `time_s` (N,) and `frame` (N,), the
number of the frame in its film, and `usual` (D,), the mean of all rows: what a frame's cosine with it is, is its mean
cosine with all. Metadata says which films these are of: `films`, JSON, a list of name, digest and number of rows, in
the order of the rows.

Shapes: N rows, D features, F films.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from recognition.common.files import is_there, naming, written_whole
from recognition.streaming.search.studied import Studied

VERSION = "1"  # of how frames are chosen
ALIGNED = 64  # bytes; rows begin at a multiple


class Film(NamedTuple):
    """What a store has of a film."""

    name: str
    digest: str  # of its features
    num_rows: int


class Lists(Protocol):
    """What finds rows of a store."""

    def nearest(self, asked: np.ndarray, num: int) -> Iterator[np.ndarray]:
        """Rows most similar to each frame of unit length (Q, D), at most `num`, the most similar first."""


@dataclass(frozen=True, eq=False)
class Store:
    """A store that was opened.

    Attributes:
        films: in the order of their rows.
        fps: rows a second, about.
        features: (N, D) float16, mapped.
        time_s, frame: of each row, (N,).
        film: which one it is of, (N,).
        usual: (D,) float32.
        num_bytes: of the file.
        lists: what finds rows instead of an exact search, if there is something.
    """

    films: Sequence[Film]
    fps: float
    features: Tensor
    time_s: np.ndarray
    frame: np.ndarray
    film: np.ndarray
    usual: np.ndarray
    num_bytes: int
    lists: Lists | None = None


class _Part(NamedTuple):
    """The rows of one film that is to be written."""

    film: Film
    frame: np.ndarray
    time_s: np.ndarray
    rows: slice | None  # of the earlier store, if they are there


def open_store(path: Path, studied: Studied, fps: float = 1.0) -> Store:
    """The store of these films, made anew where they have changed; films that it has already are copied.

    Raises OSError if it cannot be read or written.
    """
    earlier = _read(path) if is_there(path) else None
    if earlier is not None and earlier.fps != fps:
        earlier = None
    films = list(zip(studied.names, studied.digests, strict=True))
    if earlier is None or [film[:2] for film in earlier.films] != films:
        _write(path, studied, fps, earlier)
        earlier = _read(path)
        assert earlier is not None  # it was just written
    return earlier


def sampled(shots: np.ndarray, times_s: np.ndarray, fps: float) -> np.ndarray:
    """Which frames of a film are kept, ascending: every shot is cut into equal parts as near as can be to 1 / fps
    seconds long, and the frame in the middle of each is kept. So a cut never lies between a frame and all that are
    kept near it, and no shot is without one.

    shots: first frames, (K,), ascending from 0. times_s: of all frames, (n,).
    """
    num_frames = len(times_s)
    rate = (num_frames - 1) / (times_s[-1] - times_s[0]) if num_frames > 1 and times_s[-1] > times_s[0] else fps
    size = np.diff([*shots, num_frames])
    num = np.clip(np.round(size * fps / rate).astype(int), 1, size)
    part = np.arange(num.sum()) - np.repeat(np.cumsum(num) - num, num)  # of its shot
    return np.repeat(shots, num) + ((part + 0.5) * np.repeat(size / num, num)).astype(int)


def unit(features: np.ndarray) -> np.ndarray:
    """Features (..., D) as float32 of length 1. What is no number becomes zeros, which nothing resembles."""
    features = np.asarray(features, np.float32)
    is_number = np.isfinite(features).all(-1, keepdims=True)
    features = np.where(is_number, features, 0)
    largest = np.abs(features).max(-1, keepdims=True)
    features = features / np.where(largest > 0, largest, 1)  # else squares could overflow, or vanish
    length = np.linalg.norm(features, axis=-1, keepdims=True)
    return features / np.where(length > 0, length, 1)


def _write(path: Path, studied: Studied, fps: float, earlier: Store | None) -> None:
    parts = list(_plan(studied, fps, earlier))
    frame, time_s = (np.concatenate([getattr(part, name) for part in parts]) for name in ("frame", "time_s"))
    num_rows, width = len(frame), studied.num_features
    tensors = {
        "features": ("F16", [num_rows, width], 2 * num_rows * width),
        "time_s": ("F64", [num_rows], 8 * num_rows),
        "usual": ("F32", [width], 4 * width),
        "frame": ("I32", [num_rows], 4 * num_rows),
    }
    about = {"films": json.dumps([part.film for part in parts]), "fps": repr(fps), "version": VERSION}
    sums = np.zeros(width)
    with written_whole(path) as part_file, naming(path), open(part_file, "wb") as file:
        file.write(_head(tensors, about))
        for number, part in enumerate(tqdm(parts, "store of frames", unit="film", disable=len(parts) < 10)):
            if part.rows is not None:
                assert earlier is not None
                rows = earlier.features[part.rows].numpy()
            else:
                rows = unit(studied.features(number, part.frame)).astype(np.float16)
            sums += rows.sum(0, dtype=np.float64)
            file.write(np.ascontiguousarray(rows).data)
        usual = (sums / num_rows).astype(np.float32)
        for values, kind in ((time_s, np.float64), (usual, np.float32), (frame, np.int32)):
            file.write(np.ascontiguousarray(values, kind).data)


def _plan(studied: Studied, fps: float, earlier: Store | None) -> Iterator[_Part]:
    """What is to be written of each film."""
    known: dict[tuple[str, str], tuple[int, int]] = {}
    if earlier is not None and earlier.features.shape[1] == studied.num_features:
        ends = np.cumsum([film.num_rows for film in earlier.films])
        known = {film[:2]: (int(end) - film.num_rows, int(end)) for film, end in zip(earlier.films, ends, strict=True)}
    for number, (name, digest) in enumerate(zip(studied.names, studied.digests, strict=True)):
        if (name, digest) in known and earlier is not None:
            rows = slice(*known[name, digest])
            frame, time_s = earlier.frame[rows], earlier.time_s[rows]
            yield _Part(Film(name, digest, len(frame)), frame, time_s, rows)
        else:
            times_s = studied.times(number)
            frame = sampled(studied.shots(number), times_s, fps)
            yield _Part(Film(name, digest, len(frame)), frame, times_s[frame], None)


def _head(tensors: dict[str, tuple[str, list[int], int]], about: dict[str, str]) -> bytes:
    """What a safetensors file begins with: the length of a text, and the text, which says what follows it."""
    described: dict[str, object] = {"__metadata__": about}
    begin = 0
    for name, (kind, shape, num_bytes) in tensors.items():
        described[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, begin + num_bytes]}
        begin += num_bytes
    text = json.dumps(described).encode()
    text += b" " * (-(8 + len(text)) % ALIGNED)
    return len(text).to_bytes(8, "little") + text


def _read(path: Path) -> Store | None:
    """A store; None if it is none, or not whole, or made in another way. Raises OSError if it cannot be read."""
    with open(path, "rb"):  # Python names the file
        pass
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            features, *others = (file.get_tensor(name) for name in ("features", "time_s", "frame", "usual"))
        if about["version"] != VERSION:
            return None
        films = [Film(str(name), str(digest), int(num)) for name, digest, num in json.loads(about["films"])]
        time_s, frame, usual = (tensor.numpy() for tensor in others)
        film = np.repeat(np.arange(len(films)), [film.num_rows for film in films])
        if not (features.dtype == torch.float16 and len(features) == len(time_s) == len(frame) == len(film)):
            return None
        return Store(films, float(about["fps"]), features, time_s, frame, film, usual, path.stat().st_size)
    except (SafetensorError, KeyError, TypeError, ValueError):
        return None
