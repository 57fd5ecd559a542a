"""What is asked about: pictures, and clips of some seconds, as features."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recognition.common.command_line import InputError, one_line
from recognition.films.video import VIDEO_SUFFIXES, DecodeError, decode, probe, read_frames
from recognition.streaming.eye import Eye
from recognition.streaming.frames import nearest_in_time
from recognition.streaming.sources import PICTURE_SUFFIXES, read_picture

CLIP_FPS = 4.0  # frames of a clip that are asked about, a second
MOST_FRAMES = 240  # of a clip; of a longer one fewer a second
BATCH = 16
SHORT_SIDE = 256  # pixels of a picture that is shown


@dataclass(frozen=True, eq=False)
class Question:
    """A picture or a clip.

    Attributes:
        path: of it.
        name: fit to be shown.
        features: (Q, D) float32, of one frame if it is a picture.
        times_s: (Q,), of a clip's frames as the file tells them.
    """

    path: Path
    name: str
    features: np.ndarray
    times_s: np.ndarray
    is_clip: bool

    def picture(self, time_s: float) -> np.ndarray:
        """The picture, or that of the frame of a clip at one of `times_s`: (H, W, 3) uint8 RGB.

        Raises InputError if it cannot be read any more.
        """
        if not self.is_clip:
            return read_picture(self.path)
        try:
            return read_frames(self.path, [time_s], SHORT_SIDE)[0]
        except DecodeError as error:
            raise InputError(f"{self.name}: {error}") from None


def listed(paths: Sequence[Path]) -> list[Path]:
    """Pictures and clips by these names, and of folders all that are in them, by name; other files there and hidden
    ones are passed over. Raises InputError for a folder without any, or what is not there."""
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            if not path.exists():
                raise InputError(f"--ask {path}: no such file or folder")
            found.append(path)
            continue
        inside = [
            inner
            for inner in sorted(path.iterdir())
            if inner.suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES and not inner.name.startswith(".")
        ]
        if not inside:
            raise InputError(f"--ask {path}: holds neither a picture nor a film")
        found += inside
    return list(dict.fromkeys(found))


def read_question(path: Path, eye: Eye) -> Question:
    """A picture or a clip, by the ending of its name; a name with another one is tried as a picture.

    Raises InputError, in one line, if it cannot be read.
    """
    name = one_line(str(path))
    if path.suffix.lower() in VIDEO_SUFFIXES:
        try:
            frames = list(_of_clip(path, eye))
        except DecodeError as error:
            raise InputError(f"{name}: {error}") from None
        if not frames:
            raise InputError(f"{name}: is too short for a window of the {eye.window} frames that the network reads")
        times_s, features = zip(*frames, strict=True)
        return Question(path, name, np.stack(features), np.array(times_s), True)
    if eye.window > 1:
        raise InputError(f"{name}: the run's network reads {eye.window} frames at once; ask about clips, not pictures")
    return Question(path, name, eye.features([read_picture(path)]), np.zeros(1), False)


def _of_clip(path: Path, eye: Eye) -> Iterator[tuple[float, np.ndarray]]:
    """Times and features (D,) of a clip's frames, or of its windows, one after the other."""
    info = probe(path)
    claimed_s = info.num_frames / info.fps if info.fps else 0.0
    fps = eye.reads_at(min(CLIP_FPS, MOST_FRAMES / claimed_s) if claimed_s else CLIP_FPS)
    frames = iter(decode(path) if fps is None else nearest_in_time(decode(path), fps))
    at_once = eye.window * max(1, BATCH // eye.window)
    while some := list(itertools.islice(frames, at_once)):
        if not (whole := some[: len(some) // eye.window * eye.window]):
            break
        pictures, times_s = zip(*whole, strict=True)
        yield from zip(times_s[eye.window // 2 :: eye.window], eye.features(pictures), strict=True)
