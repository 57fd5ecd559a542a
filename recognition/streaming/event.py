"""One event of a stream: what it is made of, and what kind it is by the times at which its frames were seen."""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

MOST_KEPT = 4096  # frames of an event whose times are kept; of a longer one every other, then every fourth
NEAR_S = 1.0  # what agrees with what, both for times and for how long ago they are
EPSILON_S = 1e-6  # what differs by less is equal
KINDS = ("replay", "return", "resemblance")


@dataclass(frozen=True)
class Event:
    """Something that was there again. The fields are the columns of events.csv.

    Attributes:
        kind: "replay" if half or more of its frames were seen equally long ago, "return" if half or more were seen at
            one time while the stream went on, else "resemblance".
        seen_start_s, seen_end_s: the times at which those frames that agree were seen; None for a resemblance.
        offset_s: how long ago that was, the median of those frames.
        peak, mean: largest and mean logit.
        num_frames: answers that kept the event open.
    """

    start_s: float
    end_s: float
    kind: str
    seen_start_s: float | None
    seen_end_s: float | None
    offset_s: float | None
    peak: float
    mean: float
    num_frames: int
    source: str = ""


@dataclass
class Running:
    """An event whose end is not known yet, in memory that does not grow beyond MOST_KEPT frames."""

    start_s: float
    end_s: float
    num_frames: int = 0
    sum_logit: float = 0.0
    peak: float = -math.inf
    every: int = 1
    num_kept: int = 0
    times_s: list[float] = field(default_factory=list)  # of every n-th frame, if it is known when it was seen
    seen_s: list[float] = field(default_factory=list)

    def add(self, time_s: float, logit: float, seen_s: float | None) -> None:
        self.end_s = time_s
        if self.num_frames % self.every == 0:
            self.num_kept += 1
            if seen_s is not None:
                self.times_s.append(time_s)
                self.seen_s.append(seen_s)
        self.num_frames += 1
        self.sum_logit += logit
        self.peak = max(self.peak, logit)
        if self.num_kept >= MOST_KEPT:
            self.every *= 2
            self.num_kept = (self.num_kept + 1) // 2
            self.times_s, self.seen_s = self.times_s[::2], self.seen_s[::2]

    def numbers(self) -> list[float]:
        """All that is known. Raises ValueError where it contradicts itself."""
        if not (len(self.times_s) == len(self.seen_s) <= self.num_kept <= self.num_frames and self.every >= 1):
            raise ValueError("it contradicts itself")
        times = [self.start_s, self.end_s, self.sum_logit, self.peak, *self.times_s, *self.seen_s]
        return [*times, self.num_frames, self.every, self.num_kept]

    def ended(self, source: str) -> Event:
        kind, chosen = _kind(self.times_s, self.seen_s, self.num_kept, self.end_s - self.start_s)
        seen = [self.seen_s[number] for number in chosen]
        offsets = sorted(self.times_s[number] - self.seen_s[number] for number in chosen)
        return Event(
            self.start_s,
            self.end_s,
            kind,
            min(seen, default=None),
            max(seen, default=None),
            offsets[len(offsets) // 2] if offsets else None,
            self.peak,
            self.sum_logit / self.num_frames,
            self.num_frames,
            source,
        )


def _kind(times_s: Sequence[float], seen_s: Sequence[float], num_frames: int, length_s: float) -> tuple[str, list[int]]:
    """The kind of an event, and which of its frames bear it out.

    In an event of a second or two both the offsets and the times may lie close together: then the kind is that with
    which more frames agree. Once it is no replay, a place that was in view as long as it is now may have been seen at
    any moment of that stay.
    """
    offsets = [time_s - seen for time_s, seen in zip(times_s, seen_s, strict=True)]
    together = most_within(offsets, NEAR_S)
    if 2 * len(together) >= num_frames and len(together) >= len(most_within(seen_s, NEAR_S)):
        return KINDS[0], together
    together = most_within(seen_s, max(NEAR_S, length_s))
    if 2 * len(together) >= num_frames:
        return KINDS[1], together
    return KINDS[2], []


def most_within(values: Sequence[float], width: float) -> list[int]:
    """The places of the most values that lie no further apart than `width`, the lowest such values of several."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranked = [values[place] for place in order]
    best: list[int] = []
    for first, value in enumerate(ranked):
        end = bisect.bisect_right(ranked, value + width + EPSILON_S)
        if end - first > len(best):
            best = order[first:end]
    return best
