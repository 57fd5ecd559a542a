"""How well a memory finds repeats in a stream: pure functions of its answers.

What is scored are events. A repeat is found if an event overlaps it. But one that lies mostly outside of repeats finds
only that which it overlaps longest: else whoever calls everything old, which is one long event, would find them all. An
event that overlaps no repeat is false.

The threshold is swept over the stream's own answers from the highest down. Recall at so many false events an hour is
the best that was reached before there was one more. Closing levels follow the threshold as in calibration, the answers
outside of repeats standing for the stream in which nothing returns.

Intervals: the bootstrap over repeats, see `signal_detection`, the threshold staying as it is.

Shapes: N answers, R repeats, K levels of the threshold.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isnan
from typing import Any

import numpy as np

from recognition.evaluation.signal_detection import rate_interval, resample_episodes
from recognition.streaming.checking.calibration import HEIGHT, HOUR_S, closing_of
from recognition.streaming.event import EPSILON_S, NEAR_S, Event
from recognition.streaming.events import EventRules, Events

RATES = (0.0, 1.0, 6.0)  # false events an hour
ROUNDING = 1.02  # of how many false events there may be: streams of all but an hour are taken for one
NUM_LEVELS = 80  # of the threshold, among the answers in repeats and again among those outside
Row = dict[str, Any]


@dataclass(frozen=True)
class Repeat:
    """Something that a stream shows again, from `start_s` to `end_s`.

    lag_s: from what is repeated to this. group: the lag that was meant, in words. change: what was made of it.
    """

    start_s: float
    end_s: float
    lag_s: float
    group: str
    change: str


@dataclass(frozen=True, eq=False)
class Answers:
    """What was said of a stream, or of several that follow each other, frame by frame: (N,) each.

    seen_s: when a frame was seen; nan where that is not told.
    """

    times_s: np.ndarray
    logits: np.ndarray
    seen_s: np.ndarray

    @property
    def hours(self) -> float:
        """How long the stream is: its number of frames times the usual time between them."""
        return len(self.times_s) * float(np.median(np.diff(self.times_s))) / HOUR_S


@dataclass(frozen=True, eq=False)
class Sweep:
    """What is found at each level of the threshold, from the highest down."""

    levels: np.ndarray  # (K,)
    found: np.ndarray  # (K, R) bool
    num_false: np.ndarray  # (K,)

    def best(self, most_false: float) -> np.ndarray:
        """(R,) what is found at the level with the most, of those above the first with more false events."""
        too_many = np.flatnonzero(self.num_false > ROUNDING * most_false)
        above = self.found[: too_many[0] if too_many.size else None]
        return above[above.sum(1).argmax()] if len(above) else np.zeros(self.found.shape[1], bool)

    def mean_precision(self) -> float:
        """Precision averaged over recall: each level weighs as much as the recall that it adds."""
        num_found = self.found.sum(1)
        with np.errstate(invalid="ignore"):
            precision = np.nan_to_num(num_found / (num_found + self.num_false))
        gained = np.diff(np.maximum.accumulate(num_found), prepend=0)
        return float(gained @ precision / self.found.shape[1])


def describe(answers: Answers, repeats: Sequence[Repeat], rates: Sequence[float] = RATES) -> Row:
    """All that is told of a memory at work on a stream.

    recall: a row for each of `rates`: false_per_hour, recall, recall_interval, by_lag and by_change, rows of
        {name, recall, recall_interval, num};
    mean_precision: over all levels;
    curve: {false_per_hour, recall}, what can be had at how many false events;
    when: see `when_errors`.

    Raises ValueError if there is no repeat, or not two frames.
    """
    if not repeats or len(answers.times_s) < 2:
        raise ValueError("a stream needs two frames and a repeat to be scored")
    swept, hours = sweep(answers, repeats), answers.hours
    return {
        "recall": [{"false_per_hour": rate, **recall_row(swept.best(rate * hours), repeats)} for rate in rates],
        "mean_precision": swept.mean_precision(),
        "curve": [
            {"false_per_hour": most / hours, "recall": float(swept.best(most).mean())}
            for most in np.unique(swept.num_false[swept.num_false <= max(1.0, 10 * max(rates) * hours)]).tolist()
        ],
        "when": when_errors(answers, repeats),
    }


def chance(repeats: Sequence[Repeat], hours: float, rates: Sequence[float] = RATES) -> Row:
    """The same for who knows nothing and strews events without length over the stream, as many as may be false."""
    lengths_h = np.array([repeat.end_s - repeat.start_s for repeat in repeats]) / HOUR_S
    rows = [
        {"false_per_hour": rate, **recall_row(-np.expm1(-rate * lengths_h), repeats, has_interval=False)}
        for rate in rates
    ]
    return {
        "recall": rows,
        "mean_precision": float(lengths_h.sum() / hours),
        "curve": [{"false_per_hour": row["false_per_hour"], "recall": row["recall"]} for row in rows],
        "when": when_errors(Answers(np.zeros(0), np.zeros(0), np.zeros(0)), []),
    }


def at_threshold(answers: Answers, repeats: Sequence[Repeat], rules: EventRules) -> Row:
    """What is found with a threshold of before: threshold, recall with its interval, false_per_hour."""
    found, num_false = matched(events_of(answers, rules), repeats)
    return {"threshold": rules.threshold, **_recall(found), "false_per_hour": num_false / answers.hours}


def recall_row(found: np.ndarray, repeats: Sequence[Repeat], has_interval: bool = True) -> Row:
    """Recall of what was found (R,), or with which chance, with its interval, of all and by lag and change."""
    row = _recall(found, has_interval)
    for key, groups in _groups(repeats).items():
        row[key] = [{"name": name, **_recall(found[those], has_interval)} for name, those in groups.items()]
    return row


def when_errors(answers: Answers, repeats: Sequence[Repeat]) -> Row:
    """How far the told times lie from the true ones, over the frames of repeats for which one is told.

    median_s: of the errors; within, within_interval: the share within NEAR_S of the truth; told: the share of the
    frames for which a time is told. None where there is none.
    """
    errors = []
    for repeat in repeats:
        inside = _inside(answers.times_s, repeat)
        errors.append(np.abs(answers.seen_s[inside] - (answers.times_s[inside] - repeat.lag_s)))
    known = [error[~np.isnan(error)] for error in errors]
    if not sum(map(len, known)):
        return {"median_s": None, "within": None, "within_interval": None, "told": 0.0}
    near = np.array([(error <= NEAR_S + EPSILON_S).sum() for error in known])
    total = np.array(list(map(len, known)))
    return {
        "median_s": float(np.median(np.concatenate(known))),
        "within": float(near.sum() / total.sum()),
        "within_interval": rate_interval(near, total, resample_episodes(len(total))),
        "told": float(total.sum() / sum(map(len, errors))),
    }


def sweep(answers: Answers, repeats: Sequence[Repeat], rules: EventRules | None = None) -> Sweep:
    """What is found at levels of the threshold that are answers: the highest few all, of the others every so many, in
    and outside of repeats."""
    in_repeat = np.zeros(len(answers.times_s), bool)
    for repeat in repeats:
        in_repeat |= _inside(answers.times_s, repeat)
    outside = answers.logits[~in_repeat]
    height = float(np.quantile(outside if outside.size else answers.logits, HEIGHT))
    chosen = [_spread(part) for part in (outside, answers.logits[in_repeat]) if part.size]
    levels = np.unique(np.concatenate(chosen))[::-1]
    found, num_false = [], []
    for level in levels.tolist():
        at_level = replace(rules or EventRules(), threshold=level, closing=closing_of(level, height))
        which, wrong = matched(events_of(answers, at_level), repeats)
        found.append(which)
        num_false.append(wrong)
    return Sweep(levels, np.array(found), np.array(num_false))


def events_of(answers: Answers, rules: EventRules) -> list[Event]:
    """All events of a stream. Answers that can neither open, keep open nor close one are passed over."""
    is_warm = answers.logits > rules.closing_level
    places = np.arange(len(is_warm))
    last = np.maximum.accumulate(np.where(is_warm, places, -1))  # the last warm answer up to each, -1 before the first
    since_s = answers.times_s - answers.times_s[last]
    matters = (last >= 0) & ((places - last <= rules.num_recent) | (since_s <= rules.join_s + EPSILON_S))
    chosen = (array[matters].tolist() for array in (answers.times_s, answers.logits, answers.seen_s))
    events = Events(rules)
    given = [
        events.add(time_s, logit, None if isnan(seen_s) else seen_s)
        for time_s, logit, seen_s in zip(*chosen, strict=True)
    ]
    return [event for event in [*given, events.finish()] if event]


def matched(events: Sequence[Event], repeats: Sequence[Repeat]) -> tuple[np.ndarray, int]:
    """Which repeats are found (R,), and how many events are false."""
    found = np.zeros(len(repeats), bool)
    if not events:
        return found, 0
    first, last = (np.array([getattr(event, name) for event in events])[:, None] for name in ("start_s", "end_s"))
    starts, ends = (np.array([getattr(repeat, name) for repeat in repeats]) for name in ("start_s", "end_s"))
    overlap = np.minimum(last, ends) - np.maximum(first, starts)  # (events, R)
    touches = overlap >= -EPSILON_S
    is_right, is_mostly_in = touches.any(1), 2 * overlap.clip(0).sum(1) >= (last - first)[:, 0]
    found[overlap.argmax(1)[is_right]] = True
    found |= touches[is_mostly_in].any(0)
    return found, int((~is_right).sum())


def counted(repeats: Sequence[Repeat]) -> dict[str, dict[str, int]]:
    """How many repeats there are of each lag and each change."""
    return {key: {name: int(those.sum()) for name, those in groups.items()} for key, groups in _groups(repeats).items()}


def _groups(repeats: Sequence[Repeat]) -> dict[str, dict[str, np.ndarray]]:
    """Which repeats (R,) are of each lag, the shortest first, and of each change."""
    lags = dict.fromkeys(repeat.group for repeat in sorted(repeats, key=lambda repeat: repeat.lag_s))
    changes = sorted({repeat.change for repeat in repeats})
    return {
        "by_lag": {name: np.array([repeat.group == name for repeat in repeats]) for name in lags},
        "by_change": {name: np.array([repeat.change == name for repeat in repeats]) for name in changes},
    }


def _recall(found: np.ndarray, has_interval: bool = True) -> Row:
    ends = rate_interval(found.astype(float), np.ones(len(found)), resample_episodes(len(found)))
    return {"recall": float(found.mean()), "recall_interval": ends if has_interval else None, "num": len(found)}


def _inside(times_s: np.ndarray, repeat: Repeat) -> np.ndarray:
    return (times_s >= repeat.start_s - EPSILON_S) & (times_s <= repeat.end_s + EPSILON_S)


def _spread(values: np.ndarray) -> np.ndarray:
    """Up to NUM_LEVELS of the values: the highest few all, then fewer and fewer of those that are alike in rank."""
    return np.sort(values)[::-1][np.unique(np.geomspace(1, len(values), NUM_LEVELS).round().astype(int) - 1)]
