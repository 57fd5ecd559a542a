"""A clip found in films: its offset, both ends, and what does not belong to it."""

from pathlib import Path

import numpy as np
import pytest
from studied_by_hand import StudiedByHand

from recognition.streaming.search.store import Store, open_store
from recognition.streaming.search.stretches import Stretch, densest, find_stretches, nearest


@pytest.fixture
def studied() -> StudiedByHand:
    return StudiedByHand([400, 600, 500, 450])


@pytest.fixture
def store(studied: StudiedByHand, tmp_path: Path) -> Store:
    return open_store(tmp_path / "frames.store", studied)


def noisy(features: np.ndarray, seed: int = 0) -> np.ndarray:
    return features + np.random.default_rng(seed).normal(scale=0.05, size=features.shape)


def span(stretch: Stretch) -> list[float]:
    return [stretch.start_s, stretch.end_s, stretch.asked_start_s, stretch.asked_end_s]


@pytest.mark.parametrize(
    ("film", "first", "num", "every"), [(1, 237, 20, 3), (0, 0, 9, 2), (2, 471, 10, 3), (3, 50, 1, 1)]
)
def test_clip_is_found_with_both_ends(
    studied: StudiedByHand, store: Store, film: int, first: int, num: int, every: int
):
    frames = first + every * np.arange(num)
    times_s = 7.0 + every * np.arange(num) / 10  # the clip's own clock begins elsewhere
    best = find_stretches(store, studied, noisy(studied.all[film][frames]), times_s, 5)[0]
    assert best.film == film
    expected = [studied.times(film)[frames[0]], studied.times(film)[frames[-1]], times_s[0], times_s[-1]]
    assert span(best) == pytest.approx(expected)
    assert (best.num_agreeing, best.asked_frames) == (num, slice(0, num))
    assert best.time_s == studied.times(film)[best.frame]
    assert best.frame in frames
    assert best.similarity > 0.99


def test_ends_of_a_part_of_a_clip_are_found_in_both(studied: StudiedByHand, store: Store):
    other = noisy(StudiedByHand([60], seed=9).all[0])
    features = np.concatenate([other[:12], noisy(studied.all[1][300:340:2]), other[20:35]])
    best = find_stretches(store, studied, features, np.arange(len(features)) / 5, 5)[0]
    assert best.film == 1
    assert span(best) == pytest.approx([30.5, 34.3, 2.4, 6.2])
    assert best.num_agreeing == 20


def test_clip_cut_from_two_films_is_found_in_both(studied: StudiedByHand, store: Store):
    features = np.concatenate([noisy(studied.all[0][100:150:2]), noisy(studied.all[2][300:340:2])])
    first, second = find_stretches(store, studied, features, np.arange(45) / 5, 9)[:2]
    assert (first.film, second.film) == (0, 2)
    assert span(first) == pytest.approx([10.5, 15.3, 0.0, 4.8])
    assert span(second) == pytest.approx([30.5, 34.3, 5.0, 8.8])


def test_frames_that_were_spoiled_leave_a_clip_whole(studied: StudiedByHand, store: Store):
    features = noisy(studied.all[3][100:160:2])
    features[[7, 8, 19]] = 1
    best = find_stretches(store, studied, features, np.arange(30) / 5, 5)[0]
    assert (best.film, best.num_agreeing, best.asked_frames) == (3, 27, slice(0, 30))
    assert span(best) == pytest.approx([10.5, 16.3, 0.0, 5.8])


def test_stretches_of_a_film_do_not_overlap(tmp_path: Path):
    still = StudiedByHand([600, 300], shot=600)
    found = find_stretches(
        open_store(tmp_path / "still", still), still, still.all[0][200:260:2], np.arange(30) / 5, 100
    )
    assert len(found) > 1
    assert span(found[0]) == pytest.approx([20.5, 26.3, 0, 5.8])
    for k, stretch in enumerate(found):
        for other in found[:k]:
            assert stretch.film != other.film or stretch.end_s < other.start_s or other.end_s < stretch.start_s


def test_clip_of_black_frames_is_not_found(studied: StudiedByHand, store: Store):
    assert find_stretches(store, studied, np.zeros((5, 24)), np.arange(5.0), 5) == []


def test_longest_run_of_agreement_passes_over_gaps():
    assert densest(np.array([0, 1, 1, 0, 1, 1, 0, 0, 0, 1], bool)) == (1, 6)
    assert densest(np.array([1], bool)) == (0, 1)
    assert densest(np.array([1, 0, 1], bool)) == (0, 3)


def test_nearest_of_times_is_told_also_beyond_their_ends():
    assert nearest(np.array([1.0, 2.0, 4.0]), np.array([-5, 1.4, 1.6, 3.1, 9])).tolist() == [0, 0, 1, 2, 2]
    assert nearest(np.array([1.0]), np.array([0.0, 3.0])).tolist() == [0, 0]
