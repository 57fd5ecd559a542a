"""Answers of a stream, one at a time, to events: when something was there again, and since when it was known.

Times are seconds of the stream. Two that differ by less than a microsecond are equal, whatever fractions of a second
do to the last digits of a sum.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from recognition.streaming.event import EPSILON_S, Event, Running


@dataclass(frozen=True)
class EventRules:
    """What makes an event.

    The seconds are meant for several answers a second. A slower stream wants longer ones, as an answer that comes
    `join_s` or more after the one before begins the stream anew.

    Attributes:
        threshold: an event opens when `num_opening` of the last `num_recent` answers exceed it, and starts with the
            first of those.
        closing: an open one closes when no answer of the last `close_s` exceeds this, and ends with the last that did;
            the threshold itself if not given.
        join_s: two that are less than this apart are one.
        shortest_s: what is shorter, after joining, is none.
    """

    threshold: float = 0.0
    closing: float | None = None
    num_opening: int = 3
    num_recent: int = 5
    close_s: float = 1.0
    join_s: float = 2.0
    shortest_s: float = 0.3

    def __post_init__(self) -> None:
        if not (math.isfinite(self.threshold) and math.isfinite(self.closing_level)):
            raise ValueError("threshold and closing must be finite")
        if self.closing_level > self.threshold:
            raise ValueError(f"closing must not be above the threshold {self.threshold:g}, found {self.closing:g}")
        if not 1 <= self.num_opening <= self.num_recent:
            raise ValueError(f"num_opening must be from 1 to {self.num_recent}, found {self.num_opening}")
        if not 0 < self.close_s <= self.join_s:
            raise ValueError(f"close_s must be above 0 and at most join_s {self.join_s:g}, found {self.close_s:g}")

    @property
    def closing_level(self) -> float:
        """What an answer must exceed to keep an event open."""
        return self.threshold if self.closing is None else self.closing


class Events:
    """Finds the events of a stream as its answers come. One is given once it is certain that nothing joins it."""

    def __init__(self, rules: EventRules, source: str = ""):
        self.rules, self.source = rules, source
        self._running: Running | None = None
        self._is_open = False
        self._recent: list[tuple[float, float, float | None]] = []  # answers since the last event closed
        self.last_s: float | None = None  # the time of the last answer

    @property
    def is_open(self) -> bool:
        """Whether an event is going on."""
        return self._is_open

    @property
    def current(self) -> Event | None:
        """The event that goes on, or that another may still join, as it is known so far."""
        return self._running.ended(self.source) if self._running else None

    @property
    def next_start_s(self) -> float:
        """No event that is still to be given starts before this, and all that were given did."""
        if self._running:
            return self._running.start_s
        hot = self._exceeding()
        return hot[0][0] if hot else -math.inf if self.last_s is None else self.last_s

    def add(self, time_s: float, logit: float, seen_s: float | None = None) -> Event | None:
        """Take the next answer; the event that has become certain with it, if any.

        Args:
            time_s: not before that of the last answer.
            logit: positive for old.
            seen_s: when the frame was seen before, if that is known.

        Raises ValueError for times that run back, and for numbers that are none.
        """
        known = (time_s, logit) if seen_s is None else (time_s, logit, seen_s)
        if not all(map(math.isfinite, known)):
            raise ValueError(f"answers must be finite numbers, found {known}")
        if self.last_s is not None and time_s < self.last_s:
            raise ValueError(f"answers must come in order, found one of {time_s:g} s after one of {self.last_s:g} s")
        done = None
        if self.last_s is not None and _has_passed(self.rules.join_s, self.last_s, time_s):
            done = self.finish()
        self.last_s = time_s
        if not self._is_open:
            return self._wait(time_s, logit, seen_s) or done
        assert self._running
        if logit > self.rules.closing_level:
            self._running.add(time_s, logit, seen_s)
        elif _has_passed(self.rules.close_s, self._running.end_s, time_s):
            self._is_open = False
        return done

    def finish(self) -> Event | None:
        """The stream ends, or is interrupted: the event that was not given yet, if any."""
        running, self._running, self._is_open, self._recent = self._running, None, False, []
        if running and _has_passed(self.rules.shortest_s, running.start_s, running.end_s):
            return running.ended(self.source)
        return None

    def state(self) -> dict[str, Any]:
        """All that going on needs, as JSON can say it. Events that were given are not in it."""
        running = asdict(self._running) if self._running else None
        recent = [list(answer) for answer in self._recent]
        return {"running": running, "is_open": self._is_open, "recent": recent, "last_s": self.last_s}

    def go_on(self, state: Mapping[str, Any]) -> None:
        """Take over a state. Raises ValueError if it is none."""
        try:
            running = Running(**state["running"]) if state["running"] is not None else None
            recent = [(time_s, logit, seen_s) for time_s, logit, seen_s in state["recent"]]
            is_open, last_s = bool(state["is_open"]), state["last_s"]
            numbers = [number for answer in [*recent, (last_s,)] for number in answer if number is not None]
            if running:
                numbers += running.numbers()
            if (is_open and not running) or not all(map(math.isfinite, numbers)):
                raise ValueError("it contradicts itself")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is no state of a stream's events ({error})") from None
        self._running, self._recent, self._is_open, self.last_s = running, recent, is_open, last_s

    def _wait(self, time_s: float, logit: float, seen_s: float | None) -> Event | None:
        """An answer while no event is open: it may open one, or join the last, or make that certain."""
        self._recent = [*self._recent, (time_s, logit, seen_s)][-self.rules.num_recent :]
        hot, done = self._exceeding(), None
        opens = len(hot) >= self.rules.num_opening
        # What exceeds the threshold may yet be the start of one that joins, though it opens later.
        next_s = hot[0][0] if hot else time_s
        if self._running and _has_passed(self.rules.join_s, self._running.end_s, next_s):
            recent = self._recent
            done = self.finish()
            self._recent = recent
        if opens:
            self._running = self._running or Running(next_s, next_s)
            for answer in hot:
                self._running.add(*answer)
            self._is_open, self._recent = True, []
        return done

    def _exceeding(self) -> list[tuple[float, float, float | None]]:
        return [answer for answer in self._recent if answer[1] > self.rules.threshold]


def _has_passed(duration_s: float, start_s: float, now_s: float) -> bool:
    return now_s - start_s >= duration_s - EPSILON_S
