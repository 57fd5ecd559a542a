"""Draw episodes: which clips are studied, which frames are probed. Index arithmetic only, no files.

An episode is `num_clips` clips, shown one after the other, then `2 * num_tests` probes in random order: `num_tests`
old (inside a studied clip) and as many new (elsewhere in the studied films, at least `clip_margin` frames from any
studied clip). Films are drawn with equal probability, clips uniformly among the free places of their film, probes
uniformly among the frames of their film; both kinds of probe draw their films in the same way, so that the film alone
tells nothing. No frame is probed twice.

Shape letters: N episodes, C clips, P probes, V videos.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

BLOCK = 1024  # episodes drawn together; changing it changes the episodes of a seed
NUM_THREADS = 2  # more of them wait for Python's lock
EPISODE_ROUNDS, DRAW_ROUNDS = 20, 200  # attempts where the films barely have room
_NOWHERE = 1 << 40


class TooFewFrames(ValueError):
    """The films cannot hold such an episode. The message says how much is missing."""


@dataclass(frozen=True)
class EpisodeSpec:
    """What an episode consists of. Lengths in frames of the films, before subsampling."""

    num_clips: int = 90
    clip_length: int = 300
    clip_margin: int = 150
    num_tests: int = 90
    subsample: int = 3
    old_probes: Literal["any", "presented"] = "any"

    @property
    def shortest_film(self) -> int:
        """Frames a film needs for one clip and one new probe."""
        return self.clip_length + self.clip_margin + 1

    @property
    def frames_per_clip(self) -> int:
        """Frames of a clip that are shown."""
        return len(range(0, self.clip_length, self.subsample))


class Episodes(NamedTuple):
    """N episodes as indices into a list of films."""

    study: np.ndarray  # (N, C, 3) int32 [video, start, end), in order of presentation
    probes: np.ndarray  # (N, P, 2) int32 [video, frame], in order of presentation
    is_old: np.ndarray  # (N, P) uint8


def draw_episodes(num_frames: np.ndarray, spec: EpisodeSpec, num_episodes: int, seed: tuple[int, ...]) -> Episodes:
    """Draw `num_episodes` episodes from films with `num_frames` (V,) frames each.

    Equal arguments give equal episodes, and a longer draw begins with the shorter one. Reads no global random state.

    Raises:
        TooFewFrames: the films are too few or too short for `spec`.
    """
    num_frames = np.asarray(num_frames, np.int64)
    check_room(num_frames, spec)
    with ThreadPoolExecutor(NUM_THREADS) as pool:  # numpy computes beside other threads
        blocks = list(
            pool.map(
                lambda block: _draw_block(num_frames, spec, np.random.default_rng((*seed, block))),
                range(-(-num_episodes // BLOCK)),
            )
        )
    return Episodes(*(np.concatenate(field)[:num_episodes] for field in zip(*blocks, strict=True)))


def check_room(num_frames: np.ndarray, spec: EpisodeSpec) -> None:
    """Raise TooFewFrames if films of these lengths (V,) can never hold an episode, saying what is missing."""
    if len(num_frames) == 0:
        raise TooFewFrames("there is no film")
    if (missing := spec.shortest_film - num_frames.max()) > 0:
        raise TooFewFrames(
            f"a clip of {spec.clip_length} frames and a new probe {spec.clip_margin} frames away need a film of "
            f"{spec.shortest_film} frames: the longest is {missing} frames too short"
        )
    room = num_frames // spec.clip_length
    if (missing := spec.num_clips - room.sum()) > 0:
        raise TooFewFrames(
            f"the films ({len(num_frames)}) hold {room.sum()} clips of {spec.clip_length} frames, {spec.num_clips} are "
            f"needed: {missing * spec.clip_length} frames are missing, or {-(-missing // room.max())} films as long as "
            f"the longest"
        )
    shown = spec.num_clips * (spec.frames_per_clip if spec.old_probes == "presented" else spec.clip_length)
    if (missing := spec.num_tests - shown) > 0:
        raise TooFewFrames(
            f"{spec.num_clips} clips have {shown} frames to be old probes and {spec.num_tests} are needed: "
            f"{missing} frames are missing"
        )


def study_frames(study: np.ndarray, subsample: int) -> np.ndarray:
    """The frames that are shown, in order: study (..., C, 3) to (..., C * frames per clip, 2) [video, frame].

    All clips must have one length.
    """
    length = int(study[..., 0, 2].flat[0] - study[..., 0, 1].flat[0])
    frame = study[..., 1, None] + np.arange(0, length, subsample)  # (..., C, F)
    video = np.broadcast_to(study[..., 0, None], frame.shape)
    shown = np.stack([video, frame], -1)  # (..., C, F, 2)
    return shown.reshape(*study.shape[:-2], -1, 2)


def was_shown(study: np.ndarray, probes: np.ndarray, subsample: int) -> np.ndarray:
    """Whether each probe was itself among the study frames: study (N, C, 3), probes (N, P, 2) to (N, P) bool."""
    video, start, end = np.moveaxis(study[:, None], -1, 0)  # (N, 1, C)
    probe_video, frame = probes[..., 0, None], probes[..., 1, None]  # (N, P, 1)
    inside = (video == probe_video) & (start <= frame) & (frame < end)
    return (inside & ((frame - start) % subsample == 0)).any(-1)


def _draw_block(num_frames: np.ndarray, spec: EpisodeSpec, rng: np.random.Generator) -> Episodes:
    """Draw BLOCK episodes, drawing those anew that came out without room for all their clips and probes."""
    parts, wanted = [], BLOCK
    for _ in range(EPISODE_ROUNDS):
        video, start, has_clips = _draw_clips(num_frames, spec, wanted, rng)
        order = np.lexsort((start, video))
        clips = _SortedClips(num_frames, *(np.take_along_axis(x, order, 1) for x in (video, start)), spec)
        old, has_old = _draw_probes(clips, spec, True, rng)
        new, has_new = _draw_probes(clips, spec, False, rng)
        shuffle = rng.permuted(np.tile(np.arange(2 * spec.num_tests), (wanted, 1)), axis=1)
        probes = np.take_along_axis(np.concatenate([old, new], 1), shuffle[..., None], 1)
        study = np.stack([video, start, start + spec.clip_length], -1)
        is_whole = has_clips & has_old & has_new
        fields = study.astype(np.int32), probes.astype(np.int32), (shuffle < spec.num_tests).astype(np.uint8)
        parts.append([field[is_whole] for field in fields])
        wanted -= int(is_whole.sum())
        if wanted == 0:
            return Episodes(*map(np.concatenate, zip(*parts, strict=True)))
    needed = spec.num_clips * (spec.clip_length + 2 * spec.clip_margin) + spec.num_tests
    raise TooFewFrames(
        f"the films ({len(num_frames)}, {num_frames.sum()} frames in all) have no room for {spec.num_clips} clips of "
        f"{spec.clip_length} frames and {spec.num_tests} new probes {spec.clip_margin} frames away from them: about "
        f"{max(needed - num_frames.sum(), spec.clip_length)} frames are missing"
    )


def _draw_clips(num_frames: np.ndarray, spec: EpisodeSpec, num: int, rng: np.random.Generator):
    """Draw film and first frame of every clip, (num, C) each, and whether all found a place, (num,) bool."""
    length = spec.clip_length
    video = np.full((num, spec.num_clips), -1)
    start = np.zeros((num, spec.num_clips), np.int64)
    has_place = np.ones(num, bool)
    for clip in range(spec.num_clips):
        row = np.arange(num)
        for _ in range(DRAW_ROUNDS):
            film = rng.integers(0, len(num_frames), len(row))
            # A clip that starts less than one length before or after an earlier one would overlap it.
            is_same = video[row, :clip] == film[:, None]
            shared = np.flatnonzero(is_same.any(1))
            lows = np.where(is_same[shared], start[row[shared], :clip] - length + 1, _NOWHERE)
            lows = np.sort(lows, 1)[:, : is_same[shared].sum(1).max(initial=0)]
            free = np.maximum(num_frames[film] - length + 1, 0)
            begins, covered = _merge(lows, 2 * length - 1, free[shared])
            free[shared] -= covered.sum(1)
            place = rng.integers(0, np.maximum(free, 1))
            place[shared] = _step_over(place[shared], begins, covered)
            found = free > 0
            video[row[found], clip], start[row[found], clip] = film[found], place[found]
            row = row[~found]  # the film is full: draw another
            if len(row) == 0:
                break
        has_place[row] = False
    return video, start, has_place


class _SortedClips:
    """The clips of `num` episodes, sorted within each by film and place, and what lies between them.

    A film is named by the column of its first clip.
    """

    def __init__(self, num_frames: np.ndarray, video: np.ndarray, start: np.ndarray, spec: EpisodeSpec):
        self.video, self.start, self.spec = video, start, spec
        row, column = np.nonzero(np.diff(video, axis=1, prepend=-2))
        self.count = np.zeros(video.shape, np.int64)  # (num, C) clips of a film
        self.count[row, column] = np.diff(row * video.shape[1] + column, append=video.size)
        later = column[:, None] + np.arange(self.count.max())
        is_same = later < (column + self.count[row, column])[:, None]
        starts = start[row[:, None], np.minimum(later, start.shape[1] - 1)]
        lows = np.where(is_same, starts - spec.clip_margin, _NOWHERE)
        limit = num_frames[video[row, column]]
        # F films of all episodes: where frames near clips begin and how many they are (F, K), how many are far (F,).
        self._begins, self._covered = _merge(lows, spec.clip_length + 2 * spec.clip_margin, limit)
        self._far = limit - self._covered.sum(1)
        self._film = np.zeros(video.shape, np.int64)  # (num, C), counted as these
        self._film[row, column] = np.arange(len(row))
        num_far = np.zeros(video.shape, np.int64)
        num_far[row, column] = self._far
        # Only films with frames of both kinds are probed; one column stands for each of them.
        is_choice = num_far > 0
        self.num_choices = is_choice.sum(1)
        self.choices = np.argsort(~is_choice, axis=1, kind="stable")
        self.num_far = num_far.sum(1)
        self.num_old = np.where(is_choice, self.count, 0).sum(1) * len(self.old_offsets)

    @property
    def old_offsets(self) -> np.ndarray:
        """Places within a clip where an old probe may lie."""
        return np.arange(0, self.spec.clip_length, self.spec.subsample if self.spec.old_probes == "presented" else 1)

    def draw_far(self, row: np.ndarray, column: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One of the frames of each film that are far from all its clips."""
        film = self._film[row, column]
        place = rng.integers(0, np.maximum(self._far[film], 1))
        return _step_over(place, self._begins[film], self._covered[film])


