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


def seen_time(times_s: Numbers, similarities: Numbers) -> float | None:
    """When a frame was seen, by the times of the frames that a look-up has found for it, the most similar first.

    The first NUM_VOTERS have a say, each with the weight by which its similarity exceeds the least one; all alike, if
    there is nothing between them. Frames of networks all resemble each other, so that what counts is how much more some
    do. It is the time of the most similar one that more than half of the weight lies within NEAR_S of, itself included.
    If there is none, because something was seen more than once or its neighbours do not resemble it, it is that of the
    one with the most weight. Times that are nan, of frames no longer kept, count as not found; None if nothing was.
    """
    pairs = list(zip(list(times_s)[:NUM_VOTERS], list(similarities)[:NUM_VOTERS], strict=True))
    pairs = [(float(time_s), float(similarity)) for time_s, similarity in pairs if not math.isnan(time_s)]
    if not pairs:
        return None
    least = min(similarity for _, similarity in pairs)
    is_alike = max(similarity for _, similarity in pairs) == least
    found = [(time_s, 1.0 if is_alike else similarity - least) for time_s, similarity in pairs]
    support = [
        sum(weight for other_s, weight in found if abs(other_s - time_s) <= NEAR_S + EPSILON_S) for time_s, _ in found
    ]
    half = sum(weight for _, weight in found) / 2
    most = next((number for number, weight in enumerate(support) if weight > half), support.index(max(support)))
    return found[most][0]
