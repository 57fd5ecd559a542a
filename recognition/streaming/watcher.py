"""From a picture to an event: one memory, its threshold and its events, on one source after another."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recognition.streaming.answers import Answer
from recognition.streaming.event import EPSILON_S, Event
from recognition.streaming.events import Events
from recognition.streaming.frames import Frame, Source
from recognition.streaming.latency import Latency
from recognition.streaming.memory import LiveMemory

FIRST_S = 1.0  # of a live source is not asked about: cameras adapt to the light
SAVED_EVERY_S = 600.0


@dataclass(frozen=True)
class Seen:
    """What is known after a frame.

    Attributes:
        frame: it, at its time in the stream.
        answer: None where the picture stood still.
        event: one that has become certain, if any.
    """

    frame: Frame
    answer: Answer | None
    event: Event | None


class Watcher:
    """A memory at work on sources, one after the other.

    Times are the stream's. They go on from one source to the next, a delay later, so that nothing of the one is taken
    for a moment of the other.

    Args:
        memory, events: of it.
        file: where the memory is kept; what is there already is gone on with.

    Attributes:
        was_there: whether something was.
        is_going_on: whether this source goes on where it was left in its midst.

    Raises InputError if the file holds no memory, or one of another run.
    """

    def __init__(self, memory: LiveMemory, events: Events, file: Path | None = None):
        self.memory, self.events, self.latency = memory, events, Latency()
        self.num_answers = self.num_events = 0
        self.is_going_on = False
        self._file, self._saved_s = file, time.monotonic()
        self._source, self._is_live, self._begins_s = "", False, 0.0
        self._first_s: float | None = None
        self.was_there = bool(file and file.exists())
        self._notes: Mapping[str, Any] = memory.load(file) if file and self.was_there else {}

    @property
    def answers_a_second(self) -> float:
        """Of the stream, nan before the second."""
        if self._first_s is None or self.events.last_s is None or self.events.last_s <= self._first_s:
            return math.nan
        return (self.num_answers - 1) / (self.events.last_s - self._first_s)

    def begin(self, source: Source) -> None:
        """Turn to a source: from its start or, of a film that was left in its midst, from there on."""
        notes, last_s = self._notes, self.memory.last_s
        self._source, self._is_live = source.name, source.is_live
        self.is_going_on = notes.get("unfinished") == source.name and not source.is_live
        if self.is_going_on:
            self._begins_s = float(notes["begins_s"])
            self.events.go_on(notes["events"])
        elif last_s is not None:
            self.memory.study_rest()
            self._begins_s = last_s + max(self.memory.rules.delay_s, self.events.rules.join_s)
        self.events.source = source.name

    @property
    def next_start_s(self) -> float:
        """No event that is still to be given starts before this, and all that were given did."""
        return self.events.next_start_s if self.is_going_on else self._begins_s

    def is_due(self, frame: Frame) -> bool:
        """Whether a frame of the source is to be asked about."""
        if self._is_live:
            return frame.time_s >= FIRST_S
        last_s = self.memory.last_s
        return not self.is_going_on or last_s is None or self._begins_s + frame.time_s > last_s + EPSILON_S

    def see(self, frame: Frame, features: np.ndarray) -> Seen:
        """Ask about a frame with these features (D,)."""
        time_s = self._begins_s + frame.time_s
        told = self.memory.see(features, time_s)
        frame = replace(frame, time_s=time_s)
        if told is None:
            return Seen(frame, None, None)
        latency_s = time.monotonic() - frame.taken_s
        self.latency.add(latency_s, frame.dropped_before)
        says_old = told.logit > self.events.rules.threshold
        answer = Answer(
            time_s,
            told.logit,
            says_old,
            told.seen_s,
            told.ring_similarity,
            told.ring_seen_s,
            1e3 * latency_s,
            frame.dropped_before,
        )
        event = self.events.add(time_s, told.logit, told.ring_seen_s if told.seen_s is None else told.seen_s)
        self.num_answers += 1
        self._first_s = time_s if self._first_s is None else self._first_s
        self.num_events += event is not None
        if self._file and time.monotonic() - self._saved_s > SAVED_EVERY_S:
            self._save("" if self._is_live else self._source)
        return Seen(frame, answer, event)

    def end(self, is_interrupted: bool) -> Event | None:
        """The source is over, or left: keep the memory, if it has a file; the last event, unless the source is to be
        gone on with."""
        if is_interrupted and self._file and not self._is_live:
            self._save(self._source)
            return None
        event = self.events.finish()
        self.num_events += event is not None
        if self._file:
            self._save("")
        return event

    def _save(self, unfinished: str) -> None:
        assert self._file is not None
        notes = {"unfinished": unfinished, "begins_s": self._begins_s, "events": self.events.state()}
        self.memory.save(self._file, notes)
        self._saved_s = time.monotonic()
