"""Where clips, segments and test views lie: numbers of frames alone, no files.

A clip is T frames, every `step`-th of a film of n, so it spans (T - 1) step + 1 of them. Where the film ends before it
does, the last frame is repeated.
"""

import math

import numpy as np


def clip_span(frames: int, step: int) -> int:
    """How many frames of the film a clip reaches over."""
    return (frames - 1) * step + 1


def clip_numbers(start: int, frames: int, step: int, num_frames: int) -> np.ndarray:
    """The numbers (T,) int64 of a clip's frames in a film of `num_frames`; its last one stands for those after it."""
    return np.minimum(start + step * np.arange(frames), num_frames - 1)


def random_start(first: int, end: int, span: int, rng: np.random.Generator) -> int:
    """The first frame of a clip that lies at random within frames [first, end): each place is as likely; `first` where
    the clip is longer than they are."""
    return int(rng.integers(first, max(first, end - span) + 1))


def random_pair(first: int, end: int, span: int, apart: int, rng: np.random.Generator) -> list[int]:
    """Where two clips of `span` frames start, in random order, `apart` frames or more from one another; in a film too
    short for that, as far as can be. Otherwise anywhere from frame `first` to before `end`, as `random_start`."""
    room = max(0, end - first - span)
    apart = min(apart, room)
    one, other = rng.integers(0, room - apart, size=2, endpoint=True).tolist()
    pair = [first + min(one, other), first + max(one, other) + apart]
    return pair if one <= other else pair[::-1]


def segments(num_frames: int, fps: float, segment_s: float | None) -> list[tuple[int, int]]:
    """Cut a film into pieces of about `segment_s` seconds, [first, end) in frames; None: the film is one piece.

    A rest of half a piece or more is a piece; a shorter one belongs to the piece before. A film whose rate is not known
    (0) is one piece.
    """
    if segment_s is None or not fps > 0:
        return [(0, num_frames)]
    length = max(1, round(fps * segment_s))
    starts = [length * k for k in range(max(1, math.floor(num_frames / length + 0.5)))]
    return list(zip(starts, [*starts[1:], num_frames], strict=True))


def view_starts(num_frames: int, span: int, num_clips: int) -> np.ndarray:
    """First frames (c,) int64 of the test clips of a film: from its start to its end, evenly; a single one in its
    middle; 0 for all where the film is shorter than a clip."""
    room = max(0, num_frames - span)
    if num_clips == 1:
        return np.array([room // 2])
    return np.arange(num_clips) * room // (num_clips - 1)