def _draw_probes(clips: _SortedClips, spec: EpisodeSpec, old: bool, rng: np.random.Generator):
    """Draw distinct old or new probes, (num, num_tests, 2) [video, frame], and whether all were found, (num,) bool."""
    num = len(clips.video)
    probes = np.full((num, spec.num_tests, 2), -1, np.int64)
    is_feasible = (clips.num_old if old else clips.num_far) >= spec.num_tests
    row, slot = np.nonzero(np.broadcast_to(is_feasible[:, None], (num, spec.num_tests)))
    for _ in range(DRAW_ROUNDS):
        if len(row) == 0:
            break
        column = clips.choices[row, rng.integers(0, clips.num_choices[row])]
        if old:
            clip = column + rng.integers(0, clips.count[row, column])
            frame = clips.start[row, clip] + rng.choice(clips.old_offsets, len(row))
        else:
            frame = clips.draw_far(row, column, rng)
        probes[row, slot] = np.stack([clips.video[row, column], frame], 1)
        drawn = np.unique(row)
        row, slot = np.nonzero(_is_repeated(probes[drawn]))  # these are drawn again
        row = drawn[row]
    is_feasible[row] = False
    return probes, is_feasible


def _merge(lows: np.ndarray, width: int, limit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The parts of [0, limit) that the intervals [low, low + width) cover, as disjoint ones.

    lows (R, K) ascending, _NOWHERE where there is none; limit (R,). Returns where they begin and how many places they
    cover, (R, K) each.
    """
    highs = np.minimum(lows + width, limit[:, None])
    begins = np.clip(lows, 0, limit[:, None])
    np.maximum(begins[:, 1:], highs[:, :-1], out=begins[:, 1:])
    return begins, np.maximum(highs - begins, 0)


def _step_over(place: np.ndarray, begins: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """The place-th free places (R,) as places among all, given what `_merge` returned."""
    for begin, num_covered in zip(begins.T, covered.T, strict=True):
        place = place + np.where(place >= begin, num_covered, 0)
    return place


def _is_repeated(probes: np.ndarray) -> np.ndarray:
    """Which probes equal an earlier one of their episode: (num, P, 2) to (num, P) bool."""
    key = probes[..., 0] << 32 | probes[..., 1]
    order = np.argsort(key, axis=1, kind="stable")
    ordered = np.take_along_axis(key, order, 1)
    repeated = np.zeros(key.shape, bool)
    np.put_along_axis(repeated, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], 1)
    return repeated
