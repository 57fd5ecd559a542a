"""How a scheduler asks a job to stop, by SIGTERM or SIGUSR1, and how the scripts answer: at once, or after a step."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

# EX_TEMPFAIL of sysexits.h: run the same command again, and it goes on.
EXIT_STATUS = 75
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(KeyboardInterrupt):
    """A scheduler asked for a stop. Like Ctrl-C it passes all handlers of errors."""


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Within the block a signal raises Stopped wherever the main thread is.

    But during an import the process ends at once: libraries written in C swallow an exception there, and are left half
    loaded.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)  # schedulers repeat themselves
        stopped = Stopped(signal.Signals(number).name)
        while frame:
            if "importlib._bootstrap" in frame.f_code.co_filename:
                print(farewell(stopped), file=sys.stderr, flush=True)
                os._exit(EXIT_STATUS)
            frame = frame.f_back
        raise stopped

    with _handling(stop):
        yield


def farewell(stopped: Stopped) -> str:
    """The last line of a script that was stopped."""
    return f"{Path(sys.argv[0]).name}: stopped by {stopped}; the same command goes on"


@contextmanager
def stopping_later() -> Iterator[Callable[[], bool]]:
    """Within the block a signal is only noted; yields a function that tells whether one has come.

    If the block ends all the same, as if none had, the signal is sent again. If it fails with a RuntimeError, as
    one does that waits for another process that was stopped at once, Stopped is raised instead.
    """
    noted: list[int] = []
    with _handling(lambda number, _: noted.append(number)):
        try:
            yield lambda: bool(noted)
        except RuntimeError as error:
            if noted:
                raise Stopped(signal.Signals(noted[0]).name) from error
            raise
    if noted:
        signal.raise_signal(noted[0])


def leave_stopping_to_parent(*_) -> None:
    """In a worker process: signals sent to a whole process group are its parent's to answer."""
    for number in (*SIGNALS, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _handling(handler: Callable) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
