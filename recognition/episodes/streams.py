"""Draw streams: pieces of films one after the other, some of which come again. Index arithmetic only, no files.

Films are cut into pieces with a gap between them, which come in random order, each once. In between, a part of a piece
that has been shown is repeated, about so long after as one of the lags says. Nothing else comes twice.

Shape letters: V films, T frames of a stream.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

LAG_TOLERANCE = 0.2  # of a lag: by so much a repeat may come earlier or later, so that it lies between two pieces


@dataclass(frozen=True)
class StreamSpec:
    """What streams are drawn like. Times are in seconds.

    Attributes:
        length_s: of a stream; where the films have no more pieces, it ends sooner.
        piece_s, repeat_s: shortest and longest, lengths between them are equally likely. What is left at the end of a
            film is a piece too if it is not too short for one.
        lags_s: from a frame to its repeat, about.
        repeats_share: of the stream's time; less where nothing lies as far back.
        changes: what is made of a repeat; a name that stands here twice comes twice as often.
        delay_s: no lag is shorter than this.
        gap_s: between pieces of one film, so that what is new is not all but the same as what was shown.
    """

    length_s: float = 3600.0
    piece_s: tuple[float, float] = (5.0, 20.0)
    repeat_s: tuple[float, float] = (3.0, 6.0)
    lags_s: tuple[float, ...] = (30.0, 120.0, 600.0)
    repeats_share: float = 0.05
    changes: tuple[str, ...] = ("same",)
    delay_s: float = 10.0
    gap_s: float = 1.0

    def __post_init__(self) -> None:
        for name in ("piece_s", "repeat_s"):
            shortest, longest = getattr(self, name)
            if not 0 < shortest <= longest < math.inf:
                raise ValueError(f"{name}: must be a shortest and a longest above 0, found {shortest:g}, {longest:g}")
        if not 0 < self.length_s < math.inf:
            raise ValueError(f"length_s: must be above 0, found {self.length_s:g}")
        if not 0 <= self.repeats_share < 1:
            raise ValueError(f"repeats_share: must be at least 0 and below 1, found {self.repeats_share:g}")
        if not (self.delay_s >= 0 and self.gap_s >= 0):
            raise ValueError("delay_s, gap_s: must be at least 0")
        if not (self.lags_s and self.changes):
            raise ValueError("lags_s, changes: must not be empty")
        shortest = min(self.lags_s) * (1 - LAG_TOLERANCE)
        if not self.delay_s < shortest:
            raise ValueError(
                f"lags_s: {min(self.lags_s):g} s may become {shortest:g} s, not more than delay_s {self.delay_s:g}"
            )


class Stretch(NamedTuple):
    """Frames of one film that follow each other in a stream."""

    video: int
    start: int  # first frame of the film; of it and those after it, below `end`, one in `subsample` is shown
    end: int
    first: int  # place of its first frame in the stream
    num_frames: int  # that are shown
    first_s: float  # time of its first frame in the stream
    original: int = -1  # of a repeat: the place in the stream of the frame that its first one repeats; else -1
    lag_s: float = math.nan  # of a repeat: from that frame to this
    change: str = ""  # of a repeat: one of the spec's `changes`

    @property
    def is_repeat(self) -> bool:
        return self.original >= 0


@dataclass(frozen=True, eq=False)
class StreamDrawing:
    """A stream, as indices into a list of films.

    Attributes:
        stretches: pieces and repeats in their order.
        video, frame: (T,) int32, of each frame of the stream.
        time_s: (T,) float64, of each frame, from 0.
        first_seen: (T,) int32, the place where the same frame was shown first; -1 if it is new.
    """

    stretches: list[Stretch]
    video: np.ndarray
    frame: np.ndarray
    time_s: np.ndarray
    first_seen: np.ndarray

    def __len__(self) -> int:
        return len(self.video)

    @property
    def repeats(self) -> list[Stretch]:
        return [stretch for stretch in self.stretches if stretch.is_repeat]


def draw_stream(
    num_frames: np.ndarray, fps: np.ndarray | float, subsample: int, spec: StreamSpec, rng: np.random.Generator
) -> StreamDrawing:
    """Draw a stream from films with `num_frames` (V,) frames each, `fps` a second, (V,) or one for all, of which one in
    `subsample` is shown.

    Raises ValueError if a film's rate is not known, or none is as long as the shortest piece.
    """
    num_frames = np.asarray(num_frames, np.int64)
    rates = np.broadcast_to(np.asarray(fps, float) / subsample, num_frames.shape)
    if not (np.isfinite(rates).all() and (rates > 0).all()):
        raise ValueError("how many frames a second a film has must be known")
    pieces = [
        (video, start, num)
        for video, (length, rate) in enumerate(zip(num_frames, rates, strict=True))
        for start, num in _pieces(int(length), float(rate), subsample, spec, rng)
    ]
    if not pieces:
        raise ValueError(f"no film is as long as the shortest piece, {spec.piece_s[0]:g} s")
    growing = _Growing(rates, subsample, spec, rng)
    for number in rng.permutation(len(pieces)):
        growing.add_piece(*pieces[number])
        while growing.owes_repeat and growing.add_repeat():
            pass
        if growing.is_full:
            break
    return _drawing(growing.stretches, rates, subsample)


def _pieces(
    length: int, rate: float, subsample: int, spec: StreamSpec, rng: np.random.Generator
) -> Iterator[tuple[int, int]]:
    """Cut a film of `length` frames: the first frame of each piece, and how many of it are shown."""
    shortest = max(1, math.ceil(spec.piece_s[0] * rate))
    num_starts = length - (shortest - 1) * subsample
    start = int(rng.integers(0, min(shortest * subsample, num_starts))) if num_starts > 0 else length
    while (num_left := -(-(length - start) // subsample)) >= shortest:
        num = min(max(shortest, round(rng.uniform(*spec.piece_s) * rate)), num_left)
        yield start, num
        start += (num + math.ceil(spec.gap_s * rate)) * subsample


@dataclass
class _Growing:
    """A stream as it is drawn."""

    rates: np.ndarray  # (V,), of frames shown
    subsample: int
    spec: StreamSpec
    rng: np.random.Generator
    stretches: list[Stretch] = field(default_factory=list)
    num_frames: int = 0
    time_s: float = 0.0
    repeated_s: float = 0.0

    def __post_init__(self) -> None:
        self.kinds = [(lag_s, change) for lag_s in self.spec.lags_s for change in self.spec.changes]
        self.counts = np.zeros(len(self.kinds), np.int64)  # of repeats of each kind
        self.taken: list[tuple[int, int]] = []  # from place to place of what has been repeated

    @property
    def is_full(self) -> bool:
        return self.time_s >= self.spec.length_s - 1e-9

    @property
    def owes_repeat(self) -> bool:
        return self.repeated_s < self.spec.repeats_share * self.time_s and not self.is_full

    def add_piece(self, video: int, start: int, num: int) -> None:
        """Add a piece, or what of it there is room for."""
        num_free = math.ceil((self.spec.length_s - self.time_s) * self.rates[video] - 1e-9)
        self._add(video, start, min(num, num_free))

    def add_repeat(self) -> bool:
        """Repeat something, of the kind of which there have been the fewest; whether there was something."""
        part_s = self.rng.uniform(*self.spec.repeat_s)
        if self.time_s + part_s > self.spec.length_s:
            return False
        ties = self.rng.permutation(len(self.kinds))
        for kind in ties[np.argsort(self.counts[ties], kind="stable")]:
            lag_s, change = self.kinds[kind]
            if (found := self._original(part_s, lag_s)) is None:
                continue
            piece, skipped, num = found
            place = piece.first + skipped
            then_s = piece.first_s + skipped / self.rates[piece.video]
            start = piece.start + skipped * self.subsample
            self.counts[kind] += 1
            self.repeated_s += num / self.rates[piece.video]
            self.taken.append((place, place + num))
            self._add(piece.video, start, num, place, self.time_s - then_s, change)
            return True
        return False

    def _original(self, part_s: float, lag_s: float) -> tuple[Stretch, int, int] | None:
        """What was shown nearest to `lag_s` ago and has not been repeated: a piece, how many of its frames to pass
        over, and how many to repeat."""
        best, least = None, LAG_TOLERANCE * lag_s
        then_s = self.time_s - lag_s
        for piece in self.stretches:
            rate = self.rates[piece.video]
            num = max(1, round(part_s * rate))
            if piece.is_repeat or num > piece.num_frames:
                continue
            skipped = min(max(round((then_s - piece.first_s) * rate), 0), piece.num_frames - num)
            error = abs(piece.first_s + skipped / rate - then_s)
            place = piece.first + skipped
            is_taken = any(first < place + num and place < stop for first, stop in self.taken)
            if error <= least and not is_taken:
                best, least = (piece, skipped, num), error
        return best

    def _add(
        self, video: int, start: int, num: int, original: int = -1, lag_s: float = math.nan, change: str = ""
    ) -> None:
        end = start + (num - 1) * self.subsample + 1
        self.stretches.append(Stretch(video, start, end, self.num_frames, num, self.time_s, original, lag_s, change))
        self.num_frames += num
        self.time_s += num / float(self.rates[video])


def _drawing(stretches: list[Stretch], rates: np.ndarray, subsample: int) -> StreamDrawing:
    """The frames of stretches that follow each other."""
    shown = [np.arange(stretch.num_frames) for stretch in stretches]

    def joined(parts: Sequence[np.ndarray], dtype: type) -> np.ndarray:
        return np.concatenate(parts).astype(dtype)

    both = list(zip(stretches, shown, strict=True))
    return StreamDrawing(
        stretches,
        joined([np.full(stretch.num_frames, stretch.video) for stretch in stretches], np.int32),
        joined([stretch.start + k * subsample for stretch, k in both], np.int32),
        joined([stretch.first_s + k / rates[stretch.video] for stretch, k in both], np.float64),
        joined([stretch.original + k if stretch.is_repeat else np.full(len(k), -1) for stretch, k in both], np.int32),
    )
