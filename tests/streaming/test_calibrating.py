"""Pieces of films in which nothing returns, and false events that are as many as were asked for."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom

from models.streaming import State
from recognition.streaming.checking.asked import NOTHING_KEPT, ask_all
from recognition.streaming.checking.calibrating import answered, pieces
from recognition.streaming.checking.calibration import Window, calibrate
from recognition.streaming.checking.check_scores import Answers, events_of
from recognition.streaming.memory import LiveMemory, MemoryRules

DELAY_S, RATE, WIDTH = 2.0, 10.0, 12


class Silent:
    """In place of a model on a stream: it knows nothing."""

    def __init__(self) -> None:
        self.model = torch.nn.Linear(1, 1)

    def start(self) -> State:
        return State([], 1)

    def study(self, state: State, features: torch.Tensor) -> State:
        state.num_studied += 1
        return state

    def ask(self, state: State, features: torch.Tensor) -> torch.Tensor:
        return features[:, 0]

    def when(self, state: State) -> None:
        return None


class SmoothFilms:
    """In place of a bank: films of which each frame resembles the one before, in shots of two seconds."""

    def __init__(self, lengths: list[int], seed: int):
        self.num_frames, self.seed = np.array(lengths), seed

    def gather(self, video: np.ndarray, frame: np.ndarray) -> torch.Tensor:
        frames = []
        for film, place in zip(video.tolist(), frame.tolist(), strict=True):
            shot = np.random.default_rng((self.seed, film, place // 20)).normal(size=WIDTH)
            frames.append(shot + 0.3 * np.random.default_rng((self.seed, film, place, 1)).normal(size=WIDTH))
        return torch.tensor(np.array(frames))


def smooth(lengths: list[int], seed: int = 0, subsample: int = 1) -> Any:
    rates = np.full(len(lengths), RATE * subsample)
    return SimpleNamespace(bank=SmoothFilms(lengths, seed), rates=rates, subsample=subsample)


def memory(num_ring: int = 1000) -> LiveMemory:
    return LiveMemory(Silent(), WIDTH, MemoryRules(DELAY_S, num_ring=num_ring))  # type: ignore[arg-type]


def ring_windows(seed: int, num_films: int) -> list[Window]:
    films = smooth([380] * num_films, seed)  # ten pieces, and gaps
    drawn = pieces(films, DELAY_S, 1.0, seed)
    return [window for _, window in answered(memory(500), films, drawn, asks_ring=True)]


@pytest.mark.parametrize("subsample", [1, 3])
def test_no_piece_is_longer_than_the_delay_and_those_of_a_film_keep_their_distance(subsample: int):
    films = smooth([200, 7, 331, 20 * subsample], subsample=subsample)
    drawn = pieces(films, DELAY_S, 1.0, 0)
    for video, num_frames in enumerate(films.bank.num_frames.tolist()):
        parts = sorted((frames.tolist() for which, frames in drawn if which == video), key=min)
        num_shown = -(-num_frames // subsample)
        assert {len(part) for part in parts} == {min(20, num_shown)}
        assert all((np.diff(part) == subsample).all() for part in parts)
        assert all(next_[0] - part[-1] == 21 * subsample for part, next_ in pairwise(parts))
        assert parts[0][0] == 0
        assert num_frames - parts[-1][-1] <= 41 * subsample


def test_pieces_come_in_an_order_of_their_seed_up_to_so_many_hours():
    films = smooth([1000] * 4)
    first, again, other = (pieces(films, DELAY_S, 1.0, seed) for seed in (0, 0, 1))
    starts = [[(video, frames[0]) for video, frames in drawn] for drawn in (first, again, other)]
    assert starts[0] == starts[1] != starts[2]
    assert starts[0] != sorted(starts[0])
    assert sorted(starts[0]) == sorted(starts[2])
    few = pieces(films, DELAY_S, 31 / 3600, 0)
    assert [video for video, _ in few] == [video for video, _ in first[: len(few)]]
    assert 31 <= sum(len(frames) for _, frames in few) / RATE < 31 + DELAY_S


def test_nothing_of_a_piece_is_studied_before_it_is_over_and_time_goes_on():
    films = smooth([200, 90])
    drawn = pieces(films, DELAY_S, 1.0, 0)
    live = memory()
    seen, before_s = 0, 0.0
    for (_, frames), (window, of_ring) in zip(drawn, answered(live, films, drawn, asks_ring=True), strict=True):
        assert live.num_studied <= seen
        seen += len(frames)
        times_s, logits = of_ring
        assert len(window[0]) == len(times_s) == len(frames)
        assert times_s[0] == pytest.approx(before_s)
        assert (np.asarray(logits) < 0.99).all()
        before_s = times_s[-1] + 1 / RATE
    assert seen == sum(len(frames) for _, frames in drawn) > 100


def test_false_events_on_other_films_are_within_the_binomial_interval_of_what_was_asked():
    per_hour, num_windows = 180.0, 300
    calibration = calibrate(ring_windows(0, 30), per_hour)
    assert calibration.num_windows == num_windows
    num_events = 0
    for times_s, logits in ring_windows(1, 30):
        window = Answers(np.asarray(times_s), np.asarray(logits), np.full(len(times_s), np.nan))
        num_events += bool(events_of(window, calibration.rules()))
    chance = -np.expm1(-per_hour * DELAY_S / 3600)
    # Both are samples of the same size, hence twice the variance of a binomial count: a wider interval.
    low, high = binom.interval(0.99, num_windows // 2, chance)
    assert 2 * low <= num_events <= 2 * high
    assert num_events > 0


def test_a_ring_that_need_not_be_asked_says_nothing_and_still_knows_times():
    features = np.random.default_rng(0).normal(size=(60, WIDTH))
    times_s = np.arange(60) / RATE
    live = memory()
    asked = ask_all(live, features, times_s, asks_ring=False)
    assert (asked.ring.logits == NOTHING_KEPT).all()
    assert np.isnan(asked.ring.seen_s).all()
    np.testing.assert_allclose(live.ring.times_of(np.arange(3)), times_s[:3])
    np.testing.assert_allclose(asked.model.logits, features[:, 0], rtol=1e-6)
    whole = ask_all(memory(), features, times_s)
    assert (whole.ring.logits[:20] == NOTHING_KEPT).all()
    assert (whole.ring.logits[20:] > NOTHING_KEPT).all()
