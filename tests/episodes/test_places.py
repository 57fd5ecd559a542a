"""Intervals of frames: drawn from uniformly, and where shots begin and end, against plain loops."""

import numpy as np

from recognition.episodes.places import NOWHERE, Places, Shots, merge, step_over

LENGTHS = [50, 7, 31, 12]
STARTS = [[0, 9, 10, 30], [0], [0, 13, 20, 30], [0, 6]]
SHOTS = Shots(np.array(LENGTHS), [np.array(starts) for starts in STARTS])


def drawn_from(places: Places, film: int) -> set[int]:
    """All frames that many draws from a film give."""
    return set(places.draw(np.full(3000, film), np.random.default_rng(0)).tolist())


def test_frames_are_drawn_uniformly_from_the_intervals_of_their_film():
    begins, stops = np.array([[3, 20, 5], [0, 9, 9], [7, 2, 4]]), np.array([[5, 23, 5], [1, 12, 4], [7, 2, 3]])
    places = Places(begins, stops, np.array([3, 3, 3]))
    assert places.size.tolist() == [5, 4, 0]
    found = places.draw(np.repeat([0, 1], 20_000), np.random.default_rng(0)).reshape(2, -1)
    for film, expected in ((0, [3, 4, 20, 21, 22]), (1, [0, 9, 10, 11])):
        frames, counts = np.unique(found[film], return_counts=True)
        assert frames.tolist() == expected
        assert abs(counts / 20_000 - 1 / len(expected)).max() < 0.02


def test_shot_of_every_frame_begins_and_ends_where_a_plain_loop_says():
    for video, (length, starts) in enumerate(zip(LENGTHS, STARTS, strict=True)):
        frame = np.arange(length)
        expected = [max(start for start in starts if start <= f) for f in frame]
        assert SHOTS.shot_start(np.full(length, video), frame).tolist() == expected
        expected = [min(stop for stop in [*starts, length] if stop > f) for f in frame]
        assert SHOTS.shot_stop(np.full(length, video), frame).tolist() == expected


def test_frames_in_a_row_with_and_without_a_cut_begin_where_a_plain_loop_says():
    for length in (1, 2, 5, 8, 13, 31):
        with_cut, without = SHOTS.starts_with_cut(length), SHOTS.starts_without_cut(length)
        for video, (num_frames, starts) in enumerate(zip(LENGTHS, STARTS, strict=True)):
            possible = range(num_frames - length + 1)
            cut = {s for s in possible if any(s < start < s + length for start in starts)}
            for places, expected in ((with_cut, cut), (without, set(possible) - cut)):
                assert places.size[video] == len(expected)
                assert not expected or drawn_from(places, video) == expected


def test_free_places_are_those_outside_the_merged_intervals():
    rng = np.random.default_rng(0)
    for _ in range(200):
        limit, width = int(rng.integers(1, 40)), int(rng.integers(1, 9))
        lows = np.sort(rng.integers(-8, 45, 4))
        lows[rng.integers(1, 5) :] = NOWHERE
        begins, covered = merge(lows[None], width, np.array([limit]))
        free = [k for k in range(limit) if not any(low <= k < low + width for low in lows)]
        assert limit - covered.sum() == len(free)
        place = np.arange(len(free))
        found = step_over(place, begins.repeat(len(free), 0), covered.repeat(len(free), 0))
        assert found.tolist() == free
