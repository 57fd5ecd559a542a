"""What is said of answers and events: the words that page, video and terminal share."""

import math

from recognition.streaming.answers import Answer
from recognition.streaming.event import EPSILON_S, Event

NUMBERS = {  # how those are called whose names are not words
    "studied": "frames studied",
    "still": "still frames passed over",
    "dropped_share": "dropped",
    "latency_median_ms": "latency, median",
    "latency_p95_ms": "latency, 95th percentile",
}


def clock(time_s: float) -> str:
    """A time of the stream: 02:13, or 1:02:13 from an hour on."""
    minutes, seconds = divmod(math.floor(abs(time_s) + EPSILON_S), 60)
    hours, minutes = divmod(minutes, 60)
    sign = "-" if time_s < -EPSILON_S else ""
    return f"{sign}{hours}:{minutes:02}:{seconds:02}" if hours else f"{sign}{minutes:02}:{seconds:02}"


def lasting(duration_s: float) -> str:
    """A duration in its two largest units: 13 s, 2 min 13 s, 1 h 2 min."""
    minutes, seconds = divmod(round(duration_s), 60)
    hours, minutes = divmod(minutes, 60)
    units = [(hours, "h"), (minutes, "min"), (seconds, "s")][0 if hours else 1 :][:2]
    return " ".join(f"{number} {unit}" for number, unit in units if number) or "0 s"


def seen_time_of(answer: Answer) -> float | None:
    """When a frame that is called old was seen, by the model's own look-up or else by the plain ring."""
    if not answer.says_old:
        return None
    return answer.ring_seen_s if answer.seen_s is None else answer.seen_s


def words_of(answer: Answer) -> str:
    """When a frame that is called old was seen: "seen 2 min 13 s ago" by the model's own look-up. A model without one
    knows that, not when: "nearest frame 2 min 13 s ago" by the plain ring. Empty where nothing is known."""
    seen_s = seen_time_of(answer)
    if seen_s is None:
        return ""
    return f"{'nearest frame' if answer.seen_s is None else 'seen'} {lasting(answer.time_s - seen_s)} ago"


def said(answer: Answer) -> str:
    """The answer and the probability that the model gives it: "old 0.93". A new one can have less than a half, where
    the threshold is above 0."""
    towards = answer.logit if answer.says_old else -answer.logit
    return f"{'old' if answer.says_old else 'new'} {(1 + math.tanh(towards / 2)) / 2:.2f}"


def words_of_event(event: Event) -> str:
    """What was there again: "02:13 to 02:17 again", or "this place, as at 02:13"."""
    if event.seen_start_s is None or event.seen_end_s is None:
        return "resembles what was seen"
    if event.kind == "replay":
        return f"{clock(event.seen_start_s)} to {clock(event.seen_end_s)} again"
    return f"this place, as at {clock(event.seen_start_s)}"


def words_of_number(name: str, value: float) -> tuple[str, str]:
    """What a number is of, and the number: ("latency, median", "85.2 ms"). Names in NUMBERS become words, others are
    left; those that end in _share are of shares, in _ms of milliseconds. A dash where there is no number."""
    words = NUMBERS.get(name, name)
    if not math.isfinite(value):
        return words, "–"
    if name.endswith("_share"):
        return words, f"{value:.1%}"
    text = f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 100 else f"{value:.3g}"
    return words, f"{text} ms" if name.endswith("_ms") else text
