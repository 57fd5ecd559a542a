"""What an episode consists of: numbers and lengths, kinds of clips and of probes, and whether films can hold it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from recognition.common.command_line import LARGEST_NUMBER
from recognition.films import alterations

ALTERATIONS = tuple(alterations.ALTERATIONS)
PROBE_KINDS = ("old", "far", "near", "same_shot", "other_film", *ALTERATIONS)
OUTSIDE = PROBE_KINDS[1:4]  # of a studied film, outside its clips
CLIP_KINDS = ("no_cut", "cut", "other_film")


class TooFewFrames(ValueError):
    """The films cannot hold such an episode. The message says how much is missing."""


@dataclass(frozen=True)
class EpisodeSpec:
    """What an episode consists of. Lengths in frames of the films, before subsampling.

    Raises ValueError, naming the field, for numbers out of range and for kinds that do not exist or do not fit them.
    """

    num_clips: int = 90
    clip_length: int = 300
    clip_margin: int = 150
    num_tests: int = 90
    subsample: int = 3
    old_probes: Literal["any", "presented"] = "any"
    new_probes: str = "far"  # kinds and their shares, as "far=0.5,near=0.5"
    probe_lags: Literal["uniform", "balanced"] = "uniform"  # balanced: old probes of all lags, in equal ratios of time
    alter_every: int = 0  # the bank has every so many-th frame altered, 0 for none
    study_clips: str = "any"  # or kinds and their shares, as "no_cut=1,cut=1,other_film=1"

    def __post_init__(self) -> None:
        for field in ("num_clips", "clip_length", "num_tests", "subsample", "clip_margin", "alter_every"):
            least, value = int(field not in ("clip_margin", "alter_every")), getattr(self, field)
            if not least <= value <= LARGEST_NUMBER:
                raise ValueError(f"{field}: must be from {least} to {LARGEST_NUMBER}, found {value}")
        for field, words in (("old_probes", ("any", "presented")), ("probe_lags", ("uniform", "balanced"))):
            if getattr(self, field) not in words:
                raise ValueError(f"{field}: must be {' or '.join(words)}, found {getattr(self, field)!r}")
        for field, counts in (("new_probes", self.lures), ("study_clips", self.clip_counts)):
            if none := [kind for kind, count in counts.items() if count == 0]:
                raise ValueError(f"{field}: of {sum(counts.values())} in all, its share leaves none for {none[0]}")
        if self.clip_counts and self.clip_length % (2 * self.subsample):
            raise ValueError(
                f"study_clips: a clip of two halves, of which every {self.subsample}th frame is shown, must have a "
                f"multiple of {2 * self.subsample} frames, found {self.clip_length}"
            )

    @property
    def lures(self) -> dict[str, int]:
        """How many new probes of each kind an episode has: num_tests in all."""
        return _divide(self.num_tests, parse_shares(self.new_probes, "new_probes", PROBE_KINDS[1:]))

    @property
    def clip_counts(self) -> dict[str, int]:
        """How many clips of each kind an episode has, num_clips in all; empty for clips of any kind."""
        if self.study_clips == "any":
            return {}
        return _divide(self.num_clips, parse_shares(self.study_clips, "study_clips", CLIP_KINDS))

    @property
    def rows_per_clip(self) -> int:
        """Rows of `study` that are one clip: of clips by kind, its two halves."""
        return 2 if self.clip_counts else 1

    @property
    def row_length(self) -> int:
        """Frames of each of them."""
        return self.clip_length // self.rows_per_clip

    @property
    def needs_shots(self) -> bool:
        """Whether it must be known where the films' shots begin."""
        return bool(self.clip_counts) or "same_shot" in self.lures

    @property
    def shortest_film(self) -> int:
        """Frames a film needs for one clip and one new probe."""
        return self.clip_length + self.clip_margin + 1

    @property
    def frames_per_clip(self) -> int:
        """Frames of a clip that are shown."""
        return len(range(0, self.clip_length, self.subsample))


def parse_shares(text: str, field: str, kinds: Sequence[str]) -> dict[str, float]:
    """Kinds and their shares, from "far", "near,other_film" or "far=3,near=1".

    Raises ValueError, naming the field and saying what is wrong, for anything else.
    """
    shares: dict[str, float] = {}
    for word in text.split(","):
        kind, _, share = (part.strip() for part in word.partition("="))
        if kind not in kinds:
            raise ValueError(f"{field}: {kind!r} is no kind; there are {', '.join(kinds)}")
        if kind in shares:
            raise ValueError(f"{field}: {kind} is given twice")
        try:
            shares[kind] = float(share or 1)
        except ValueError:
            raise ValueError(f"{field}: the share of {kind} must be a number, found {share!r}") from None
        if not 0 < shares[kind] <= LARGEST_NUMBER:
            raise ValueError(f"{field}: the share of {kind} must be above 0, at most {LARGEST_NUMBER}, found {share}")
    return shares


def check_room(num_frames: np.ndarray, spec: EpisodeSpec) -> None:
    """Raise TooFewFrames if films of these lengths (V,) can never hold an episode, saying what is missing."""
    if len(num_frames) == 0:
        raise TooFewFrames("there is no film")
    if (missing := spec.shortest_film - num_frames.max()) > 0:
        raise TooFewFrames(
            f"a clip of {spec.clip_length} frames and a new probe {spec.clip_margin} frames away need a film of "
            f"{spec.shortest_film} frames: the longest is {missing} frames too short"
        )
    room = num_frames // spec.row_length
    if (missing := spec.num_clips * spec.rows_per_clip - room.sum()) > 0:
        raise TooFewFrames(
            f"the films ({len(num_frames)}) hold {room.sum() // spec.rows_per_clip} clips of {spec.clip_length} "
            f"frames, {spec.num_clips} are needed: {missing * spec.row_length} frames are missing, or "
            f"{-(-missing // room.max())} films as long as the longest"
        )
    shown = spec.num_clips * (spec.frames_per_clip if spec.old_probes == "presented" else spec.clip_length)
    if (missing := spec.num_tests - shown) > 0:
        raise TooFewFrames(
            f"{spec.num_clips} clips have {shown} frames to be old probes and {spec.num_tests} are needed: "
            f"{missing} frames are missing"
        )
    if "near" in spec.lures and spec.clip_margin == 0:
        raise TooFewFrames("near probes lie within the margin of a clip, and the margin is 0")
    if set(ALTERATIONS) & set(spec.lures) and not 0 < spec.alter_every <= spec.row_length:
        raise TooFewFrames(
            f"of {spec.row_length} frames in a row one must be altered, and one in {spec.alter_every} is (0: none)"
        )


def _divide(total: int, shares: dict[str, float]) -> dict[str, int]:
    """Whole numbers nearest to the shares of a total, by the largest remainders."""
    exact = {kind: share / sum(shares.values()) * total for kind, share in shares.items()}
    counts = {kind: int(number) for kind, number in exact.items()}
    by_remainder = sorted(counts, key=lambda kind: counts[kind] - exact[kind])
    for kind in by_remainder[: total - sum(counts.values())]:
        counts[kind] += 1
    return counts
