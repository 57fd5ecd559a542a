"""How a scheduler asks a job to stop, by SIGTERM or SIGUSR1, and how the scripts answer: at once, or after a step."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# EX_TEMPFAIL of sysexits.h: run the same command again, and it goes on.
EXIT_STATUS = 75
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(KeyboardInterrupt):
    """A scheduler asked for a stop. Like Ctrl-C it passes all handlers of errors."""


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Within the block a signal raises Stopped wherever the main thread is."""

    def stop(number: int, _) -> None:
        raise Stopped(signal.Signals(number).name)

    with _handling(stop):
        yield


@contextmanager
def stopping_later() -> Iterator[Callable[[], bool]]:
    """Within the block a signal is only noted; yields a function that tells whether one has come."""
    noted: list[int] = []
    with _handling(lambda number, _: noted.append(number)):
        yield lambda: bool(noted)


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
