"""What is said of one frame of a stream: an answer, and when the frame was seen."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recognition.streaming.event import EPSILON_S, NEAR_S

NUM_VOTERS = 8
Numbers = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Answer:
    """What is said of a frame. The fields are the columns of answers.csv.

    Attributes:
        time_s: of capture, in the stream's time.
        logit: positive for old.
        says_old: whether that exceeds the threshold.
        seen_s: when it was seen, by the model's own look-up; None without one, or where nothing was found.
        ring_similarity, ring_seen_s: cosine with the nearest frame of the plain ring, and that frame's time.
        latency_ms: from capture to answer.
        dropped_before: frames passed over since the answer before.
    """

    time_s: float
    logit: float
    says_old: bool
    seen_s: float | None = None
    ring_similarity: float | None = None
    ring_seen_s: float | None = None
    latency_ms: float | None = None
    dropped_before: int = 0


def seen_time(times_s: Numbers, similarities: Numbers | None = None) -> float | None:
    """When a frame was seen, by the times of the frames that a look-up has found for it, the most similar first.

    The first NUM_VOTERS have a say, each with the weight of its similarity, all alike if there is none. It is the time
    of the most similar one that more than half of the weight lies within NEAR_S of, itself included. If there is none,
    because something was seen more than once or its neighbours do not resemble it, it is that of the one with the most
    weight. Times that are nan, of frames no longer kept, count as not found; None if nothing was.
    """
    weights = [1.0] * len(times_s) if similarities is None else [max(float(weight), 0.0) for weight in similarities]
    pairs = zip(list(times_s)[:NUM_VOTERS], weights[:NUM_VOTERS], strict=True)
    found = [(float(time_s), weight) for time_s, weight in pairs if not math.isnan(time_s)]
    if not found:
        return None
    support = [
        sum(weight for other_s, weight in found if abs(other_s - time_s) <= NEAR_S + EPSILON_S) for time_s, _ in found
    ]
    half = sum(weight for _, weight in found) / 2
    most = next((number for number, weight in enumerate(support) if weight > half), support.index(max(support)))
    return found[most][0]
