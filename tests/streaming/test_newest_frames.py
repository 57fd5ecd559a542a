"""Live sources: the newest frame alone, drops counted, latency that does not grow, and an end to waiting."""

import io
import os
import threading
import time
from collections.abc import Callable, Iterator

import av
import cv2
import numpy as np
import pytest

from recognition.common.command_line import Failure, InputError
from recognition.films.picture import DecodeError
from recognition.streaming import newest, pipe
from recognition.streaming.frames import Beat
from recognition.streaming.newest import Live
from recognition.streaming.sources import open_source

NUM_WRITTEN, WRITTEN_FPS, SLOWED_FPS = 75, 25, 5
SHORT_S = 0.3  # instead of the ten seconds that a camera is looked for


def grey_of(k: int) -> int:
    """The grey of the k-th picture: steps that coding keeps apart."""
    return 16 + 3 * k


def number_of(picture: np.ndarray) -> int:
    return round((float(picture.mean()) - 16) / 3)


def write_ts(number: int, fps: float, written_s: list[float]) -> None:
    """Write pictures as MPEG-TS into a pipe, so many a second, and close it; tell when each was made."""
    begun_s = time.monotonic()
    with os.fdopen(number, "wb", buffering=0) as file, av.open(file, "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=WRITTEN_FPS, options={"g": "5", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for k in range(NUM_WRITTEN):
            picture = np.full((48, 64, 3), grey_of(k), np.uint8)
            written_s.append(time.monotonic())
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
            time.sleep(max(0.0, begun_s + k / fps - time.monotonic()))
        container.mux(stream.encode())


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[int], None]], threading.Thread]]:
    """Let a thread write what standard input leads to; given its function, which is to close the descriptor."""
    opened = []

    def start(write: Callable[[int], None]) -> threading.Thread:
        reading, writing = os.pipe()
        opened.append((file := os.fdopen(reading, "rb"), thread := threading.Thread(target=write, args=(writing,))))
        monkeypatch.setattr("sys.stdin", file)
        thread.start()
        return thread

    yield start
    for file, thread in opened:
        thread.join(30)
        file.close()


class MadeUp:
    """A capture that gives what it is told to: pictures (whole numbers), gaps (None) and errors, then only gaps."""

    name, comes_back = "made up", True

    def __init__(self, *told: int | Exception | None, refuses: int = 0, read_s: float = 0.0):
        self.told, self.refuses, self.read_s = list(told), refuses, read_s
        self.num_opened = self.num_closed = 0

    def open(self) -> None:
        self.num_opened += 1
        if self.refuses > 0:
            self.refuses -= 1
            raise InputError("made up: cannot be opened")

    def read(self) -> np.ndarray | None:
        time.sleep(self.read_s)
        told = self.told.pop(0) if self.told else None
        if isinstance(told, Exception):
            raise told
        return None if told is None else np.full((2, 2, 3), told, np.uint8)

    def close(self) -> None:
        self.num_closed += 1


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newest, "AGAIN_S", SHORT_S)
    monkeypatch.setattr(newest, "PAUSE_S", 0.01)


def test_slow_reader_of_a_pipe_gets_the_newest_frames_and_drops_are_counted(piped: Callable):
    written_s: list[float] = []
    piped(lambda number: write_ts(number, WRITTEN_FPS, written_s))
    numbers, dropped, ages_s = [], 0, []
    with open_source("-") as source:
        for frame in source:
            numbers.append(number_of(frame.picture))
            ages_s.append(time.monotonic() - written_s[numbers[-1]])
            dropped += frame.dropped_before
            assert numbers[-1] == len(numbers) - 1 + dropped  # none comes twice, none is missed uncounted
            time.sleep(1 / SLOWED_FPS)
    assert numbers[-1] == NUM_WRITTEN - 1
    assert dropped > NUM_WRITTEN / 4
    # In a queue the last frame would have waited for twelve seconds. What is allowed here is for a busy machine.
    assert np.median(ages_s[-5:]) < 3


def test_closing_in_mid_stream_ends_the_thread(piped: Callable):
    piped(lambda number: write_ts(number, WRITTEN_FPS, []))
    with open_source("-", fps=10) as source:
        next(source)
    assert not source._thread.is_alive()
    assert next(source, None) is None


