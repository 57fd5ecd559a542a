"""A page about a stream, on this machine alone: the newest picture, a chart of answers, the list of events."""

import math
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np

from recognition.streaming.annotated_video import labelled
from recognition.streaming.answers import Answer
from recognition.streaming.event import EPSILON_S, Event
from recognition.streaming.page_server import PageServer
from recognition.streaming.words import clock, said, seen_time_of, words_of, words_of_event, words_of_number

CHART_S = 300  # of the stream that the chart shows
POINT_S = 0.05  # between two points of it, at least
MOST_EVENTS = 200  # that are listed
# An event that was not told for so many answers and seconds, as it was too short, is none.
LAPSE, LAPSE_S = 20, 2.5
QUIET_S = 5.0  # without news, after which a reader is tried, to see whether it is still there
THUMBNAIL_WIDTH = 160  # pixels
JPEG_QUALITY = 85


class Point(NamedTuple):
    """A point of the chart, and the number of the answer that it came with."""

    number: int
    time_s: float
    logit: float
    similarity: float | None


class LivePage:
    """Serves a page about a stream, and takes what there is to tell, from one thread, without ever waiting for readers.

    Readers find the newest: pictures are made into JPEG by the server's threads, when somebody looks, and what
    is kept for those who come later is bounded, whatever the stream's length.

    Args:
        port: of 127.0.0.1; 0 takes a free one, None the usual one if it is free.
        run_name, source_name: any texts.
        threshold: what a logit must exceed to be called old.
        num_thumbnails: small pictures, one of each second, that are kept so that the one of when something was seen
            can be shown beside it; the oldest go first.
        ring_threshold: the same of the similarity with the nearest frame of the plain ring, if it is known.

    Raises InputError if the port is taken.
    """

    def __init__(
        self,
        port: int | None,
        run_name: str,
        source_name: str,
        threshold: float,
        num_thumbnails: int = 0,
        ring_threshold: float | None = None,
    ):
        self._facts = {
            "run": run_name,
            "source": source_name,
            "threshold": threshold,
            "ring_threshold": ring_threshold,
            "chart_s": CHART_S,
            "has_thumbnails": num_thumbnails > 0,
        }
        self._changed = threading.Condition()
        self._is_closed = False
        self._num_told = 0  # answers and events
        self._num_shown = 0
        self._newest: tuple[np.ndarray, Answer] | None = None
        self._numbers: dict[str, float] = {}
        self._points: deque[Point] = deque()
        self._num_events = 0
        self._events: deque[dict[str, Any]] = deque(maxlen=MOST_EVENTS)
        self._running: tuple[dict[str, Any], int, float] | None = None  # an event, the answer and when it was last told
        self._num_thumbnails = num_thumbnails
        self._thumbnails: dict[int, bytes] = {}  # by the second
        self._encoding = threading.Lock()
        self._encoded = (0, b"")  # the number of a picture, and the picture
        self._server = PageServer(port, self)

    @property
    def address(self) -> str:
        """The address of the page."""
        return self._server.address

    def show(self, picture: np.ndarray, answer: Answer, numbers: Mapping[str, float]) -> None:
        """Take a picture (H, W, 3) uint8 RGB, which nobody changes from now on, and what was said of it.

        numbers: what is told beside it, by names or words as `words_of_number` takes them.
        """
        if self._num_thumbnails and math.floor(answer.time_s) not in self._thumbnails:
            self._keep_thumbnail(picture, math.floor(answer.time_s))
        with self._changed:
            self._num_told += 1
            self._num_shown += 1
            self._newest, self._numbers = (picture, answer), dict(numbers)
            if not self._points or answer.time_s - self._points[-1].time_s >= POINT_S - EPSILON_S:
                point = Point(self._num_told, answer.time_s, answer.logit, answer.ring_similarity)
                self._points.append(point)
            while self._points[0].time_s < answer.time_s - CHART_S:
                self._points.popleft()
            if self._running and self._has_lapsed(*self._running[1:]):
                self._running = None
            self._changed.notify_all()

    def event(self, event: Event, is_over: bool) -> None:
        """Take an event: one that goes on, as it is known so far, about once a second; and each once it is over.

        One that is told no more and never was over goes from the list soon after.
        """
        row = {
            "start_s": event.start_s,
            "end_s": event.end_s,
            "when": f"{clock(event.start_s)} to {clock(event.end_s)}",
            "kind": event.kind,
            "words": words_of_event(event),
            "source": event.source,
        }
        with self._changed:
            self._num_told += 1
            if is_over:
                self._num_events += 1
                self._events.append(row)
            if not is_over:
                self._running = row, self._num_shown, time.monotonic()
            elif self._running and self._running[0]["start_s"] <= event.end_s:
                self._running = None
            self._changed.notify_all()

    def close(self) -> None:
        """Tell readers that the stream has ended, and end all threads."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._server.close()

    def news(self) -> Iterator[dict[str, Any]]:
        """For one reader: all that there is to tell, and then what is new whenever it comes for more; nothing if there
        is nothing new for QUIET_S. It ends with the page."""
        num_told = num_events = -1
        while True:
            news: dict[str, Any] = {}
            with self._changed:
                self._changed.wait_for(partial(self._has_news, num_told), QUIET_S)
                if self._num_told > num_told:
                    news = self._news_after(num_told, num_events)
                    num_told, num_events = self._num_told, self._num_events
                elif self._is_closed:
                    return
            yield news

    def pictures(self) -> Iterator[bytes]:
        """For one reader: the newest picture with its bar as JPEG whenever it comes for more, or once more the last one
        if there is none for QUIET_S. It ends with the page."""
        number = 0
        while True:
            with self._changed:
                self._changed.wait_for(partial(self._has_picture, number), QUIET_S)
                if self._is_closed and self._num_shown == number:
                    return
                newest, number = self._newest, self._num_shown
            if newest:
                yield self._jpeg(number, *newest)

    def thumbnail(self, second: int) -> bytes | None:
        """The small picture of a second of the stream as JPEG, if there is one."""
        return self._thumbnails.get(second)

    def _has_news(self, num_told: int) -> bool:
        return self._is_closed or self._num_told > num_told

    def _has_picture(self, num_shown: int) -> bool:
        return self._is_closed or self._num_shown > num_shown

    def _news_after(self, num_told: int, num_events: int) -> dict[str, Any]:
        points: list[list[float | None]] = []
        for point in reversed(self._points):
            if point.number <= num_told:
                break
            numbers = (point.time_s, point.logit, point.similarity)
            points.append([None if number is None else round(number, 5) for number in numbers])
        news: dict[str, Any] = {
            "points": points[::-1],
            "numbers": [words_of_number(name, value) for name, value in self._numbers.items()],
            "running": self._running and self._running[0],
        }
        if self._newest:
            news |= self._told_of(self._newest[1])
        if num_told < 0:
            news |= self._facts
        if num_events != self._num_events:
            news |= {"events": list(self._events), "num_events": self._num_events}
        return news

    def _told_of(self, answer: Answer) -> dict[str, Any]:
        seen_s = seen_time_of(answer)
        seconds = [] if seen_s is None else [math.floor(seen_s) + off for off in (0, 1, -1)]
        then = next((second for second in seconds if second in self._thumbnails), None)
        return {
            "time": clock(answer.time_s),
            "says_old": answer.says_old,
            "said": said(answer),
            "words": words_of(answer),
            "then": then,
            "then_time": "" if seen_s is None else clock(seen_s),
        }

    def _has_lapsed(self, told_after: int, told_s: float) -> bool:
        return self._num_shown - told_after > LAPSE and time.monotonic() - told_s > LAPSE_S

    def _keep_thumbnail(self, picture: np.ndarray, second: int) -> None:
        height = max(1, round(picture.shape[0] * THUMBNAIL_WIDTH / picture.shape[1]))
        small = _jpeg(cv2.resize(picture, (THUMBNAIL_WIDTH, height), interpolation=cv2.INTER_AREA))
        with self._changed:
            self._thumbnails[second] = small
            if len(self._thumbnails) > self._num_thumbnails:
                del self._thumbnails[next(iter(self._thumbnails))]

    def _jpeg(self, number: int, picture: np.ndarray, answer: Answer) -> bytes:
        """A picture with its bar, made once for all readers."""
        with self._encoding:
            if self._encoded[0] < number:
                self._encoded = number, _jpeg(labelled(picture, answer))
            return self._encoded[1]


def _jpeg(picture: np.ndarray) -> bytes:
    is_done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    assert is_done
    return data.tobytes()
