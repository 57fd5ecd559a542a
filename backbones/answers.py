"""What a network answered to the test films, kept as a file of plain arrays.

Shapes: N films, C classes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recognition.common.command_line import InputError, first_line
from recognition.common.files import is_there, read_whole, written_whole

KINDS = {"probabilities": "f", "labels": "i", "videos": "U", "sources": "U", "classes": "U", "view_right": "f"}


@dataclass(frozen=True)
class Answers:
    """A row for each film."""

    probabilities: np.ndarray  # (N, C) float32, the mean over a film's views
    labels: np.ndarray  # (N,) int64, numbers of the right classes
    videos: np.ndarray  # (N,) text, names of the films
    sources: np.ndarray  # (N,) text, what they were cut from
    classes: np.ndarray  # (C,) text
    view_right: np.ndarray  # (N, 2) float32, shares of a film's views that are right by themselves: top-1 and top-5

    def __post_init__(self) -> None:
        num, num_classes = len(self.labels), len(self.classes)
        shapes = {
            "probabilities": (num, num_classes),
            "labels": (num,),
            "videos": (num,),
            "sources": (num,),
            "classes": (num_classes,),
            "view_right": (num, 2),
        }
        for name, shape in shapes.items():
            found = getattr(self, name)
            if found.shape != shape or found.dtype.kind != KINDS[name]:
                raise ValueError(f"{name}: must be {shape} of kind {KINDS[name]}, is {found.shape} of {found.dtype}")
        if not num:
            raise ValueError("there are no films")
        if not (np.isfinite(self.probabilities).all() and np.isfinite(self.view_right).all()):
            raise ValueError("there are numbers that are not finite")
        if not ((self.labels >= 0) & (self.labels < num_classes)).all():
            raise ValueError("there are labels of no class")

    @property
    def answer(self) -> np.ndarray:
        """The most probable class of each film, (N,); the first of equals."""
        return self.probabilities.argmax(1)

    def save(self, path: Path) -> None:
        """Keep them as an npz file of these arrays."""
        with written_whole(path) as part, open(part, "wb") as file:
            np.savez_compressed(file, **vars(self))

    @classmethod
    def load(cls, path: Path) -> "Answers":
        """What `save` kept. Raises InputError for a file that is missing or damaged."""
        if not is_there(path):
            raise InputError(f"{path}: no such file; score the run first")
        content = read_whole(path)
        try:
            with np.load(content, allow_pickle=False) as file:
                return cls(**{name: file[name] for name in KINDS})
        except MemoryError:
            raise
        except Exception as error:  # zipfile, zlib and numpy raise many kinds for a damaged file
            raise InputError(f"{path}: cannot be read ({first_line(error)}); score the run anew") from None


def is_right(probabilities: np.ndarray, labels: np.ndarray, num: int = 1) -> np.ndarray:
    """Whether the right class is among the `num` most probable: probabilities (N, C), labels (N,) to (N,) bool.

    Of equally probable classes the first counts as the more probable. With no more than `num` classes all are right.
    """
    of_label = np.take_along_axis(probabilities, labels[:, None], 1)  # (N, 1)
    is_before = np.arange(probabilities.shape[1]) < labels[:, None]
    return ((probabilities > of_label) | ((probabilities == of_label) & is_before)).sum(1) < num
