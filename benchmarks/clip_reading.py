"""Clips a second from small films, against the same films at full size, JPEG files and databases of JPEG files."""

import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np

from backbones.film_index import Shape
from backbones.frame_store import FilmReader, open_film
from backbones.small_films import update_index, write_small_film
from backbones.stored_frames import DATABASE, write_frames
from benchmarks import tiny
from benchmarks.measure import Row, take_turns
from recognition.films.synthetic import write_films
from recognition.films.video import DecodeError, decode, find_videos

FULL_SIZE, FPS = (1280, 720), 25  # of films that are made where none are given
CLIP = 16  # frames
# Asked of small films, by how far apart a clip's frames are: times as fast as JPEG files, and as full-size films.
WANTED = {1: (1.0, 10.0), 3: (0.5, 5.0)}


class Sizes(NamedTuple):
    """How much is measured."""

    num_films: int = 4
    film_s: int = 8
    num_clips: int = 60
    num_full_size_clips: int = 8
    repeats: int = 5


class Stored(NamedTuple):
    """One film in all the forms that are compared."""

    small: Path
    full: FilmReader
    files: Path  # a folder of JPEG files
    frames: Path  # a folder with frames.db, with a key
    published: Path  # a frames.db without one
    num_frames: int


Clip = tuple[Stored, list[int]]


def clips(device: str, videos: Path | None = None) -> Iterator[Row]:
    """Clips of 16 frames from random places, read by one thread from files that the system has at hand."""
    cv2.setNumThreads(1)
    sizes = Sizes(1, 2, 2, 1, 1) if tiny.is_tiny else Sizes()
    with tempfile.TemporaryDirectory() as name:
        films = _store(Path(name), videos or _make_films(Path(name), sizes))
        for step in WANTED:
            yield from _compare(films, step, sizes)


def _compare(films: Sequence[Stored], step: int, sizes: Sizes) -> Iterator[Row]:
    rng, span = np.random.default_rng(0), (CLIP - 1) * step + 1
    drawn: list[Clip] = []
    while len(drawn) < sizes.num_clips:
        film = films[int(rng.integers(len(films)))]
        start = int(rng.integers(max(1, film.num_frames - span + 1)))
        drawn.append((film, [min(start + step * k, film.num_frames - 1) for k in range(CLIP)]))
    kept = {film: (open_film(film.small), open_film(film.frames)) for film in films}
    ways: dict[str, Callable[[Clip], object]] = {
        "small films": _opened,
        "small films, kept open": lambda clip: kept[clip[0]][0].frames(clip[1]),
        "JPEG files": _read_files,
        "frames.db, kept open": lambda clip: kept[clip[0]][1].frames(clip[1]),
        "frames.db without a key, by name": _look_up,
        "full-size films": lambda clip: clip[0].full.frames(clip[1]),
    }
    num_clips = dict.fromkeys(ways, sizes.num_clips) | {"full-size films": sizes.num_full_size_clips}
    rounds = [partial(_read_all, read, drawn[: num_clips[name]]) for name, read in ways.items()]
    taken = dict(zip(ways, take_turns(rounds, sizes.repeats), strict=True))
    seconds = {name: taken[name] / num_clips[name] for name in ways}
    pairs = [("small films, kept open", "JPEG files"), *(("small films", rival) for rival in list(ways)[2:])]
    for ours, rival in pairs:
        note = f"{1 / seconds[ours]:.0f} clips/s against {1 / seconds[rival]:.0f}"
        what = f"{ours}, frames {step} apart"
        yield Row(what, rival, seconds[ours], seconds[rival], WANTED[step][rival == "full-size films"], note=note)
    for readers in kept.values():
        for reader in readers:
            reader.close()


def _read_all(read: Callable[[Clip], object], drawn: Sequence[Clip]) -> None:
    for clip in drawn:
        read(clip)


def _opened(clip: Clip) -> None:
    film, numbers = clip
    reader = open_film(film.small)
    reader.frames(numbers)
    reader.close()


def _read_files(clip: Clip) -> np.ndarray:
    film, numbers = clip
    return np.stack([_decoded((film.files / f"{number}.jpg").read_bytes()) for number in numbers])


def _decoded(data: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _look_up(clip: Clip) -> np.ndarray:
    """As the store's own reader does it, for each frame by its name in a table that has no index."""
    film, numbers = clip
    images = []
    with closing(sqlite3.connect(film.published)) as connection:
        for number in numbers:
            name = f"{film.frames.name}/frame_{number + 1:05d}"
            [data] = connection.execute("SELECT frames FROM Images WHERE ObjId = ?", (name,)).fetchone()
            images.append(_decoded(data))
    return np.stack(images)


def _make_films(folder: Path, sizes: Sizes) -> Path:
    """A folder with films at full size."""
    (folder / "full").mkdir()
    for film in write_films(folder, sizes.num_films, sizes.film_s, FPS):
        _enlarge(film, folder / "full" / film.name)
    return folder / "full"


def _store(folder: Path, videos: Path) -> list[Stored]:
    """The films of a folder in every form; damaged ones and those shorter than a clip are left out."""
    (folder / "files").mkdir()
    stored = []
    for path in find_videos(videos):
        small = folder / "small" / f"{path.stem}.mp4"
        try:
            write_small_film(path, small, Shape())
        except DecodeError:
            continue
        pictures = [image for image, _ in decode(small)]
        files, frames = folder / "files" / path.stem, folder / "frames" / path.stem
        if len(pictures) < CLIP:
            continue
        files.mkdir()
        for number, picture in enumerate(pictures):
            cv2.imwrite(str(files / f"{number}.jpg"), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        write_frames(frames, pictures)
        stored.append(Stored(small, open_film(path), files, frames, _without_key(frames), len(pictures)))
    update_index(folder / "small", Shape())
    return stored


def _without_key(frames: Path) -> Path:
    """Copy a database of frames into the published table."""
    path = frames / "published.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ATTACH ? AS ours", (str(frames / DATABASE),))
        connection.execute("CREATE TABLE Images (ObjId STRING, frames BLOB, size INT)")
        connection.execute("INSERT INTO Images SELECT ObjId, frames, size FROM ours.Images")
        connection.commit()
    return path


def _enlarge(film: Path, path: Path) -> None:
    """Write a film at full size, with the key frames of films from the web."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"g": "250", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = *FULL_SIZE, "yuv420p"
        stream.time_base = Fraction(1, FPS)
        for image, _ in decode(film):
            large = cv2.resize(image, FULL_SIZE, interpolation=cv2.INTER_CUBIC).astype(np.uint8, copy=False)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(large)))
        container.mux(stream.encode())
