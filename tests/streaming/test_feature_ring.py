"""The ring finds what a plain search over all frames finds, and forgets the oldest."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recognition.streaming.ring import CHUNK, FeatureRing


def filled(capacity: int, features: np.ndarray) -> FeatureRing:
    ring = FeatureRing(capacity, features.shape[1])
    for place, frame in enumerate(features):
        ring.study(frame, place / 10)
    return ring


def plain(features: np.ndarray, query: np.ndarray, capacity: int) -> np.ndarray:
    """Cosines with all frames in double precision, nan for those that are forgotten."""
    cosines = features @ query / np.linalg.norm(features, axis=1) / np.linalg.norm(query)
    cosines[: max(0, len(features) - capacity)] = np.nan
    return cosines


@pytest.mark.parametrize(
    ("capacity", "num_frames"), [(9000, 63), (500, 500), (500, 1777), (CHUNK + 5, 2 * CHUNK + 3), (100_000, 100_000)]
)
def test_nearest_frames_are_those_of_a_plain_search(capacity: int, num_frames: int):
    rng = np.random.default_rng(num_frames)
    features = rng.normal(size=(num_frames, 24)) * 10 ** rng.uniform(-3, 3, size=(num_frames, 1))
    ring = filled(capacity, features)
    for query in rng.normal(size=(3, 24)):
        similar, places = ring.ask(query, 8)
        cosines = plain(features, query, capacity)
        np.testing.assert_allclose(similar, cosines[places], atol=5e-4)  # float16
        assert similar[0] >= np.nanmax(cosines) - 5e-4
        assert (np.diff(similar) <= 0).all()
        assert np.nansum(cosines > similar[-1] + 5e-4) <= 8
        np.testing.assert_array_equal(ring.times_of(places), places / 10)


@given(st.integers(1, 9), st.integers(0, 30), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_small_rings_find_all_frames_in_order(capacity: int, num_frames: int, num_finds: int, seed: int):
    rng = np.random.default_rng(seed)
    features = rng.choice([-1.0, 1.0], size=(num_frames, 4))  # many are equal; such cosines have no error
    query = np.ones(4)
    similar, places = filled(capacity, features).ask(query, num_finds)
    first = max(0, num_frames - capacity)
    expected = sorted(range(first, num_frames), key=lambda place: (-features[place].sum(), place))[:num_finds]
    assert places.tolist() == expected
    np.testing.assert_allclose(similar, [features[place].sum() / 4 for place in expected], atol=1e-6)


def test_asking_leaves_the_ring_as_it_was():
    ring = filled(5, np.random.default_rng(0).normal(size=(8, 6)))
    before = ring.state()
    ring.ask(np.ones(6))
    assert ring.num_studied == 8
    assert all((ring.state()[name] == before[name]).all() for name in before)


def test_nothing_is_found_in_an_empty_ring():
    assert [len(part) for part in FeatureRing(5, 3).ask(np.ones(3))] == [0, 0]


def test_frames_that_are_forgotten_have_no_time():
    ring = filled(5, np.random.default_rng(0).normal(size=(8, 6)))
    np.testing.assert_array_equal(ring.times_of([-1, 0, 2, 3, 7, 8]), [np.nan, np.nan, np.nan, 0.3, 0.7, np.nan])


@pytest.mark.parametrize("cut", [0, 3, 5, 12])
def test_a_ring_goes_on_from_its_state(cut: int):
    features = np.random.default_rng(1).normal(size=(14, 6))
    ring = FeatureRing(5, 6)
    ring.go_on(filled(5, features[:cut]).state())
    for place in range(cut, 14):
        ring.study(features[place], place / 10)
    whole = filled(5, features)
    assert all((ring.state()[name] == whole.state()[name]).all() for name in whole.state())


def test_a_state_of_another_ring_is_refused():
    state = filled(5, np.ones((8, 6))).state()
    for ring, wrong in [(FeatureRing(6, 6), state), (FeatureRing(5, 7), state), (FeatureRing(5, 6), {})]:
        with pytest.raises(ValueError, match="no state of a ring"):
            ring.go_on(wrong)
    with pytest.raises(ValueError, match="no state of a ring"):
        FeatureRing(5, 6).go_on(state | {"features": state["features"].astype(np.float32)})


@pytest.mark.parametrize("wrong", [np.ones(5), np.ones((1, 6)), np.array([1, 2, 3, 4, 5, np.nan])])
def test_what_is_no_frame_is_refused(wrong: np.ndarray):
    with pytest.raises(ValueError, match="features"):
        FeatureRing(5, 6).study(wrong, 0.0)


def test_black_and_huge_frames_are_frames():
    ring = filled(5, np.array([np.zeros(4), np.full(4, 1e30), np.full(4, -1e-30)]))
    similar, places = ring.ask(np.full(4, 1e-30))
    assert places.tolist() == [1, 0, 2]
    np.testing.assert_allclose(similar, [1, 0, -1], atol=1e-3)


def test_an_hour_takes_37_megabytes():
    assert FeatureRing(36_000, 512).num_bytes == pytest.approx(37e6, rel=0.02)
