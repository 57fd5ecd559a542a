"""Pictures looked up in as many films as were published: in a store on disk, about a frame a second, and then around
the best, against a search of all frames.

Shapes: N rows of the store, D features, Q frames asked about.
"""

import importlib.util
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import Row, take_turns
from recognition.features.made_up import FPS, MadeUpFilms
from recognition.streaming.search.inverted import InvertedLists
from recognition.streaming.search.look_up import Place, find_places, most_similar, similarities
from recognition.streaming.search.store import Store, open_store, unit

FILMS = "made-up:1072x20000"
NUM_PLAIN = 8  # films of which all frames are searched
NUM_FINDS, NUM_TOGETHER = 100, 16  # finds of a picture, pictures in one pass
COSINES, NUM_QUESTIONS = (0.999, 0.995, 0.99, 0.98), 100  # of what is asked about with the frame that it was
NEAR_S = 1.0  # a find that is so near to the frame is right


class MadeUpStudied:
    """Made-up films as films that were studied; `names` are all or some of them."""

    def __init__(self, name: str, names: Sequence[str] | None = None):
        self._films = MadeUpFilms(name, names)
        self.names, self.digests = self._films.video_ids, self._films.digests
        self.num_features, self._shots = self._films.num_features, self._films.shots()
        self._times = np.arange(self._films.lengths[0]) / FPS

    def fps(self, film: int) -> float:
        return FPS

    def times(self, film: int) -> np.ndarray:
        return self._times

    def shots(self, film: int) -> np.ndarray:
        return self._shots[film]

    def features(self, film: int, frames: np.ndarray) -> np.ndarray:
        return self._films.gather(np.full(len(frames), film), frames).numpy()


def search(device: str) -> Iterator[Row]:
    """The look-up of `python -m recognition.live --study --ask`, without the network that reads the pictures."""
    studied = MadeUpStudied(FILMS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.store"
        began_s = time.perf_counter()
        open_store(path, studied)
        made_s = time.perf_counter() - began_s
        forget(path)
        store, asked = open_store(path, studied), draw(studied, NUM_TOGETHER, COSINES[0])[0]
        began_s = time.perf_counter()
        find_places(store, studied, asked[:1], NUM_FINDS)
        cold_s = time.perf_counter() - began_s
        note = (
            f"{len(store.frame):,} rows, {store.num_bytes / 1e6:,.0f} MB, made in {made_s:.0f} s; {{:.2f}} s a picture"
        )
        note += f", {cold_s:.2f} s the first; right of {NUM_QUESTIONS}, by cosine: {recall(store, studied)}"
        yield against_all_frames(store, studied, asked[:1], note)
        yield from ways(store, path, asked)


def against_all_frames(store: Store, studied: MadeUpStudied, asked: np.ndarray, note: str) -> Row:
    """The whole search of a picture, with the frames around the best places, against one of all frames in memory; and
    how often both find the same frame in the films that are searched in both ways."""
    some = MadeUpStudied(FILMS, studied.names[:NUM_PLAIN])
    films = [some.features(film, np.arange(len(some.times(film)))) for film in range(NUM_PLAIN)]

    def plainly(asked: np.ndarray = asked) -> np.ndarray:
        """The film and the frame most like each, (Q, 2)."""
        similarity = np.stack([unit(film) @ asked.T for film in films])  # (films, frames, Q)
        return np.stack(np.unravel_index(similarity.reshape(-1, len(asked)).argmax(0), similarity.shape[:2]), 1)

    ours, plain = take_turns([lambda: find_places(store, studied, asked, NUM_FINDS), plainly])
    equal = []
    with tempfile.TemporaryDirectory() as folder:
        store_of_some = open_store(Path(folder) / "frames.store", some)
        for cosine in COSINES:
            questions = draw(some, NUM_QUESTIONS, cosine)[0]
            found = np.array([places[0][:2] for places in find_places(store_of_some, some, questions, 3)])
            equal.append(f"{cosine:g}: {(found == plainly(questions)).all(1).sum()}")
    note = f"{note.format(ours)}; in {NUM_PLAIN} films the same frame as by all: {', '.join(equal)}"
    what, rival = f"a picture looked up in {len(studied.names):,} films", f"all frames ({NUM_PLAIN} films, scaled)"
    return Row(what, rival, ours, plain * len(studied.names) / NUM_PLAIN, 10, note=note)


def ways(store: Store, path: Path, asked: np.ndarray) -> Iterator[Row]:
    """Ways to search the rows of the store."""

    def search_rows(asked: np.ndarray = asked) -> None:
        for similarity in similarities(store, asked):
            similarity.argmax()

    def one_by_one() -> None:
        for question in asked:
            search_rows(question[None])

    def at_once() -> None:
        (store.features.float() @ torch.from_numpy(asked[0])).argmax()

    ours, plain = take_turns([lambda: search_rows(asked[:1]), at_once], 5)
    yield Row("  its rows searched", "all in full precision at once", ours, plain, 1, note=f"{1000 * ours:.0f} ms")
    ours, plain = take_turns([search_rows, one_by_one])
    note = f"{1000 * ours / len(asked):.0f} ms a picture"
    yield Row(f"  {len(asked)} pictures together", "one after the other", ours, plain, 2, note=note)
    if importlib.util.find_spec("faiss"):
        lists = InvertedLists(path, store)

        def by_lists(asked: np.ndarray = asked) -> list[np.ndarray]:
            return list(lists.nearest(asked, NUM_FINDS))

        exact = [most_similar(similarity, NUM_FINDS) for similarity in similarities(store, asked)]
        found = [np.isin(rows, of_lists).mean() for rows, of_lists in zip(exact, by_lists(), strict=True)]
        ours, plain = take_turns([lambda: by_lists(asked[:1]), lambda: search_rows(asked[:1])], 5)
        note = f"{1000 * ours:.0f} ms, finds {np.mean(found):.1%} of the {NUM_FINDS} nearest rows"
        yield Row("  its rows by inverted lists of faiss", "searched exactly", ours, plain, 5, note=note)


def recall(store: Store, studied: MadeUpStudied) -> str:
    """How many of the frames asked about are found, by how far they were spoiled; in words."""
    told = []
    for cosine in COSINES:
        asked, films, frames = draw(studied, NUM_QUESTIONS, cosine)
        found = find_places(store, studied, asked, 3)
        is_right = [is_near(places[0], film, frame) for places, film, frame in zip(found, films, frames, strict=True)]
        told.append(f"{cosine:g}: {sum(is_right)}")
    return ", ".join(told)


def is_near(place: Place, film: int, frame: int) -> bool:
    return place.film == film and abs(place.time_s - frame / FPS) <= NEAR_S


def draw(studied: MadeUpStudied, num: int, cosine: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames to ask about, (num, D) of length 1, spoiled by noise; their films and their numbers, (num,) each."""
    rng = np.random.default_rng(0)
    films = rng.integers(0, len(studied.names), num)
    frames = rng.integers(0, len(studied.times(0)), num)
    true = unit(np.concatenate([studied.features(film, frames[k : k + 1]) for k, film in enumerate(films)]))
    noise = rng.normal(size=true.shape)
    noise = unit(noise - (noise * true).sum(1, keepdims=True) * true)
    return (cosine * true + np.sqrt(1 - cosine**2) * noise).astype(np.float32), films, frames


def forget(path: Path) -> None:
    """Let the system hold nothing of a file that is not mapped, as before it was ever read."""
    number = os.open(path, os.O_RDONLY)
    os.fsync(number)
    os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(number)
