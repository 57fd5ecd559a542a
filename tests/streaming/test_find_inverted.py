"""An index of faiss instead of the exact search: finds the same where it reads everything, is made anew in time."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from studied_by_hand import StudiedByHand

from recognition.common.command_line import InputError
from recognition.streaming.search import inverted
from recognition.streaming.search.inverted import InvertedLists
from recognition.streaming.search.look_up import find_places, nearest_rows
from recognition.streaming.search.store import open_store, unit
from recognition.streaming.search.stretches import find_stretches

pytest.importorskip("faiss", reason="needs faiss-cpu: pip install -e '.[faiss]'")


def test_all_lists_together_find_what_an_exact_search_finds(tmp_path: Path):
    path, studied = tmp_path / "frames.store", StudiedByHand([600, 450, 333])
    store = open_store(path, studied, 5.0)
    with_lists = replace(store, lists=InvertedLists(path, store))
    assert len(store.frame) > 500
    asked = np.stack([studied.all[0][100], studied.all[1][222], studied.all[2][7]]).astype(np.float32)
    for exact, found in zip(
        nearest_rows(store, unit(asked), 20), nearest_rows(with_lists, unit(asked), 20), strict=True
    ):
        assert found.tolist() == exact.tolist()
    expected = find_places(store, studied, asked, 5)
    assert find_places(with_lists, studied, asked, 5) == expected
    assert [places[0][:2] for places in expected] == [(0, 100), (1, 222), (2, 7)]
    clip, times_s = studied.all[1][200:260:2], np.arange(30) / 5
    assert find_stretches(with_lists, studied, clip, times_s, 3) == find_stretches(store, studied, clip, times_s, 3)


def test_few_lists_find_nearly_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inverted, "NUM_READ", 8)
    path, studied = tmp_path / "frames.store", StudiedByHand([3000, 3000])
    store = open_store(path, studied, 10.0)
    with_lists = replace(store, lists=InvertedLists(path, store))
    asked = studied.all[1][::100].astype(np.float32)
    found = [places[0][:2] for places in find_places(with_lists, studied, asked, 1)]
    assert np.mean([place == (1, 100 * k) for k, place in enumerate(found)]) > 0.9


def test_index_is_kept_while_the_rows_are_the_same(tmp_path: Path):
    path, studied = tmp_path / "frames.store", StudiedByHand([600, 450])
    store = open_store(path, studied)
    InvertedLists(path, store)
    [file] = tmp_path.glob("*.faiss")
    before = file.stat().st_mtime_ns
    InvertedLists(path, store)
    assert file.stat().st_mtime_ns == before
    InvertedLists(path, open_store(path, StudiedByHand([600, 450, 70])))
    assert [other == file for other in tmp_path.glob("*.faiss")] == [False]


@pytest.mark.parametrize("content", [b"", b"IwSq and nothing", bytes(1000)])
def test_damaged_index_is_made_anew(tmp_path: Path, content: bytes):
    path, studied = tmp_path / "frames.store", StudiedByHand([600, 450])
    store = open_store(path, studied)
    InvertedLists(path, store)
    [file] = tmp_path.glob("*.faiss")
    file.unlink()
    file.write_bytes(content)
    [rows] = InvertedLists(path, store).nearest(unit(studied.all[0][[33]]), 1)
    assert store.film[rows[0]] == 0


def test_without_faiss_it_is_said_how_to_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    store = open_store(tmp_path / "frames.store", StudiedByHand([60]))
    with pytest.raises(InputError, match=r"--faiss: needs the package faiss-cpu: pip install -e '\.\[faiss\]'"):
        InvertedLists(tmp_path / "frames.store", store)
