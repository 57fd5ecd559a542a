"""Changes to clips that take away what time tells: what a network still knows of them, it knows by looks.

Shapes: T frames, C channels, H x W pixels.
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from torch import Tensor

Clip = TypeVar("Clip", Tensor, np.ndarray)


def _repeated(num_frames: int, film: int) -> list[int]:
    return [num_frames // 2] * num_frames


def _shuffled(num_frames: int, film: int) -> list[int]:
    return np.random.default_rng((0, film)).permutation(num_frames).tolist()


def _reversed(num_frames: int, film: int) -> list[int]:
    return list(range(num_frames))[::-1]


_ORDERS: dict[str, Callable[[int, int], list[int]]] = {
    "repeated": _repeated,
    "shuffled": _shuffled,
    "reversed": _reversed,
}
CONTROLS = tuple(_ORDERS)


def changed(clip: Clip, control: str, film: int) -> Clip:
    """A clip (..., T, C, H, W) with its frames as one of CONTROLS has them.

    repeated: the middle one T times, that after the middle of an even number.
    shuffled: in an order drawn for the film of this number, the same for all of its clips.
    reversed: from the last to the first.
    """
    return clip[..., _ORDERS[control](clip.shape[-4], film), :, :, :]
