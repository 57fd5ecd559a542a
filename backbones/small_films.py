"""Small films: films made smaller, with many key frames and each frame at its time, so that clips are read fast.

A small film is H.264 in mp4, read like any film. It says itself of what it was made and how, in its comment, so an
index.h5 can always be made anew.
"""

import json
import sys
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from backbones.film_index import INDEX, IndexedFilm, Shape, read_index, write_index
from recognition.common.command_line import InputError
from recognition.common.files import sha256, written_whole
from recognition.films.picture import DecodeError
from recognition.films.video import decode, picture_stream, probe, reason

# No B-frame, no key frame but the regular ones. fastdecode leaves out what takes long to decode: twice as fast for an
# eighth more bytes and 0.1 dB.
CODING = {"crf": "20", "bf": "0", "sc_threshold": "0", "tune": "fastdecode"}
FINEST = 1_000_000  # a second of the time base


def write_small_film(original: Path, path: Path, shape: Shape) -> None:
    """Make a small film, whole or not at all, with the frames and the times that `decode` gives of `original`; without
    its sound. Where it begins before time 0 all of it is later by that.

    Raises DecodeError where the original cannot be decoded to its end, OSError where it cannot be opened or the small
    film cannot be written.
    """
    before = original.stat()
    made_of = {"original_sha256": sha256(original), "original_bytes": before.st_size, "fps": probe(original).fps}
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as part:
        times = _encode(original, part, shape, json.dumps(made_of | asdict(shape)))
        after = original.stat()
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise DecodeError("has changed while it was read")
        found = [time_s for _, time_s in decode(part, short_side=16)]
        if len(found) != len(times) or not np.allclose(found, times, rtol=0, atol=1e-3):
            raise DecodeError(f"its small film came out with {len(found)} frames of {len(times)}, or at other times")


def examine(path: Path) -> tuple[IndexedFilm, Shape] | None:
    """What an index is to say of a small film, and how the film was made; None if it is no small film."""
    try:
        with av.open(str(path.absolute()), metadata_errors="replace") as container:
            told = json.loads(container.metadata.get("comment", ""))
            stream = picture_stream(container)
            packets = [packet for packet in container.demux(stream) if packet.size]
            times = np.array([float(packet.pts * packet.time_base) for packet in packets])
            keys = np.flatnonzero([packet.is_keyframe for packet in packets])
            shape = Shape(told["short_side"], told["keyframes"])
            original = told["original_sha256"], told["original_bytes"]
            return IndexedFilm(path.name, path.stat().st_size, told["fps"], times, keys, *original), shape
    except (DecodeError, av.error.FFmpegError, ValueError, KeyError, TypeError):
        return None


def films_of(folder: Path, shape: Shape) -> tuple[dict[str, IndexedFilm], bool]:
    """The small films of a folder by their names, and whether its index says the same of them. What that does not know,
    or what is younger, is read from the films themselves.

    Raises InputError if they are of another shape.
    """
    index = folder / INDEX
    known: dict[str, IndexedFilm] = {}
    indexed_ns = 0
    if index.exists():
        try:
            films, found = read_index(index)
            known, indexed_ns = {film.name: film for film in films}, index.stat().st_mtime_ns
        except InputError as error:
            print(str(error).partition(";")[0] + "; made anew", file=sys.stderr)
    shapes = {found} if known else set()
    rows: dict[str, IndexedFilm] = {}
    for path in sorted(folder.glob("*.mp4")):
        status = path.stat()
        row = known.get(path.name)
        if row and row.size_bytes == status.st_size and status.st_mtime_ns <= indexed_ns:
            rows[path.name] = row
        elif examined := examine(path):
            rows[path.name], found = examined
            shapes.add(found)
    for other in shapes - {shape}:
        raise InputError(
            f"{folder}: has small films of --short_side {other.short_side} --keyframes {other.keyframes}; say so, or "
            f"name another --output"
        )
    return rows, all(rows.get(name) is film for name, film in known.items()) and len(rows) == len(known)


def is_made_of(original: Path, path: Path, row: IndexedFilm | None) -> bool:
    """Whether there is a small film, `path` of this row, and it was made of the original as it is now, which is read
    only where it is younger. One that cannot be looked at, as git-annex leaves links, is taken for what it was."""
    try:
        status = original.stat()
    except OSError:
        return row is not None
    if row is None or row.original_bytes != status.st_size:
        return False
    return status.st_mtime_ns <= path.stat().st_mtime_ns or sha256(original) == row.original_sha256


def update_index(folder: Path, shape: Shape) -> None:
    """Have the index of a folder say what its small films are. One that does so already is left as it is."""
    rows, is_indexed = films_of(folder, shape)
    if rows and not is_indexed:
        write_index(folder, list(rows.values()), shape)
    elif not rows:
        (folder / INDEX).unlink(missing_ok=True)


def _encode(original: Path, part: Path, shape: Shape, comment: str) -> list[float]:
    """Write the frames of a film, small; returns their times in seconds."""
    base, rate = _clock(original)
    reformatter = VideoReformatter()
    times: list[float] = []
    last, shift = -1, 0.0
    with av.open(str(part), "w", format="mp4") as container:
        container.metadata["comment"] = comment
        stream = container.add_stream("libx264", rate=rate, options={"g": str(shape.keyframes), **CODING})
        stream.pix_fmt, stream.codec_context.time_base, stream.codec_context.thread_count = "yuv420p", base, 1
        for image, time_s in decode(original, short_side=shape.short_side):
            if not times:
                stream.height, stream.width = image.shape[:2]
                shift = max(0.0, -time_s)
            frame = av.VideoFrame.from_ndarray(image)
            # PyAV would take a thread for each core.
            frame = reformatter.reformat(frame, stream.width, stream.height, "yuv420p", threads=1)
            last = max(last + 1, round((time_s + shift) / base))
            frame.pts, frame.time_base = last, base
            times.append(float(last * base))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return times


def _clock(original: Path) -> tuple[Fraction, Fraction]:
    """What a film's times count in, in seconds, and its nominal frames a second. Raises DecodeError."""
    try:
        with av.open(str(original.absolute()), metadata_errors="replace") as container:
            stream = picture_stream(container)
            base, rate = stream.time_base, stream.average_rate or stream.guessed_rate
    except av.error.FFmpegError as error:
        raise DecodeError(reason(error)) from error
    if not base or base.denominator > FINEST:
        base = Fraction(1, FINEST)
    return base, (rate or Fraction(25)).limit_denominator(1001)
