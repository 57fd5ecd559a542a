"""Where clips lie: numbers of frames worked out by hand, and what holds for any film."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backbones.clips import clip_numbers, clip_span, random_pair, random_start, segments, view_starts
from recognition.features.preprocessing import frame_step

LENGTHS = st.integers(1, 3000)


@pytest.mark.parametrize(
    ("film_fps", "fps", "step"),
    [(30, 7.5, 4), (25, 7.5, 3), (24, 7.5, 3), (60, 7.5, 8), (15, 15, 1), (29.97, 15, 2), (10, 30, 1), (12.5, 5, 3)],
)
def test_step_is_the_nearest_whole_one_and_at_least_1(film_fps: float, fps: float, step: int):
    assert frame_step(film_fps, fps) == step


def test_film_of_unknown_rate_has_no_step():
    with pytest.raises(ValueError, match="does not say its frame rate"):
        frame_step(0, 7.5)


def test_clip_of_16_frames_4_apart_spans_61_frames():
    assert clip_span(16, 4) == 61
    assert clip_span(1, 9) == 1
    numbers = clip_numbers(10, 16, 4, 100)
    np.testing.assert_array_equal(numbers, range(10, 71, 4))
    assert numbers.dtype == np.int64


def test_last_frame_is_repeated_where_the_film_is_too_short():
    np.testing.assert_array_equal(clip_numbers(0, 6, 3, 8), [0, 3, 6, 7, 7, 7])
    np.testing.assert_array_equal(clip_numbers(0, 3, 3, 1), [0, 0, 0])


def test_every_place_of_a_segment_is_drawn_and_none_beside_it():
    rng = np.random.default_rng(0)
    starts = [random_start(100, 110, 7, rng) for _ in range(400)]
    found, counts = np.unique(starts, return_counts=True)
    np.testing.assert_array_equal(found, [100, 101, 102, 103])  # the last frame of a clip is 109
    assert counts.min() > 60


def test_clip_longer_than_its_segment_starts_with_it():
    assert random_start(100, 105, 61, np.random.default_rng(0)) == 100


def test_film_of_ten_minutes_gives_60_segments_of_10_s():
    found = segments(18_000, 30, 10)
    assert len(found) == 60
    assert found[:2] == [(0, 300), (300, 600)]
    assert found[-1] == (17_700, 18_000)


@pytest.mark.parametrize(
    ("num_frames", "fps", "segment_s", "expected"),
    [
        (24, 12, 10, [(0, 24)]),  # a short film is one piece
        (149, 10, 10, [(0, 149)]),
        (150, 10, 10, [(0, 100), (100, 150)]),
        (249, 10, 10, [(0, 100), (100, 249)]),
        (900, 10, None, [(0, 900)]),
        (900, 0, 10, [(0, 900)]),
    ],
)
def test_short_rest_belongs_to_the_segment_before(num_frames, fps, segment_s, expected):
    assert segments(num_frames, fps, segment_s) == expected


@given(LENGTHS, st.floats(1, 60), st.floats(0.01, 100))
def test_segments_cover_a_film_without_gap(num_frames: int, fps: float, segment_s: float):
    found = segments(num_frames, fps, segment_s)
    assert (found[0][0], found[-1][1]) == (0, num_frames)
    assert all(end == first for (_, end), (first, _) in pairwise(found))
    assert all(first < end for first, end in found)


def test_test_views_lie_evenly_and_reach_both_ends():
    np.testing.assert_array_equal(view_starts(100, 61, 10), [0, 4, 8, 13, 17, 21, 26, 30, 34, 39])
    np.testing.assert_array_equal(view_starts(100, 61, 2), [0, 39])
    np.testing.assert_array_equal(view_starts(100, 61, 1), [19])


@given(LENGTHS, st.integers(1, 200), st.integers(1, 12))
def test_test_views_follow_their_formula(num_frames: int, span: int, num_clips: int):
    room = max(0, num_frames - span)
    expected = [k * room // (num_clips - 1) for k in range(num_clips)] if num_clips > 1 else [room // 2]
    np.testing.assert_array_equal(view_starts(num_frames, span, num_clips), expected)


def test_pairs_are_apart_and_reach_every_place_in_either_order():
    rng = np.random.default_rng(0)
    pairs = [random_pair(10, 74, 15, 32, rng) for _ in range(2000)]
    assert all(abs(one - other) >= 32 for one, other in pairs)
    assert {min(pair) for pair in pairs} == set(range(10, 28))
    assert {max(pair) for pair in pairs} == set(range(42, 60))
    assert 800 < sum(one < other for one, other in pairs) < 1200


def test_pairs_of_a_short_film_are_as_far_apart_as_can_be():
    rng = np.random.default_rng(0)
    assert all(sorted(random_pair(0, 20, 15, 32, rng)) == [0, 5] for _ in range(20))
    assert random_pair(3, 8, 15, 32, rng) == [3, 3]
