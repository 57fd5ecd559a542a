"""Making things ahead of their use, in threads: for work that waits for memory or disk, beside which Python goes on."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from itertools import islice
from queue import SimpleQueue
from typing import TypeVar

from recognition.common.stopping import Stopped

Task = TypeVar("Task")
Made = TypeVar("Made")

PATIENCE_S = 3.0


def made_ahead(
    make: Callable[[Task], Made],
    tasks: Iterable[Task],
    num_threads: int,
    is_stop_asked: Callable[[], bool] = lambda: False,
    num_ahead: int = 2,
) -> Iterator[Made]:
    """What `make` returns for each task, in their order; `num_threads` threads are ahead by up to `num_ahead` tasks
    each. With 0 threads it is made when it is asked for.

    Raises what `make` raises, and Stopped if a stop is asked for while the next one does not come.
    """
    if not num_threads:
        yield from map(make, tasks)
        return
    orders: SimpleQueue[tuple[Task, Future[Made]] | None] = SimpleQueue()
    threads: list[threading.Thread] = []
    remaining = iter(tasks)
    coming: deque[Future[Made]] = deque()

    def order(number: int) -> None:
        for task in islice(remaining, number):
            coming.append(Future())
            orders.put((task, coming[-1]))

    try:
        for _ in range(num_threads):
            # Python waits at its end for threads that are no daemons; one may wait for a disk that does not answer.
            thread = threading.Thread(target=_fill, args=(make, orders), daemon=True)
            thread.start()
            threads.append(thread)
        order(num_ahead * num_threads)
        while coming:
            while not wait([coming[0]], PATIENCE_S).done:
                if is_stop_asked():
                    raise Stopped("a signal while it waited for data")
            order(1)
            yield coming.popleft().result()
    finally:
        for future in coming:
            future.cancel()
        for _ in threads:
            orders.put(None)
        deadline = time.monotonic() + PATIENCE_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def _fill(make: Callable[[Task], Made], orders: "SimpleQueue[tuple[Task, Future[Made]] | None]") -> None:
    while order := orders.get():
        _fill_one(make, *order)
        del order  # it holds what was made


def _fill_one(make: Callable[[Task], Made], task: Task, future: "Future[Made]") -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(make(task))
    except BaseException as error:  # whatever it is, it is raised where the future's result is asked for
        future.set_exception(error)
