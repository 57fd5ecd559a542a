"""Draw episodes: which clips are studied, which frames are probed. Index arithmetic only, no files.

An episode is `num_clips` clips, shown one after the other, then `2 * num_tests` probes in random order: `num_tests`
old (inside a studied clip) and as many new ones, lures, of one or several kinds:

    far                              of a studied film, at least `clip_margin` frames from any studied clip
    near                             of a studied film, outside its clips, nearer than that
    same_shot                        of a studied film, outside its clips, in the shot in which one begins or ends
    other_film                       of a film that is not studied in the episode
    mirrored, cropped, brightened    a frame of a studied clip, altered; not one that is probed as it is

Far and near ones exclude each other; same_shot ones may be either. No frame is probed twice.

In training, probes may be asked in the midst of study as well, in groups, each of which is drawn as if no clip came
after it: its new probes may yet be studied, and another group may ask for them again.

Clips lie anywhere in their films, or are of the kinds of Zheng et al. 2022 (doi 10.1038/s41593-022-01020-w):

    no_cut        in one shot
    cut           of one film, with one cut or more inside
    other_film    with a cut to another film in the middle and no other; its halves may come from any place

Films are drawn with equal probability, clips uniformly among the free places of their film. Old probes, altered ones
and those outside the clips of a studied film all draw their film in one way, from the studied films that have frames of
all the kinds asked for, so that the film alone tells nothing: with equal probability or, with balanced lags, as one
in which a clip lies that was drawn with a probability inverse to its distance from the end of study, so that old
probes spread evenly over the logarithm of that distance. Within the film they are uniform among the frames of their
kind. Those of other films draw their film with equal probability.

Shape letters: N episodes, C clips, R rows (a row is a clip or half of one, if drawn by kind), P probes, V videos.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from recognition.episodes.clips import draw_clips
from recognition.episodes.episode_spec import CLIP_KINDS, PROBE_KINDS, EpisodeSpec, TooFewFrames, check_room
from recognition.episodes.places import Shots
from recognition.episodes.probes import draw_probes

BLOCK = 1024  # episodes drawn together; changing it changes the episodes of a seed
NUM_THREADS = 2  # more of them wait for Python's lock
EPISODE_ROUNDS = 20  # attempts where the films barely have room
TIMES = 2**32 - 1  # draws when probes are asked; no block has this number


class Episodes(NamedTuple):
    """N episodes as indices into a list of films."""

    study: np.ndarray  # (N, R, 3) int32 [video, start, end), in order of presentation
    probes: np.ndarray  # (N, P, 2) int32 [video, frame], in order of presentation
    is_old: np.ndarray  # (N, P) uint8
    kind: np.ndarray  # (N, P) uint8, places in PROBE_KINDS; 0 is old


class Group(NamedTuple):
    """Probes of an episode that are asked together, after the first `num_clips` of its clips."""

    num_clips: int
    spec: EpisodeSpec  # that of the episode, with the number and the kinds of these probes


def draw_groups(spec: EpisodeSpec, num_probes: int, at_end: float, seed: tuple[int, ...]) -> list[Group]:
    """Draw when episodes ask their probes, `num_probes` in all and even, half of them old.

    They go in pairs of an old and a new one. A share `at_end` of the pairs is asked after all clips, each other one
    after a number of clips that is uniform among 1 to C - 1. Groups ascend by their clips. Lures of all kinds, in the
    shares of `spec`, are dealt to them at random.

    Raises ValueError if so few probes leave none for a kind of lures.
    """
    rng = np.random.default_rng((*seed, TIMES))
    num_pairs = num_probes // 2
    num_clips = np.full(num_pairs, spec.num_clips)
    if num_between := num_pairs - round(at_end * num_pairs):
        num_clips[:num_between] = rng.integers(1, spec.num_clips, num_between)
    lures = replace(spec, num_tests=num_pairs).lures
    dealt = rng.permutation(np.repeat(np.arange(len(lures)), [*lures.values()]))
    groups = []
    for number in np.unique(num_clips):
        counts = np.bincount(dealt[num_clips == number], minlength=len(lures)).tolist()
        kinds = [f"{kind}={count}" for kind, count in zip(lures, counts, strict=True) if count]
        groups.append(Group(int(number), replace(spec, num_tests=sum(counts), new_probes=",".join(kinds))))
    return groups


def draw_episodes(
    num_frames: np.ndarray,
    spec: EpisodeSpec,
    num_episodes: int,
    seed: tuple[int, ...],
    shots: Sequence[np.ndarray] | None = None,
    groups: Sequence[Group] = (),
) -> Episodes:
    """Draw `num_episodes` episodes from films with `num_frames` (V,) frames each.

    `shots`, where `spec.needs_shots`, gives the first frames of every film's shots, ascending from 0. `groups`, if
    given, says when which probes are asked; else those of `spec` are, after all clips. They come group by group.

    Equal arguments give equal episodes, and a longer draw begins with the shorter one. Reads no global random state.

    Raises:
        TooFewFrames: the films are too few or too short for `spec`.
    """
    num_frames = np.asarray(num_frames, np.int64)
    groups = groups or [Group(spec.num_clips, spec)]
    check_room(num_frames, spec)
    of_films = None
    if spec.needs_shots:
        assert shots is not None
        of_films = Shots(num_frames, shots)
    with ThreadPoolExecutor(NUM_THREADS) as pool:  # numpy computes beside other threads
        blocks = list(
            pool.map(
                lambda block: _draw_block(num_frames, spec, groups, of_films, np.random.default_rng((*seed, block))),
                range(-(-num_episodes // BLOCK)),
            )
        )
    return Episodes(*(np.concatenate(field)[:num_episodes] for field in zip(*blocks, strict=True)))


def study_frames(study: np.ndarray, subsample: int) -> np.ndarray:
    """The frames that are shown, in order: study (..., R, 3) to (..., R * frames per row, 2) [video, frame].

    All rows must have one length.
    """
    length = int(study[..., 0, 2].flat[0] - study[..., 0, 1].flat[0])
    frame = study[..., 1, None] + np.arange(0, length, subsample)  # (..., R, F)
    video = np.broadcast_to(study[..., 0, None], frame.shape)
    shown = np.stack([video, frame], -1)  # (..., R, F, 2)
    return shown.reshape(*study.shape[:-2], -1, 2)


def was_shown(study: np.ndarray, probes: np.ndarray, subsample: int) -> np.ndarray:
    """Whether each probe was itself among the study frames: study (N, R, 3), probes (N, P, 2) to (N, P) bool."""
    video, start, end = np.moveaxis(study[:, None], -1, 0)  # (N, 1, R)
    probe_video, frame = probes[..., 0, None], probes[..., 1, None]  # (N, P, 1)
    inside = (video == probe_video) & (start <= frame) & (frame < end)
    return (inside & ((frame - start) % subsample == 0)).any(-1)


def clip_kinds(study: np.ndarray, num_frames: np.ndarray, shots: Sequence[np.ndarray]) -> np.ndarray:
    """Of what kinds clips are that were drawn by kind: study (N, 2 * C, 3) to places in CLIP_KINDS, (N, C) uint8."""
    first, second = study[:, 0::2], study[:, 1::2]
    stop_of_shot = Shots(np.asarray(num_frames, np.int64), shots).shot_stop(first[..., 0], first[..., 1])
    kind = np.where(stop_of_shot < second[..., 2], CLIP_KINDS.index("cut"), CLIP_KINDS.index("no_cut"))
    return np.where(first[..., 0] == second[..., 0], kind, CLIP_KINDS.index("other_film")).astype(np.uint8)


def _draw_block(
    num_frames: np.ndarray, spec: EpisodeSpec, groups: Sequence[Group], shots: Shots | None, rng: np.random.Generator
) -> Episodes:
    """Draw BLOCK episodes, drawing those anew that came out without room for all their clips and probes."""
    parts, wanted = [], BLOCK
    for _ in range(EPISODE_ROUNDS):
        video, start, is_whole = draw_clips(num_frames, spec, shots, wanted, rng)
        asked = []
        for group in groups:
            rows = slice(group.num_clips * spec.rows_per_clip)
            probes, has_probes = draw_probes(num_frames, group.spec, shots, video[:, rows], start[:, rows], rng)
            is_whole &= has_probes
            asked.append(_shuffled(probes, group.spec, rng))
        study = np.stack([video, start, start + spec.row_length], -1).astype(np.int32)
        fields = study, *(np.concatenate(field, 1) for field in zip(*asked, strict=True))
        parts.append([field[is_whole] for field in fields])
        wanted -= int(is_whole.sum())
        if wanted == 0:
            return Episodes(*map(np.concatenate, zip(*parts, strict=True)))
    raise TooFewFrames(_say_what_is_missing(num_frames, spec, groups))


def _shuffled(
    probes: np.ndarray, spec: EpisodeSpec, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `draw_probes` drew in random order, each episode's another: probes, is_old and kind of `Episodes`."""
    codes = [PROBE_KINDS.index(kind) for kind in ("old", *spec.lures)]
    kinds = np.repeat(np.array(codes, np.uint8), [spec.num_tests, *spec.lures.values()])
    shuffle = rng.permuted(np.tile(np.arange(2 * spec.num_tests), (len(probes), 1)), axis=1)
    probes = np.take_along_axis(probes, shuffle[..., None], 1).astype(np.int32)
    return probes, (shuffle < spec.num_tests).astype(np.uint8), kinds[shuffle]


