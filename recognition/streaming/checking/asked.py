"""A memory at work on a whole stream of features: all of its answers, and those of the plain ring beside it."""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from recognition.streaming.checking.check_scores import Answers
from recognition.streaming.memory import LiveMemory
from recognition.streaming.ring import FeatureRing

NOTHING_KEPT = -1.0  # the lowest cosine, for frames that came before there was anything to look up
NUM_TIMED = 50


@dataclass(frozen=True, eq=False)
class Asked:
    """What was said of a stream's frames, by the model and by the ring, whose logits are cosines."""

    model: Answers
    ring: Answers


class _NotAsked(FeatureRing):
    """A ring that is not searched, which takes long, and keeps the times of frames alone."""

    def ask(self, features: np.ndarray, num_finds: int = 8) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(0, np.float32), np.zeros(0, np.int64)


def ask_all(memory: LiveMemory, features: Iterable[np.ndarray], times_s: np.ndarray, asks_ring: bool = True) -> Asked:
    """Let a memory see the frames of a stream, features (D,) of each with times (N,), as in watching. Where another has
    asked the ring about the same stream, this one need not."""
    if not asks_ring and not isinstance(memory.ring, _NotAsked):
        memory.ring = _NotAsked(*memory.ring.features.shape)
    told = [memory.see(frame, float(time_s)) for frame, time_s in zip(features, times_s, strict=True)]
    rows = [
        (
            answer.logit,
            np.nan if answer.seen_s is None else answer.seen_s,
            NOTHING_KEPT if answer.ring_similarity is None else answer.ring_similarity,
            np.nan if answer.ring_seen_s is None else answer.ring_seen_s,
        )
        for answer in told
        if answer is not None
    ]
    assert len(rows) == len(times_s), "still frames are not passed over here"
    logits, seen_s, similarities, ring_seen_s = np.array(rows, float).reshape(-1, 4).T
    return Asked(Answers(times_s, logits, seen_s), Answers(times_s, similarities, ring_seen_s))


def step_ms(memory: LiveMemory, frame: np.ndarray) -> tuple[float, float]:
    """Milliseconds that the model, and that the ring, take to be asked about a frame (D,) and to study one, the memory
    being as full as it is. It is of no use afterwards."""
    stream, device = memory.stream, next(memory.stream.model.parameters()).device
    features = torch.from_numpy(np.asarray(frame, np.float32))[None].to(device)

    def model() -> None:
        float(stream.ask(memory.state, features))  # waits for a GPU
        memory.state = stream.study(memory.state, features)

    def ring() -> None:
        memory.ring.ask(frame)
        memory.ring.study(frame, 0.0)

    return _median_ms(model), _median_ms(ring)


def _median_ms(step: Callable[[], None]) -> float:
    seconds = []
    for _ in range(NUM_TIMED):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds)
