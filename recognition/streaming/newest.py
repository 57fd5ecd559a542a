"""The newest frame of a live source: whoever computes slowly passes frames over, and never lags behind."""

import threading
import time
from collections.abc import Callable

import numpy as np

from recognition.common.command_line import Failure, InputError
from recognition.films.picture import DecodeError
from recognition.streaming.captures import Capture
from recognition.streaming.frames import Beat, Frame, Source

AGAIN_S = 10.0  # so long a camera that went away is looked for
PAUSE_S = 0.5  # between two tries
LOOK_S = 0.2  # between two looks whether to go on waiting
LONGEST_WAIT_S = 30.0  # for a frame or for the end, should a device never return from a read


class Live(Source):
    """Frames of a live source, of which a thread keeps the newest alone.

    Of the frames captured those nearest in time to every 1 / fps are due; all, if it is None. A frame that is due
    takes the place of one that nobody has come for, which is counted as dropped. So a frame is as old as the capture
    makes it and waits no longer than until the next is due, however long its reader takes.

    The capture is given open, and closed by the thread. Where a camera goes away it is looked for during AGAIN_S
    seconds; then Failure is raised. What ends, a pipe that is closed, ends the iteration.
    """

    is_live = True

    def __init__(self, capture: Capture, fps: float | None):
        self.name = capture.name
        self._capture, self._beat = capture, Beat(fps)
        self._changed, self._closing = threading.Condition(), threading.Event()
        self._newest: Frame | None = None
        self._has_ended = False
        self._is_stop_asked: Callable[[], bool] = lambda: False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._keep_newest, name=f"newest frame of {self.name}", daemon=True)
        self._thread.start()

    def __next__(self) -> Frame:
        end_s = time.monotonic() + LONGEST_WAIT_S
        with self._changed:
            while not self._changed.wait_for(lambda: self._newest or self._has_ended, LOOK_S):
                if self._is_stop_asked():
                    raise StopIteration
                if time.monotonic() > end_s:
                    raise Failure(f"{self.name}: has given no picture for {LONGEST_WAIT_S:.0f} s")
            frame, self._newest = self._newest, None
        if self._closing.is_set():
            raise StopIteration
        if frame is not None:
            return frame
        raise self._error or StopIteration

    def end_when(self, is_stop_asked: Callable[[], bool]) -> None:
        self._is_stop_asked = is_stop_asked

    def close(self) -> None:
        """End the thread, as soon as its read returns: at once, or within the time-outs of what it reads from."""
        self._closing.set()
        self._thread.join(LONGEST_WAIT_S)

    def _keep_newest(self) -> None:
        try:
            self._read_on()
        except DecodeError as error:
            self._error = Failure(f"{self.name}: {error}")
        except Exception as error:  # raised where the frames are wanted
            self._error = error
        finally:
            self._capture.close()
            with self._changed:
                self._has_ended = True
                self._changed.notify_all()

    def _read_on(self) -> None:
        first_s: float | None = None
        seen_s = time.monotonic()
        while not self._closing.is_set():
            picture = self._capture.read()
            taken_s = time.monotonic()
            if picture is not None:
                first_s = taken_s if first_s is None else first_s
                seen_s = taken_s
                self._offer(picture, taken_s - first_s, taken_s)
            elif not self._capture.comes_back:
                return
            else:
                self._look_again(seen_s)

    def _offer(self, picture: np.ndarray, time_s: float, taken_s: float) -> None:
        if not self._beat.is_due(time_s):
            return
        with self._changed:
            dropped = 0 if self._newest is None else self._newest.dropped_before + 1
            self._newest = Frame(picture, time_s, dropped, taken_s)
            self._changed.notify_all()

    def _look_again(self, seen_s: float) -> None:
        """Open the capture once more, after a pause. Raises Failure if it was last seen too long ago."""
        if time.monotonic() - seen_s > AGAIN_S:
            raise Failure(f"{self.name}: gives no more pictures, and did not come back within {AGAIN_S:.0f} s")
        self._closing.wait(PAUSE_S)
        try:
            self._capture.open()
        except InputError:  # not yet
            self._capture.close()