def _say_what_is_missing(num_frames: np.ndarray, spec: EpisodeSpec, groups: Sequence[Group]) -> str:
    films = f"the films ({len(num_frames)}, {num_frames.sum()} frames in all)"
    if groups[0].spec != spec:
        num_clips, most = max(groups, key=lambda group: group.spec.num_tests / group.num_clips)
        return (
            f"{films} seldom have room for {most.num_tests} old and as many new probes after {num_clips} of "
            f"{spec.num_clips} clips"
        )
    if list(spec.lures) == ["far"] and spec.study_clips == "any":
        needed = spec.num_clips * (spec.clip_length + 2 * spec.clip_margin) + spec.num_tests
        return (
            f"{films} have no room for {spec.num_clips} clips of {spec.clip_length} frames and {spec.num_tests} new "
            f"probes {spec.clip_margin} frames away from them: about "
            f"{max(needed - num_frames.sum(), spec.clip_length)} frames are missing"
        )
    clips_wanted = ", ".join(f"{count} {kind}" for kind, count in spec.clip_counts.items())
    probes_wanted = ", ".join(f"{count} {kind}" for kind, count in spec.lures.items())
    return (
        f"{films} seldom have room for {clips_wanted or spec.num_clips} clips and the new probes asked for: "
        f"{probes_wanted}"
    )
