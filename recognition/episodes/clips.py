"""Draw the clips that episodes study: anywhere in their films, or by kind, where a cut is and where none is.

Shape letters: C clips of an episode, R rows (a row is a clip, or half of one if clips are drawn by kind).
"""

import numpy as np

from recognition.episodes.episode_spec import EpisodeSpec, TooFewFrames
from recognition.episodes.places import NOWHERE, Places, Shots, merge, step_over

DRAW_ROUNDS = 200  # attempts where the films barely have room
ROUNDS_A_FILM = 20  # of them in one film

Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]  # films, first frames, and whether there was room


def draw_clips(
    num_frames: np.ndarray, spec: EpisodeSpec, shots: Shots | None, num: int, rng: np.random.Generator
) -> Drawn:
    """Draw film and first frame of every row of `num` episodes, (num, R) each, in order of presentation.

    Returns also whether all rows found a place, (num,) bool; where not, the others are meaningless.
    """
    if spec.clip_counts:
        assert shots is not None
        return _draw_by_kind(spec, shots, num, rng)
    return _draw_anywhere(num_frames, spec, num, rng)


def _draw_anywhere(num_frames: np.ndarray, spec: EpisodeSpec, num: int, rng: np.random.Generator) -> Drawn:
    """Films with equal probability, then a place among those that are free in the film."""
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
            lows = np.where(is_same[shared], start[row[shared], :clip] - length + 1, NOWHERE)
            lows = np.sort(lows, 1)[:, : is_same[shared].sum(1).max(initial=0)]
            free = np.maximum(num_frames[film] - length + 1, 0)
            begins, covered = merge(lows, 2 * length - 1, free[shared])
            free[shared] -= covered.sum(1)
            place = rng.integers(0, np.maximum(free, 1))
            place[shared] = step_over(place[shared], begins, covered)
            found = free > 0
            video[row[found], clip], start[row[found], clip] = film[found], place[found]
            row = row[~found]  # the film is full: draw another
            if len(row) == 0:
                break
        has_place[row] = False
    return video, start, has_place


def _draw_by_kind(spec: EpisodeSpec, shots: Shots, num: int, rng: np.random.Generator) -> Drawn:
    """Clips of each kind in their number and in random order, each as two rows, its halves.

    Films are drawn with equal probability among those with such places at all, then a place among the free ones.
    """
    length = spec.row_length
    kinds = list(spec.clip_counts)
    order = rng.permuted(np.tile(np.repeat(np.arange(len(kinds)), [*spec.clip_counts.values()]), (num, 1)), axis=1)
    places = {kind: _find_places(spec, shots, kind) for kind in kinds}
    video = np.full((num, 2 * spec.num_clips), -1)
    start = np.zeros((num, 2 * spec.num_clips), np.int64)
    has_place = np.ones(num, bool)
    for first in range(0, 2 * spec.num_clips, 2):
        for number, kind in enumerate(kinds):
            row = np.flatnonzero(order[:, first // 2] == number)
            if kind == "other_film":
                for column in (first, first + 1):
                    earlier = video[row, :column], start[row, :column]
                    other_than = video[row, first] if column > first else -1
                    film, place, found = _draw_spans(places[kind], length, length, earlier, rng, other_than)
                    video[row, column], start[row, column] = film, place
                    has_place[row] &= found
            else:
                earlier = video[row, :first], start[row, :first]
                film, place, found = _draw_spans(places[kind], spec.clip_length, length, earlier, rng)
                video[row, first], start[row, first] = film, place
                video[row, first + 1], start[row, first + 1] = film, place + length
                has_place[row] &= found
    return video, start, has_place


def _find_places(spec: EpisodeSpec, shots: Shots, kind: str) -> Places:
    """Where clips of a kind, or their halves, can begin. Raises TooFewFrames if no film or too few films have any."""
    if kind == "cut":
        places, needed, what = shots.starts_with_cut(spec.clip_length), 1, f"{spec.clip_length} frames with a cut"
    else:
        length = spec.clip_length if kind == "no_cut" else spec.row_length
        needed = 1 if kind == "no_cut" else 2
        places, what = shots.starts_without_cut(length), f"a shot of {length} frames"
    if (found := int((places.size > 0).sum())) < needed:
        raise TooFewFrames(f"study clips {kind} need {needed} films with {what}, and {found} have one")
    return places


def _draw_spans(
    places: Places,
    span: int,
    length: int,
    earlier: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
    other_than: np.ndarray | int = -1,
) -> Drawn:
    """Film and first frame of `span` frames in a row, for each of some episodes, that overlap none of their rows so
    far, of `length` frames each: `earlier` has their films and first frames, (E, R) each.

    The film is never `other_than` (E,), -1 for any film. Returns also what was found, (E,) bool.
    """
    video, start = earlier
    choices = np.flatnonzero(places.size)
    other_than = np.broadcast_to(other_than, len(video))
    film, place, todo = np.zeros(len(video), np.int64), np.zeros(len(video), np.int64), np.arange(len(video))
    # A film is left for another when it is full, or nearly so.
    for attempt in range(DRAW_ROUNDS):
        if len(todo) == 0:
            break
        if attempt % ROUNDS_A_FILM == 0:
            is_barred = np.isin(other_than[todo], choices)
            choice = rng.integers(0, len(choices) - is_barred)
            choice += is_barred & (choice >= np.searchsorted(choices, other_than[todo]))
            film[todo] = choices[choice]
        place[todo] = places.draw(film[todo], rng)
        distance = place[todo, None] - start[todo]
        overlaps = (video[todo] == film[todo, None]) & (-span < distance) & (distance < length)
        todo = todo[overlaps.any(1)]
    found = np.ones(len(video), bool)
    found[todo] = False
    return film, place, found