def test_frames_of_a_pipe_that_breaks_off_in_mid_packet_come_and_then_the_end(piped: Callable):
    content = io.BytesIO()
    with av.open(content, "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for k in range(40):
            picture = np.random.default_rng(k).integers(0, 255, (48, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())

    def write(number: int) -> None:
        with os.fdopen(number, "wb") as file:
            file.write(content.getvalue()[: content.tell() // 2 + 77])

    piped(write)
    with open_source("-") as source:
        frames = list(source)
    assert 10 <= len(frames) + sum(frame.dropped_before for frame in frames) <= 30


def test_mjpeg_comes_through_a_pipe(piped: Callable):
    def write(number: int) -> None:
        with os.fdopen(number, "wb") as file:
            for k in range(40):
                file.write(cv2.imencode(".jpg", np.full((48, 64, 3), grey_of(k), np.uint8))[1].tobytes())

    piped(write)
    with open_source("-") as source:
        frames = list(source)
    assert number_of(frames[-1].picture) == 39
    assert len(frames) + sum(frame.dropped_before for frame in frames) == 40


def test_pipe_through_which_nothing_comes_is_refused(piped: Callable):
    piped(os.close)
    with pytest.raises(InputError, match="nothing came"):
        open_source("-")


def test_pipe_that_falls_silent_is_not_waited_for_without_end(piped: Callable, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pipe, "SILENT_S", SHORT_S)
    is_over = threading.Event()

    def write(number: int) -> None:
        is_over.wait(30)
        os.close(number)

    piped(write)
    try:
        with pytest.raises(Failure, match="nothing has come"):
            open_source("-")
    finally:
        is_over.set()


def test_closing_a_pipe_that_has_fallen_silent_ends_the_thread(piped: Callable, monkeypatch: pytest.MonkeyPatch):
    is_over = threading.Event()

    def write(number: int) -> None:
        with os.fdopen(number, "wb") as file:
            for k in range(40):
                file.write(cv2.imencode(".jpg", np.full((48, 64, 3), grey_of(k), np.uint8))[1].tobytes())
            file.flush()
            is_over.wait(30)

    piped(write)
    monkeypatch.setattr(pipe, "SILENT_S", 2 * SHORT_S)
    try:
        with open_source("-") as source:
            while number_of(next(source).picture) < 38:  # the last waits for what would follow it
                pass
        assert not source._thread.is_alive()
        assert list(source) == []
    finally:
        is_over.set()


def test_terminal_is_no_source(monkeypatch: pytest.MonkeyPatch):
    leader, follower = os.openpty()
    with os.fdopen(leader), os.fdopen(follower) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        with pytest.raises(InputError, match="is a terminal"):
            open_source("-")


def test_frame_that_nobody_came_for_makes_way_for_the_next():
    capture = MadeUp(*range(9))
    capture.comes_back = False
    source = Live(capture, None)
    source._thread.join(30)
    [frame] = source
    assert (frame.picture[0, 0, 0], frame.dropped_before) == (8, 8)
    assert capture.num_closed == 1


@pytest.mark.usefixtures("impatient")
def test_camera_that_comes_back_goes_on():
    capture = MadeUp(1, None, None, 2, refuses=2, read_s=0.02)
    with Live(capture, None) as source:
        assert [next(source).picture[0, 0, 0] for _ in range(2)] == [1, 2]
    assert capture.num_opened >= 3


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("refuses", [0, 1000])
def test_camera_that_stays_away_is_a_failure(refuses: int):
    with Live(MadeUp(1, refuses=refuses), None) as source:
        next(source)
        with pytest.raises(Failure, match="made up: gives no more pictures"):
            next(source)
    assert not source._thread.is_alive()


@pytest.mark.parametrize(("error", "kind"), [(DecodeError("is strange"), Failure), (ZeroDivisionError(), None)])
def test_error_of_the_thread_is_raised_where_frames_are_wanted(error: Exception, kind: type | None):
    with Live(MadeUp(error), None) as source, pytest.raises(kind or type(error)):
        next(source)


def test_reader_does_not_wait_for_ever_for_a_device_that_hangs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(newest, "LONGEST_WAIT_S", SHORT_S)
    source = Live(MadeUp(read_s=1.0), None)
    with pytest.raises(Failure, match="no picture"):
        next(source)
    source.close()
    source._thread.join(30)
    assert not source._thread.is_alive()


def test_frames_of_a_camera_are_taken_at_the_rate_and_nearest_in_time():
    times_s = np.arange(300) / 30
    beat = Beat(10)
    assert [k for k, time_s in enumerate(times_s) if beat.is_due(time_s)] == list(range(0, 300, 3))
    times_s = np.arange(250) / 25
    beat = Beat(10)
    taken_s = times_s[[beat.is_due(time_s) for time_s in times_s]]
    assert len(taken_s) == 100
    assert np.abs(taken_s - np.arange(100) / 10).max() <= 0.5 / 25 + 1e-9


def test_all_frames_of_a_camera_slower_than_the_rate_are_taken():
    beat = Beat(10)
    assert all(beat.is_due(k / 7) for k in range(100))


def test_frames_missed_in_a_gap_are_not_made_up_for():
    beat = Beat(10)
    times_s = [*np.arange(30) / 30, *(60 + np.arange(30) / 30)]
    taken_s = [time_s for time_s in times_s if beat.is_due(time_s)]
    assert sum(time_s < 30 for time_s in taken_s) == 10
    assert sum(time_s > 30 for time_s in taken_s) <= 11
