"""Clips made by worker processes ahead of their use, in their order."""

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from torch import Tensor

from recognition.common.ahead import made_ahead
from recognition.common.allocator import give_back_freed_memory
from recognition.common.command_line import Failure, InputError
from recognition.common.workers import done_by_workers

Task = TypeVar("Task")


class Made(NamedTuple):
    """What a worker made of one task."""

    clips: Tensor  # (N, T, 3, S, S) uint8, of one film
    seconds: float  # that it took


class _Sent(NamedTuple):
    task: int
    made: Made | None
    failure: str = ""


def made_in_order(
    make: Callable[[Task], Tensor],
    tasks: Sequence[Task],
    names: Sequence[str],
    num_workers: int,
    is_stop_asked: Callable[[], bool] = lambda: False,
    num_ahead: int = 2,
) -> Iterator[Made]:
    """What `make` returns for each task, in their order; 0 workers: made by this process, when it is asked for.

    Args:
        make: called in a worker; it must not depend on what was made before.
        tasks: what to make.
        names: the film of each task, for messages.
        num_workers: processes, forked here and ended with this iterator.
        is_stop_asked: whether to give up waiting.
        num_ahead: how many to have ready before they are asked for, such as a batch, so that workers go on while it
            is learned from.

    Raises Failure, which names the film, for one that cannot be read, and Stopped if a stop is asked for while nothing
    comes.
    """

    def work(task: int) -> Iterable[_Sent]:
        started = time.perf_counter()
        try:
            clips = make(tasks[task])
        except (InputError, OSError) as error:
            yield _Sent(task, None, str(error))
        else:
            yield _Sent(task, Made(clips, time.perf_counter() - started))

    advice = f"lower data.workers ({num_workers}) or training.batch_size"
    sent = done_by_workers(work, names, min(num_workers, len(tasks)), advice, lambda task, how: _Sent(task, None, how))
    made = _sorted(sent, names)
    if not num_workers:
        yield from made
        return
    give_back_freed_memory()
    # Here, not in the thread: it forks the workers, and nothing else computes yet.
    first = deque([next(made)] if tasks else [])
    try:
        yield from made_ahead(
            lambda _: first.popleft() if first else next(made), range(len(tasks)), 1, is_stop_asked, max(2, num_ahead)
        )
    finally:
        try:
            sent.close()
        except ValueError:  # the thread still waits for a worker
            for process in multiprocessing.active_children():
                process.kill()


def _sorted(sent: Iterable[_Sent], names: Sequence[str]) -> Iterator[Made]:
    """Items in the order of their tasks. Raises Failure."""
    waiting: dict[int, _Sent] = {}
    due = 0
    for item in sent:
        waiting[item.task] = item
        while due in waiting:
            ready = waiting.pop(due)
            if ready.made is None:
                told = ready.failure if names[due] in ready.failure else f"{names[due]}: {ready.failure}"
                raise Failure(f"{told}; it was whole when this training began")
            yield ready.made
            due += 1
