"""What pictures are captured from: a camera, or a container that FFmpeg decodes as it comes."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import av
import cv2
import numpy as np

from recognition.common.command_line import Failure, InputError, one_line
from recognition.films.picture import DecodeError, PictureMaker
from recognition.films.video import picture_stream, reason


class Capture(Protocol):
    """Where pictures are captured from, one after the other. No call waits without end."""

    name: str
    comes_back: bool  # whether it is worth while to open it again

    def open(self) -> None:
        """Open it, or open it again. Raises InputError if there is no such thing, or it is none that gives pictures."""

    def read(self) -> np.ndarray | None:
        """Wait for the next picture, (H, W, 3) uint8 RGB; None if there is none any more, or not before long."""

    def close(self) -> None:
        """Let go of it; `open` may follow."""


class Camera:
    """A camera by its number or device, through OpenCV, which is asked to hold one picture back at most."""

    comes_back = True

    def __init__(self, device: int | str):
        self._device = device
        self.name = f"camera {device}" if isinstance(device, int) else one_line(device)
        self._camera: cv2.VideoCapture | None = None

    def open(self) -> None:
        self.close()
        is_linux = sys.platform == "linux"
        path = f"/dev/video{self._device}" if isinstance(self._device, int) else self._device
        if is_linux and not Path(path).exists():
            there = ", ".join(sorted(map(str, Path("/dev").glob("video*")))) or "none"
            raise InputError(f"{self.name}: no such camera; there are {there}. Name another, or test: to try without")
        level = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what it says is said below
        try:
            self._camera = cv2.VideoCapture(self._device, cv2.CAP_V4L2 if is_linux else cv2.CAP_ANY)
        finally:
            cv2.utils.logging.setLogLevel(level)
        if not self._camera.isOpened():
            raise InputError(f"{self.name}: cannot be opened; is it in use, or may you not read {path}?")
        self._camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)

    def read(self) -> np.ndarray | None:
        if self._camera is None:
            return None
        there, picture = self._camera.read()
        return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB) if there else None

    def close(self) -> None:
        if self._camera is not None:
            self._camera.release()
            self._camera = None


class Container:
    """What FFmpeg opens and decodes as it comes. Damaged frames are passed over: a live stream is joined anywhere."""

    def __init__(
        self, name: str, opened: Callable[[], av.container.InputContainer], comes_back: bool, pace: bool = False
    ):
        self.name, self.comes_back = name, comes_back
        self._opened, self._is_paced = opened, pace
        self._begun_s: float | None = None  # when a picture of time 0 was due
        self._container: av.container.InputContainer | None = None
        self._pictures: Iterator[tuple[np.ndarray, float]] = iter(())

    @property
    def has_end(self) -> bool:
        """Whether it says how long it is: a film, by an address."""
        return self._container is not None and self._container.duration is not None

    def open(self) -> None:
        self.close()
        try:
            self._container = self._opened()
            self._pictures = self._decoded(self._container, picture_stream(self._container))
        except InputError:
            raise
        except (DecodeError, OSError, ValueError, av.error.FFmpegError) as error:
            self.close()
            raise InputError(f"{self.name}: cannot be opened ({_said(error)})") from error

    def read(self) -> np.ndarray | None:
        try:
            picture, time_s = next(self._pictures, (None, 0.0))
        except (OSError, av.error.FFmpegError):
            return None
        if self._is_paced and picture is not None:
            self._wait_until(time_s)
        return picture

    def pictures(self) -> Iterator[tuple[np.ndarray, float]]:
        """All that come, with the times that the container gives them, which grow. Raises Failure if it breaks off, and
        InputError for pictures that cannot be shown."""
        try:
            yield from self._pictures
        except DecodeError as error:
            raise InputError(f"{self.name}: {error}") from error
        except (OSError, av.error.FFmpegError) as error:
            raise Failure(f"{self.name}: breaks off ({_said(error)})") from error

    def close(self) -> None:
        self._pictures = iter(())
        if self._container is not None:
            self._container.close()
            self._container = None

    @staticmethod
    def _decoded(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[tuple[np.ndarray, float]]:
        maker = PictureMaker(stream)
        stream.thread_type = "NONE"  # several threads hold frames back, one each
        step_s, before_s = 1 / float(stream.average_rate or 25), -math.inf
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                continue
            for frame in frames:
                if frame.is_corrupt:
                    continue
                told_s = max(before_s, 0.0) if frame.time is None else frame.time
                before_s = told_s if told_s > before_s else before_s + step_s
                yield maker.picture(frame), before_s

    def _wait_until(self, time_s: float) -> None:
        if self._begun_s is None:
            self._begun_s = time.monotonic() - time_s
        time.sleep(max(0.0, self._begun_s + time_s - time.monotonic()))


def _said(error: Exception) -> str:
    return one_line(str(error)) if isinstance(error, DecodeError) else reason(error)
