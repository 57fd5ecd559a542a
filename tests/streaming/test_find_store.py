"""The store of a search: which frames are in it, and when it is made anew."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from studied_by_hand import StudiedByHand

from recognition.streaming.search import store as module
from recognition.streaming.search.store import open_store, sampled, unit


def test_rows_are_frames_of_unit_length_with_their_films_and_times(tmp_path: Path):
    studied = StudiedByHand([90, 200, 33])
    store = open_store(tmp_path / "frames.store", studied)
    assert [film.num_rows for film in store.films] == [9, 20, 3]
    assert store.film.tolist() == [0] * 9 + [1] * 20 + [2] * 3
    for row, (film, frame) in enumerate(zip(store.film, store.frame, strict=True)):
        assert store.time_s[row] == studied.times(film)[frame]
        assert np.allclose(store.features[row].float().numpy(), unit(studied.all[film][frame]), atol=1e-3)
    assert store.features.dtype == torch.float16
    assert np.allclose(store.usual, store.features.float().mean(0), atol=1e-5)
    assert store.num_bytes == (tmp_path / "frames.store").stat().st_size < 32 * (2 * 24 + 20) + 2000


@given(
    lengths=some.lists(some.integers(1, 120), min_size=1, max_size=8),
    rate=some.sampled_from([1.0, 5.5, 25.0, 60.0]),
    fps=some.sampled_from([0.1, 1.0, 3.0, 100.0]),
)
def test_every_shot_has_rows_evenly_and_none_comes_twice(lengths: list[int], rate: float, fps: float):
    starts = np.cumsum([0, *lengths[:-1]])
    chosen = sampled(starts, np.arange(sum(lengths)) / rate, fps)
    assert (np.diff(chosen) > 0).all()
    for start, length in zip(starts, lengths, strict=True):
        inside = chosen[(chosen >= start) & (chosen < start + length)] - start
        assert len(inside) == np.clip(round(length * fps / rate), 1, length)
        # No frame is further from a row than half a part and a frame.
        assert np.abs(np.arange(length)[:, None] - inside).min(1).max() <= length / len(inside) / 2 + 1


def test_film_of_one_frame_and_of_equal_times_have_rows():
    assert sampled(np.array([0]), np.array([3.0]), 1.0).tolist() == [0]
    assert len(sampled(np.array([0]), np.zeros(5), 1.0)) >= 1


def test_store_is_kept_while_films_are_the_same(tmp_path: Path):
    path = tmp_path / "frames.store"
    open_store(path, StudiedByHand([90, 200]))
    before, studied = path.stat(), StudiedByHand([90, 200])
    open_store(path, studied)
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_ino == before.st_ino
    assert studied.asked_for == [0, 0]


def test_film_that_changed_is_read_anew_and_others_are_not(tmp_path: Path):
    path, studied = tmp_path / "frames.store", StudiedByHand([90, 200, 50])
    open_store(path, studied)
    changed = StudiedByHand([90, 200, 50])
    changed.all[1], changed.digests[1] = changed.all[1][::-1].copy(), "other"
    store = open_store(path, changed)
    assert changed.asked_for == [0, 1, 0]
    assert same(store, open_store(tmp_path / "anew.store", changed))


def test_films_that_come_and_go_leave_the_store_as_if_made_at_once(tmp_path: Path):
    path, studied = tmp_path / "frames.store", StudiedByHand([90, 200, 50, 70])
    open_store(path, only(studied, [0, 2]))
    for chosen, asked_for in (([0, 1, 2, 3], [0, 1, 0, 1]), ([1, 3], [0, 0, 0, 0])):
        studied.asked_for = [0] * 4
        store = open_store(path, only(studied, chosen))
        assert studied.asked_for == asked_for
        assert same(store, open_store(tmp_path / f"{len(chosen)}.store", only(studied, chosen)))


def test_other_rate_makes_the_store_anew(tmp_path: Path):
    path, studied = tmp_path / "frames.store", StudiedByHand([90, 200])
    open_store(path, studied)
    assert len(open_store(path, studied, 2.0).frame) == 58
    assert len(open_store(path, studied, 100.0).frame) == 290


@pytest.mark.parametrize("damage", ["cut", "emptied", "of another kind", "version", "films"])
def test_damaged_store_is_made_anew(tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch):
    path, studied = tmp_path / "frames.store", StudiedByHand([90, 200])
    whole = open_store(path, studied)
    data = path.read_bytes()
    path.unlink()  # what is mapped stays whole
    if damage == "cut":
        path.write_bytes(data[:-5])
    elif damage == "emptied":
        path.write_bytes(b"")
    elif damage == "of another kind":
        path.write_bytes(b"\x89HDF" + bytes(5000))
    elif damage == "version":
        path.write_bytes(data.replace(b'"version": "1"', b'"version": "0"'))
    else:
        path.write_bytes(data.replace(json.dumps("film_0").encode().replace(b'"', b'\\"'), b'\\"film_9\\"'))
    assert damage == "cut" or path.read_bytes() != data
    assert same(open_store(path, studied), whole)


def test_interrupted_store_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "frames.store"
    whole = open_store(path, StudiedByHand([90, 200]))
    more = StudiedByHand([90, 200, 40])

    def stopped(film: int, frames: np.ndarray) -> np.ndarray:
        raise KeyboardInterrupt

    monkeypatch.setattr(more, "features", stopped)
    with pytest.raises(KeyboardInterrupt):
        open_store(path, more)
    assert [file.name for file in tmp_path.iterdir()] == ["frames.store"]
    found = module._read(path)
    assert found is not None
    assert same(found, whole)


def test_features_that_are_no_numbers_or_very_large_do_not_spoil_others():
    features = np.array([[3, 4], [np.nan, 1], [np.inf, 1], [0, 0], [1.5e38, 2e38]], np.float32)
    assert np.allclose(unit(features), [[0.6, 0.8], [0, 0], [0, 0], [0, 0], [0.6, 0.8]])


def only(studied: StudiedByHand, chosen: list[int]) -> StudiedByHand:
    """Some of the films; what is asked of them is counted in the first place."""
    part = StudiedByHand([1])
    part.names, part.digests = ([names[k] for k in chosen] for names in (studied.names, studied.digests))
    part.all, part.shot = [studied.all[k] for k in chosen], studied.shot
    part.features = lambda film, frames: studied.features(chosen[film], frames)  # type: ignore[method-assign]
    return part


def same(store: module.Store, other: module.Store) -> bool:
    """Whether two stores say the same."""
    arrays = ("features", "time_s", "frame", "film", "usual")
    return store.films == other.films and all(
        np.array_equal(np.asarray(getattr(store, name)), np.asarray(getattr(other, name))) for name in arrays
    )
