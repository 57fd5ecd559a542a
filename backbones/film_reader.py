"""What every reader of films' frames does, wherever they lie."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from recognition.common.command_line import InputError


class FilmReader(Protocol):
    """The frames of one film. What it has open it opens when frames are first asked for, and keeps until `close`; after
    that it can be asked again. Closed ones hold little. All can be sent to other processes, or forked with."""

    num_frames: int
    fps: float  # frames a second, 0 if unknown

    def frames(self, numbers: Sequence[int]) -> np.ndarray:
        """Frames (T, H, W, 3) uint8 RGB by their numbers from 0, in any order and more than once.

        Raises IndexError for a number that there is none of, and InputError, which names the film, where it cannot be
        read.
        """

    def close(self) -> None:
        """Let go of what is open."""


def check_numbers(what: object, numbers: Sequence[int], num_frames: int) -> list[int]:
    """Numbers of frames as a list. Raises IndexError where there is no such frame."""
    wanted = [int(number) for number in numbers]
    for number in wanted:
        if not 0 <= number < num_frames:
            raise IndexError(f"{what}: has no frame {number}, its {num_frames} frames count from 0")
    return wanted


def stacked(path: Path, pictures: list[np.ndarray]) -> np.ndarray:
    """Pictures (H, W, 3) as one array. Raises InputError if their sizes differ."""
    if len({picture.shape for picture in pictures}) > 1:
        raise InputError(f"{path}: has pictures of several sizes; make a small film of it, see backbones.prepare films")
    return np.stack(pictures)
