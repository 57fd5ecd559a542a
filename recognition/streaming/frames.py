"""Frames of a stream with their times, and which of them are taken at a rate."""

import math
import time
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType

import numpy as np


@dataclass(frozen=True)
class Frame:
    """A picture of a stream.

    picture: (H, W, 3) uint8 RGB; sizes may differ within a stream.
    time_s: when it was captured, seconds. Of a live source since its first frame, of a film as the film tells.
    dropped_before: frames that were due since the one before it and are passed over, because nobody came for them.
    taken_s: when it was captured, or decoded from a film, by `time.monotonic`: what latency is counted from.
    """

    picture: np.ndarray
    time_s: float
    dropped_before: int
    taken_s: float


class Source(Iterator[Frame]):
    """Where frames come from: an iterator of `Frame`, to be closed; as a context manager it closes itself.

    Iterating raises InputError for a film or a picture that cannot be read, Failure for a live source that is gone.
    """

    name: str  # fit to be shown: on one line, and without a password
    is_live: bool

    def end_when(self, is_stop_asked: Callable[[], bool]) -> None:
        """Stop waiting for a live source's next frame as soon as this says so; other sources do not let wait."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files, devices and connections; no frame comes any more."""

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Recorded(Source):
    """A source that has an end and waits for its reader: none of its frames is dropped.

    pictures: pairs of a picture and its time in seconds, in order. With `fps` those nearest in time to every 1 / fps
    are taken, and with `realtime` none comes before its time.
    """

    is_live = False

    def __init__(
        self,
        name: str,
        pictures: Iterable[tuple[np.ndarray, float]],
        fps: float | None,
        realtime: bool = False,
        close: Callable[[], None] = lambda: None,
    ):
        self.name, self._close = name, close
        timed = pictures if fps is None else nearest_in_time(pictures, fps)
        self._frames = self._paced(timed, realtime)

    def __next__(self) -> Frame:
        return next(self._frames)

    def close(self) -> None:
        self._frames.close()
        self._close()

    @staticmethod
    def _paced(pictures: Iterable[tuple[np.ndarray, float]], realtime: bool) -> Generator[Frame, None, None]:
        begun_s: float | None = None
        for picture, time_s in pictures:
            if begun_s is None:
                begun_s = time.monotonic() - time_s
            if realtime and (early_s := begun_s + time_s - time.monotonic()) > 0:
                time.sleep(early_s)
            yield Frame(picture, time_s, 0, time.monotonic())


def nearest_in_time(pictures: Iterable[tuple[np.ndarray, float]], fps: float) -> Iterator[tuple[np.ndarray, float]]:
    """Of pictures with their times, in order, those nearest to first + k / fps for whole k; none comes twice, so that
    a film slower than this comes whole."""
    first_s: float | None = None
    best: tuple[np.ndarray, float] | None = None
    current, best_off = 0, math.inf
    for picture, time_s in pictures:
        if first_s is None:
            first_s = time_s
        place = (time_s - first_s) * fps
        k = math.floor(place + 0.5)
        if k != current and best is not None:
            yield best
            best, best_off = None, math.inf
        current, off = k, abs(place - k)
        if off < best_off:
            best, best_off = (picture, time_s), off
    if best is not None:
        yield best


class Beat:
    """Which frames of a live source are due at a rate: those nearest in time to every 1 / fps, as far as can be told
    without waiting for the next one, which is expected after as long as the last has taken. None: all are."""

    def __init__(self, fps: float | None):
        self._fps = fps
        self._first_s = self._before_s = 0.0
        self._taken = -1

    def is_due(self, time_s: float) -> bool:
        """Whether the frame of this time is one; times in order."""
        if self._fps is None:
            return True
        if self._taken < 0:
            self._first_s = self._before_s = time_s
        half_s = min(time_s - self._before_s, 1 / self._fps) / 2
        self._before_s = time_s
        # Times that are steps of the rate must not fall short of them by rounding.
        place = math.floor((time_s - self._first_s + half_s) * self._fps + 1e-6)
        if place <= self._taken:
            return False
        self._taken = place
        return True
