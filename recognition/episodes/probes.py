"""Draw the probes of episodes whose clips are known: old ones, and new ones of several kinds.

Shape letters: E episodes, R rows (clips, or halves of clips drawn by kind), F films of all episodes, P probes.
"""

import numpy as np

from recognition.episodes.episode_spec import ALTERATIONS, OUTSIDE, EpisodeSpec
from recognition.episodes.places import NOWHERE, Places, Shots, merge

DRAW_ROUNDS = 200  # attempts where an episode barely has frames enough

Drawn = tuple[np.ndarray, np.ndarray]  # films and frames, (n,) each


def draw_probes(
    num_frames: np.ndarray,
    spec: EpisodeSpec,
    shots: Shots | None,
    video: np.ndarray,
    start: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw distinct probes for clips with these films and first frames, (E, R) each.

    Returns [video, frame] (E, P, 2), old ones first and then new ones in the order of `spec.lures`, and whether all
    were found, (E,) bool.
    """
    clips = _SortedClips(num_frames, spec, shots, video, start)
    probes = np.full((len(video), 2 * spec.num_tests, 2), -1, np.int64)
    has_all, begin = np.ones(len(video), bool), 0
    for kind, count in {"old": spec.num_tests, **spec.lures}.items():
        # What it can share a frame with: altered frames with anything in clips, frames outside with one another.
        first = 0 if kind in ALTERATIONS else spec.num_tests if kind in OUTSIDE else begin
        has_all &= _draw_distinct(clips, kind, probes[:, first : begin + count], count, rng)
        begin += count
    return probes, has_all


class _SortedClips:
    """The rows of E episodes, sorted within each by film and place, and the frames of their films that may be probed.

    A film of an episode is named by the column of its first row; all F of them, counted through all episodes, have
    their frames in the `Places` of each kind of probes that lie outside clips.
    """

    def __init__(
        self, num_frames: np.ndarray, spec: EpisodeSpec, shots: Shots | None, video: np.ndarray, start: np.ndarray
    ):
        self.num_frames, self.spec, self._shots = num_frames, spec, shots
        key = video << 32 | start
        ordered = np.sort(key, axis=1)
        self.video, self.start = ordered >> 32, ordered & 0xFFFFFFFF
        num_rows = video.shape[1]
        is_first = np.diff(self.video, axis=1, prepend=-2) != 0
        episode, column = np.nonzero(is_first)
        self.count = np.zeros(video.shape, np.int64)  # (E, R) rows of a film
        self.count[episode, column] = np.diff(episode * num_rows + column, append=video.size)
        self.film = np.zeros(video.shape, np.int64)  # (E, R) number of a film among all F
        self.film[episode, column] = np.arange(len(episode))

        later = column[:, None] + np.arange(self.count.max())
        is_same = later < (column + self.count[episode, column])[:, None]
        starts = self.start[episode[:, None], np.minimum(later, num_rows - 1)]
        self._starts = np.where(is_same, starts, NOWHERE)  # (F, K)
        self._video = self.video[episode, column]  # (F,)
        self.places = {kind: self._find(kind) for kind in spec.lures if kind in OUTSIDE}
        # Only films with frames of all these kinds are probed; one column stands for each of them.
        self.is_choice = is_first.copy()
        for places in self.places.values():
            self.is_choice[episode, column] &= places.size > 0
        self.num_choices = self.is_choice.sum(1)
        self._choices = np.argsort(~self.is_choice, axis=1, kind="stable")
        self.num_rows = np.where(self.is_choice, self.count, 0).sum(1)  # (E,) that may be probed
        if spec.probe_lags == "balanced":
            # Rows to the end of study: one that lies twice as far back is drawn half as often.
            weight = (1 / np.arange(num_rows, 0, -1))[np.argsort(key, axis=1)]
            self._first = np.maximum.accumulate(np.where(is_first, np.arange(num_rows), 0), axis=1)
            weight = np.where(np.take_along_axis(self.is_choice, self._first, 1), weight, 0)
            self._weight_upto = np.cumsum(weight, 1)  # (E, R)

    @property
    def old_offsets(self) -> np.ndarray:
        """Places within a row where an old probe may lie."""
        return np.arange(0, self.spec.row_length, self.spec.subsample if self.spec.old_probes == "presented" else 1)

    def num_outside(self, kind: str) -> np.ndarray:
        """Frames that may be probes of a kind that lies outside clips, (E,)."""
        episode, column = np.nonzero(self.is_choice)
        return np.bincount(episode, self.places[kind].size[self.film[episode, column]], len(self.video))

    def draw_film(self, episode: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A film of each of these episodes (n,), by its first column."""
        if self.spec.probe_lags == "balanced":
            return self.draw_row(episode, rng)[0]
        return self._choices[episode, rng.integers(0, self.num_choices[episode])]

    def draw_row(self, episode: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A film of each of these episodes (n,), by its first column, and the column of one of its rows."""
        if self.spec.probe_lags == "balanced":
            upto = self._weight_upto[episode]
            row = (rng.random(len(episode)) * upto[:, -1] >= upto.T).sum(0)
            return self._first[episode, row], row
        column = self.draw_film(episode, rng)
        return column, column + rng.integers(0, self.count[episode, column])

    def _find(self, kind: str) -> Places:
        """The frames of all films that may be new probes of a kind."""
        length, margin = self.spec.row_length, self.spec.clip_margin
        limit = self.num_frames[self._video][:, None]
        if kind == "far":
            begins, covered = merge(self._starts - margin, length + 2 * margin, limit[:, 0])
            return _grid(np.hstack([np.zeros_like(limit), begins + covered]), np.hstack([begins, limit]))
        # Before and after every row, as far as it reaches or as there is another row.
        starts, stops = np.minimum(self._starts, limit), np.minimum(self._starts + length, limit)
        if kind == "near":
            back_to, on_to = starts - margin, stops + margin
        else:
            assert self._shots is not None
            video = self._video[:, None]
            back_to = self._shots.shot_start(video, np.minimum(starts, limit - 1))
            on_to = self._shots.shot_stop(video, stops - 1)
        after_stop = np.minimum(on_to, np.hstack([starts[:, 1:], limit]))
        before_start = np.maximum(back_to, np.hstack([np.zeros_like(limit), after_stop[:, :-1]]))
        is_row = self._starts < NOWHERE
        begins, ends = np.hstack([before_start, stops]), np.hstack([starts, after_stop])
        return _grid(begins, np.where(np.hstack([is_row, is_row]), ends, begins))


def _grid(begins: np.ndarray, stops: np.ndarray) -> Places:
    """Intervals (F, K) as places."""
    return Places(begins, stops, np.full(len(begins), begins.shape[1]))


def _draw_distinct(
    clips: _SortedClips, kind: str, probes: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Fill the last `count` of the probes (E, n, 2) with frames of one kind that differ from one another and from those
    before; returns where that succeeded, (E,) bool."""
    draw = {"old": _draw_old, "other_film": _draw_of_other_film}.get(kind, _draw_outside)
    draw = _draw_altered if kind in ALTERATIONS else draw
    slots = probes[:, -count:]
    is_feasible = _num_frames_of(clips, kind) >= count
    episode, slot = np.nonzero(np.broadcast_to(is_feasible[:, None], slots.shape[:2]))
    for _ in range(DRAW_ROUNDS):
        if len(episode) == 0:
            break
        slots[episode, slot] = np.stack(draw(clips, kind, episode, rng), 1)
        drawn = np.unique(episode)
        episode, slot = np.nonzero(_is_repeated(probes[drawn])[:, -count:])  # these are drawn again
        episode = drawn[episode]
    is_feasible[episode] = False
    return is_feasible


def _num_frames_of(clips: _SortedClips, kind: str) -> np.ndarray:
    """How many frames each episode has for a kind of probes, (E,)."""
    if kind == "old":
        return clips.num_rows * len(clips.old_offsets)
    if kind in OUTSIDE:
        return clips.num_outside(kind)
    if kind == "other_film":
        return clips.num_frames.sum() - np.where(clips.count > 0, clips.num_frames[clips.video], 0).sum(1)
    return clips.num_rows * (clips.spec.row_length // clips.spec.alter_every)  # or a few more


def _draw_old(clips: _SortedClips, kind: str, episode: np.ndarray, rng: np.random.Generator) -> Drawn:
    """Film and frame within a clip, one of each for these episodes (n,)."""
    column, row = clips.draw_row(episode, rng)
    return clips.video[episode, column], clips.start[episode, row] + rng.choice(clips.old_offsets, len(episode))


def _draw_outside(clips: _SortedClips, kind: str, episode: np.ndarray, rng: np.random.Generator) -> Drawn:
    """Film that is studied and frame outside its clips."""
    column = clips.draw_film(episode, rng)
    return clips.video[episode, column], clips.places[kind].draw(clips.film[episode, column], rng)


def _draw_of_other_film(clips: _SortedClips, kind: str, episode: np.ndarray, rng: np.random.Generator) -> Drawn:
    """Film that is not studied and frame of it."""
    is_film = clips.count > 0
    film = rng.integers(0, len(clips.num_frames) - is_film.sum(1)[episode])
    for column in range(clips.video.shape[1]):  # step over those studied, in ascending order
        film += is_film[episode, column] & (clips.video[episode, column] <= film)
    return film, rng.integers(0, clips.num_frames[film])


def _draw_altered(clips: _SortedClips, kind: str, episode: np.ndarray, rng: np.random.Generator) -> Drawn:
    """Film and frame within a clip that the bank has altered."""
    column, row = clips.draw_row(episode, rng)
    every, start = clips.spec.alter_every, clips.start[episode, row]
    first, last = -(-start // every), (start + clips.spec.row_length - 1) // every
    return clips.video[episode, column], every * rng.integers(first, last + 1)


def _is_repeated(probes: np.ndarray) -> np.ndarray:
    """Which probes equal an earlier one of their episode: (E, P, 2) to (E, P) bool."""
    key = probes[..., 0] << 32 | probes[..., 1]
    repeated = np.zeros(key.shape, bool)
    ordered = np.sort(key, axis=1)
    some = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(1))  # few have any, and sorting alone is quick
    order = np.argsort(key[some], axis=1, kind="stable")
    repeated[some[:, None], order[:, 1:]] = ordered[some, 1:] == ordered[some, :-1]
    return repeated
