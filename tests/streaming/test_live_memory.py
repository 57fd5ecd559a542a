"""A memory of a stream: studied late, asked at once, and kept in a file."""

from pathlib import Path

import numpy as np
import pytest

from recognition.common.command_line import InputError
from recognition.streaming.memory import LiveMemory, MemoryRules
from recognition.streaming.trained import TrainedRun, open_trained

RATE = 4  # frames a second


@pytest.fixture(scope="module")
def trained(live_run: Path) -> TrainedRun:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(live_run)
        return open_trained(Path("runs/knn"))


def frames(trained: TrainedRun, num: int, seed: int = 0) -> np.ndarray:
    """Distinct frames (num, D), drawn as those that the run has learned from lie on average."""
    mean, deviation = trained.model.feature_mean.numpy(), trained.model.feature_deviation.numpy()
    return np.random.default_rng(seed).normal(mean, deviation, (num, trained.num_features)).astype(np.float32)


def watched(trained: TrainedRun, stream: np.ndarray, **rules: object) -> list:
    memory = LiveMemory(trained.stream(), trained.num_features, MemoryRules(delay_s=10.0, **rules))
    return [memory.see(frame, k / RATE) for k, frame in enumerate(stream)]


def test_repeat_after_the_delay_is_found_with_its_time_and_none_before(trained: TrainedRun):
    shown = frames(trained, 200)
    stream = np.concatenate([shown, shown[190:], shown[40:80]])  # those come again after 2.5 s, these after 42.5
    told = watched(trained, stream)
    others = told[41:210]
    for k, answer in enumerate(told[210:]):
        assert answer.ring_similarity > max(other.ring_similarity for other in others)
        assert answer.logit > max(other.logit for other in others)
        assert answer.seen_s == answer.ring_seen_s == (40 + k) / RATE


def test_nothing_is_found_before_the_first_delay_has_passed(trained: TrainedRun):
    told = watched(trained, frames(trained, 45))
    assert [answer.ring_similarity is None for answer in told] == [True] * 40 + [False] * 5
    assert all(answer.seen_s is None for answer in told[:40])


def test_memory_that_only_asks_stays_as_it_is(trained: TrainedRun):
    shown = frames(trained, 60)
    memory = LiveMemory(trained.stream(), trained.num_features, MemoryRules(studies=False))
    for k, frame in enumerate(shown[:20]):
        memory.study(frame, k / RATE)
    first = [memory.ask(frame) for frame in shown]
    assert [memory.see(frame, 100 + k) for k, frame in enumerate(shown)] == first
    assert memory.num_studied == 20


@pytest.mark.parametrize("cut", [3, 44, 90])
def test_memory_from_a_file_goes_on_as_if_nothing_had_been(trained: TrainedRun, tmp_path: Path, cut: int):
    shown = frames(trained, 60)
    stream = np.concatenate([shown, shown])
    memory = LiveMemory(trained.stream(), trained.num_features, MemoryRules())
    for k, frame in enumerate(stream[:cut]):
        memory.see(frame, k / RATE)
    memory.save(tmp_path / "film.memory", {"events": {"a": 1}})
    again = LiveMemory(trained.stream(), trained.num_features, MemoryRules())
    assert again.load(tmp_path / "film.memory") == {"events": {"a": 1}}
    assert again.last_s == (cut - 1) / RATE
    for k, frame in enumerate(stream[cut:], cut):
        assert again.see(frame, k / RATE) == memory.see(frame, k / RATE)


def test_memory_of_a_ring_of_another_size_is_refused(trained: TrainedRun, tmp_path: Path):
    memory = LiveMemory(trained.stream(), trained.num_features, MemoryRules(num_ring=30))
    for k, frame in enumerate(frames(trained, 80)):
        memory.see(frame, k / RATE)
    memory.save(tmp_path / "film.memory", {})
    with pytest.raises(InputError, match=r"film\.memory: this is no state of a ring of 20 frames"):
        LiveMemory(trained.stream(), trained.num_features, MemoryRules(num_ring=20)).load(tmp_path / "film.memory")
    (tmp_path / "film.memory").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="holds no state of a stream"):
        LiveMemory(trained.stream(), trained.num_features, MemoryRules()).load(tmp_path / "film.memory")


def test_picture_that_stands_still_is_passed_over_only_if_asked(trained: TrainedRun):
    moving, [still] = frames(trained, 50), frames(trained, 1, seed=1)
    stream = np.concatenate([moving, np.tile(still, (100, 1)), moving[:10]])
    assert None not in watched(trained, stream)
    told = watched(trained, stream, ignores_still=True)
    assert [answer is None for answer in told] == [False] * 90 + [True] * 60 + [False] * 10
    assert all(answer.ring_similarity > 0.999 for answer in told[150:])
