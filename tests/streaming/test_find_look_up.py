"""A picture looked up in films: what a plain search of all frames finds, and no place twice."""

from pathlib import Path

import numpy as np
import pytest
from studied_by_hand import StudiedByHand

from recognition.streaming.search import look_up
from recognition.streaming.search.look_up import APART_S, Place, apart, find_places, most_similar, similarities
from recognition.streaming.search.store import open_store, unit


def plain(studied: StudiedByHand, asked: np.ndarray, num: int) -> list[Place]:
    """The best frame of all, then the best that is not near to it, and so on."""
    places = []
    for film, features in enumerate(studied.all):
        for frame, cosine in enumerate(unit(features) @ unit(asked)):
            places.append(Place(film, frame, float(studied.times(film)[frame]), float(cosine)))
    places.sort(key=lambda place: -place.similarity)
    kept: list[Place] = []
    for place in places:
        if all(place.film != other.film or abs(place.time_s - other.time_s) > APART_S for other in kept):
            kept.append(place)
    return kept[:num]


def asked_about(studied: StudiedByHand, num: int) -> np.ndarray:
    """Frames of the films, some of them blurred by noise, (num, D)."""
    rng = np.random.default_rng(3)
    films = rng.integers(0, len(studied.all), num)
    frames = [studied.all[film][rng.integers(0, len(studied.all[film]))] for film in films]
    return np.array(frames, np.float32) + rng.normal(size=(num, 24)) * np.linspace(0, 0.2, num)[:, None]


def test_all_frames_in_the_store_are_searched_exactly(tmp_path: Path):
    studied = StudiedByHand([150, 80, 121, 7, 1])
    store, asked = open_store(tmp_path / "store", studied, 100.0), asked_about(studied, 30)
    assert len(store.frame) == 359
    for found, question in zip(find_places(store, studied, asked, 4), asked, strict=True):
        [expected] = plain(studied, question, 1)
        assert found[0][:3] == expected[:3]
        assert found[0].similarity == pytest.approx(expected.similarity, abs=1e-6)


def test_frame_between_rows_is_found(tmp_path: Path):
    studied = StudiedByHand([250, 180, 121], fps=30)
    store, asked = open_store(tmp_path / "store", studied), asked_about(studied, 40)
    assert len(store.frame) < 30
    found = find_places(store, studied, asked, 5)
    for places, question in zip(found, asked, strict=True):
        assert places[0][:3] == plain(studied, question, 1)[0][:3]
        assert [place.similarity for place in places] == sorted((place.similarity for place in places), reverse=True)
        assert len({place[:2] for place in places}) == len(places)


def test_places_told_of_a_film_are_apart(tmp_path: Path):
    studied = StudiedByHand([400, 300], shot=400)
    store = open_store(tmp_path / "store", studied)
    [places] = find_places(store, studied, studied.all[0][200:201], 100)
    for k, place in enumerate(places):
        assert all(place.film != other.film or abs(place.time_s - other.time_s) > APART_S for other in places[:k])
    assert {place.film for place in places} == {0, 1}


def test_many_frames_are_looked_up_as_each_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    studied = StudiedByHand([150, 80])
    store, asked = open_store(tmp_path / "store", studied, 5.0), asked_about(studied, 7)
    together = find_places(store, studied, asked, 3)
    monkeypatch.setattr(look_up, "AT_ONCE", 300)
    monkeypatch.setattr(look_up, "BLOCK_ROWS", 16)
    assert len(list(similarities(store, unit(asked)))) == 7
    for places, question in zip(together, asked, strict=True):
        [alone] = find_places(store, studied, question[None], 3)
        assert [place[:3] for place in places] == [place[:3] for place in alone]


def test_similarities_are_cosines_of_what_is_stored(tmp_path: Path):
    studied = StudiedByHand([150, 80])
    store, asked = open_store(tmp_path / "store", studied), unit(asked_about(studied, 3))
    expected = asked @ store.features.float().numpy().T
    assert np.allclose(np.stack(list(similarities(store, asked))), expected, atol=1e-6)


def test_frame_of_which_the_features_are_no_numbers_is_never_found(tmp_path: Path):
    studied = StudiedByHand([150, 80])
    studied.all[0][60:80] = np.nan
    store = open_store(tmp_path / "store", studied)
    [places] = find_places(store, studied, studied.all[1][5:6], 30)
    assert places[0][:2] == (1, 5)
    assert all(np.isfinite(place.similarity) for place in places)


def test_of_equal_rows_the_first_is_the_most_similar():
    assert most_similar(np.array([0.1, 0.9, 0.5, 0.9, 0.5]), 3).tolist() == [1, 3, 2]
    assert most_similar(np.array([0.5, 0.5]), 9).tolist() == [0, 1]


def test_places_within_three_seconds_are_one():
    assert apart([0, 0, 0, 1, 0], [10.0, 12.9, 13.1, 10.0, 7.0], 9) == [0, 2, 3]
    assert apart([0, 1, 2], [0.0, 0.0, 0.0], 2) == [0, 1]
