"""How a scheduler asks a job to stop, by SIGTERM or SIGUSR1, and how the scripts answer: at once, or after a step."""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

# EX_TEMPFAIL of sysexits.h: run the same command again, and it goes on.
EXIT_STATUS = 75
INTERRUPTED = 128 + signal.SIGINT  # as shells say it
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(KeyboardInterrupt):
    """A scheduler asked for a stop. Like Ctrl-C it passes all handlers of errors."""


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Within the block a signal raises Stopped, and Ctrl-C KeyboardInterrupt, wherever the main thread is; once.

    But during an import the process ends at once: libraries written in C swallow an exception there, and are left half
    loaded.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        for each in (*SIGNALS, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)  # schedulers repeat themselves, and so do people
        name = signal.Signals(number).name
        stopped = KeyboardInterrupt(name) if number == signal.SIGINT else Stopped(name)
        while frame:
            if "importlib._bootstrap" in frame.f_code.co_filename:
                os._exit(say_farewell(stopped))
            frame = frame.f_back
        raise stopped

    with _handling(stop, (*SIGNALS, signal.SIGINT)):
        yield


def say_farewell(stopped: KeyboardInterrupt) -> int:
    """Print the last line of a script that was stopped, and return its exit status.

    Of processes that work together the first speaks alone.
    """
    if is_first():
        line = f"{program()}: stopped by {str(stopped) or 'SIGINT'}; the same command goes on"
        print(line, file=sys.stderr, flush=True)
    return EXIT_STATUS if isinstance(stopped, Stopped) else INTERRUPTED


def is_first() -> bool:
    """Whether this is the first of the processes that torchrun or Fabric has started, or the only one."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def leave_when_asked_again(status: int) -> None:
    """From now on a signal ends this process at once, with this status: all is said, and Python is ending."""

    def leave(*_: object) -> None:
        with suppress(Exception):
            sys.stdout.flush()
        os._exit(status)

    for number in (*SIGNALS, signal.SIGINT):
        signal.signal(number, leave)


@contextmanager
def stopping_later(signals: Iterable[signal.Signals] = SIGNALS) -> Iterator[Callable[[], bool]]:
    """Within the block each of these signals is only noted; yields a function that tells whether one has come.

    If the block ends all the same, as if none had, the signal is sent again. If it fails with a RuntimeError, as
    one does that waits for another process that was stopped at once, Stopped is raised instead.
    """
    noted: list[int] = []
    with _handling(lambda number, _: noted.append(number), signals):
        try:
            yield lambda: bool(noted)
        except RuntimeError as error:
            if noted:
                raise Stopped(signal.Signals(noted[0]).name) from error
            raise
    if noted:
        signal.raise_signal(noted[0])


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Within the block no signal stops this process. A process forked there is never stopped by one: those sent to a
    whole process group are its parent's to answer."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*SIGNALS, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _handling(handler: Callable, numbers: Iterable[signal.Signals]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def program() -> str:
    """What was started, as the user called it: train.py, or python -m recognition.sweep."""
    spec = sys.modules["__main__"].__spec__
    if spec is not None and spec.origin == sys.argv[0]:
        return f"python -m {spec.name.removesuffix('.__main__')}"
    return Path(sys.argv[0]).name
