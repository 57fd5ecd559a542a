"""What is made ahead in threads: its order, its errors, and that nothing waits for a thread that does not answer."""

import threading
import time
import weakref
from collections.abc import Callable

import pytest
from conftest import ROOT, run_script

from recognition.common.ahead import made_ahead
from recognition.common.stopping import Stopped


@pytest.mark.parametrize("num_threads", [0, 1, 2, 8])
def test_things_come_in_the_order_of_their_tasks(num_threads: int):
    def make(task: int) -> int:
        time.sleep(0.01 * (task % 3 == 0))
        return -task

    assert list(made_ahead(make, range(20), num_threads)) == [-task for task in range(20)]


def test_threads_are_ahead_by_two_tasks_each_and_no_more():
    made: list[int] = []
    things = made_ahead(made.append, range(100), 3)
    next(things)
    while len(made) < 7:  # the first, and six ahead
        time.sleep(0.01)
    time.sleep(0.05)
    assert sorted(made) == list(range(7))
    things.close()


def test_thing_that_was_used_is_let_go():
    class Thing: ...

    things = made_ahead(lambda _: Thing(), range(3), 1)
    first = weakref.ref(next(things))
    while first():
        time.sleep(0.01)
    assert len(list(things)) == 2


@pytest.mark.parametrize("num_threads", [0, 2])
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyError("x"), MemoryError()])
def test_error_is_raised_in_the_place_of_its_task(num_threads: int, error: Exception):
    def make(task: int) -> int:
        if task == 2:
            raise error
        return task

    things = made_ahead(make, range(9), num_threads)
    assert (next(things), next(things)) == (0, 1)
    with pytest.raises(type(error)):
        next(things)
    assert threads_end()


def test_threads_end_when_the_rest_is_not_wanted():
    things = made_ahead(str, range(100), 4)
    assert next(things) == "0"
    things.close()
    assert threads_end()


def threads_end() -> bool:
    """Whether no thread of an earlier iterator is left after a while."""
    for _ in range(200):
        if not [thread for thread in threading.enumerate() if "_fill" in thread.name]:
            return True
        time.sleep(0.01)
    return False


def test_stop_is_answered_while_a_disk_is_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("recognition.common.ahead.PATIENCE_S", 0.05)
    answers = threading.Event()
    make: Callable = lambda _: answers.wait()  # noqa: E731
    with pytest.raises(Stopped, match="waited for data"):
        next(made_ahead(make, range(3), 2, is_stop_asked=lambda: True))
    answers.set()


def test_process_ends_though_a_thread_never_does():
    code = (
        "import time; from recognition.common import ahead; ahead.PATIENCE_S = 0.1\n"
        "things = ahead.made_ahead(lambda task: time.sleep(1000 * task), range(9), 2); next(things); things.close()"
    )
    result = run_script("-c", code, cwd=ROOT, timeout=30)
    assert (result.returncode, result.stderr) == (0, "")
