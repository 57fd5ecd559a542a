"""Work that processes do side by side: they send what they make through sockets of their own.

Nothing else is shared: no file in TMPDIR, no shared memory and no named semaphore, which may be missing, small or full.
"""

import copyreg
import multiprocessing
import os
import pickle
import signal
import socket
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch
from torch import Tensor

from recognition.common.command_line import Failure
from recognition.common.stopping import signals_held_back

Made = TypeVar("Made")

CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP}
LEAVING_S = 5.0  # a process whose socket is closed is about to end


def done_by_workers(
    work: Callable[[int], Iterable[Made]],
    names: Sequence[str],
    num_workers: int,
    advice: str,
    crashed: Callable[[int, str], Made],
) -> Generator[Made, None, None]:
    """What `work` yields for each of the tasks 0, 1, ..., made by `num_workers` processes; 0: by this one.

    A task's items come in their order, those of several tasks as they are made. Workers are forks that compute with one
    thread; they take one task after the other, and are ahead by an item and what a socket holds, some 200 KB. They
    leave signals to this process, and end with this iterator.

    Args:
        work: called in a worker with the number of a task; what it yields must be fit for pickle.
        names: of the tasks, for messages.
        advice: what helps against a want of memory, such as "lower --workers (2)".
        crashed: what to yield at the end of a task over which a worker crashed, as libraries written in C do over
            damaged files, given its number and how that was. The other tasks are done all the same.

    Raises Failure as soon as a worker was killed or failed.
    """
    if not num_workers:
        for task in range(len(names)):
            yield from work(task)
        return
    tasks = iter(range(len(names)))
    workers: list[_Worker] = []

    def go_on(worker: "_Worker | None" = None) -> None:
        """Give the next task to this worker, or to a new one; without a task there need be none."""
        if (task := next(tasks, None)) is not None:
            if worker is None:
                workers.append(worker := _Worker(advice))
                worker.start(work, workers)
            worker.begin(task, names[task])
        elif worker:
            workers.remove(worker)
            worker.end()

    try:
        for _ in range(num_workers):
            go_on()
        while workers:
            for worker in _ready(workers):
                message = worker.receive()
                if isinstance(message, _Done):
                    go_on(worker)
                elif isinstance(message, _Crashed):
                    workers.remove(worker)
                    worker.end()
                    yield crashed(worker.task, message.how)
                    go_on()
                else:
                    yield message
    finally:
        for worker in workers:
            worker.end()


class _Done:
    """A worker's word that it has done its task."""


@dataclass(frozen=True)
class _Failed:
    """A worker's last word."""

    reason: str


@dataclass(frozen=True)
class _Crashed:
    """What is received of a worker that had no last word."""

    how: str


class _Pickler(pickle.Pickler):
    """Writes tensors as they are; torch would put them into shared memory, or copy them several times."""

    dispatch_table = {  # noqa: RUF012, typeshed has it as an attribute of objects
        **copyreg.dispatch_table,
        Tensor: lambda tensor: (torch.from_numpy, (tensor.numpy(),)),
    }


class _Reader(socket.SocketIO):
    """Reads as much as it is asked for, and nothing of the next message: that one would not wake who waits for it."""

    def readinto(self, buffer: Any) -> int:
        missing = memoryview(buffer).cast("B")
        while missing and (number := super().readinto(missing)):
            missing = missing[number:]
        return len(buffer) - len(missing)


class _Worker:
    """A worker process, seen from its parent."""

    def __init__(self, advice: str):
        self.task, self._advice, self._what = -1, advice, ""
        self._socket, self._theirs = socket.socketpair()
        self._reader = _Reader(self._socket, "r")
        self._process: BaseProcess | None = None

    def start(self, work: Callable[[int], Iterable], all_workers: Sequence["_Worker"]) -> None:
        """Fork it. Raises Failure if the system has no room for it."""
        inherited = [worker._socket for worker in all_workers]
        process = multiprocessing.get_context("fork").Process
        self._process = process(target=_serve, args=(work, self._theirs, inherited), daemon=True)
        with self._theirs, signals_held_back():
            try:
                self._process.start()
            except OSError as error:
                raise Failure(f"a worker could not be started ({error.strerror}); {self._advice}") from None

    def fileno(self) -> int:
        """Of the socket through which it is heard."""
        return self._socket.fileno()

    def begin(self, task: int, name: str) -> None:
        """Give it a task. Should it have died, the next `receive` says so."""
        self.task, self._what = task, name
        with suppress(OSError):
            self._socket.sendall(pickle.dumps(task))

    def receive(self) -> Any:
        """Its next message, or that it crashed; waits until it is here. Raises Failure if there will be none."""
        try:
            message = pickle.load(self._reader)
        except (EOFError, OSError, pickle.UnpicklingError):
            return self._fate()
        if isinstance(message, _Failed):
            raise Failure(f"{self._what}: a worker failed ({message.reason}); if memory is short, {self._advice}")
        return message

    def end(self) -> None:
        """End it, whatever it does."""
        if self._process and self._process.pid:
            self._process.kill()
            self._process.join()
        self._socket.close()

    def _fate(self) -> _Crashed:
        """How it ended. Raises Failure if that was not over its task."""
        assert self._process is not None
        self._process.join(LEAVING_S)
        code = self._process.exitcode
        if code is not None and -code in CRASHES:
            return _Crashed(f"a library crashed over it: signal {-code} ({signal.strsignal(-code)})")
        if code == -signal.SIGKILL:
            raise Failure(f"{self._what}: its worker was killed, most likely for want of memory; {self._advice}")
        how = "no longer answers" if code is None else f"ended with status {code}"
        raise Failure(f"{self._what}: its worker {how}; leave this one out if it does so again, or {self._advice}")


def _ready(workers: Sequence[_Worker]) -> list[_Worker]:
    """Those from which there is something to receive; waits until there is one."""
    heard = wait([worker.fileno() for worker in workers])
    return [worker for worker in workers if worker.fileno() in heard]


def _serve(work: Callable[[int], Iterable], ours: socket.socket, inherited: Sequence[socket.socket]) -> None:
    """What a worker does: tasks, until its parent closes the socket or is gone. It never speaks on stderr."""
    for other in inherited:
        other.close()
    torch.set_num_threads(1)
    reader, writer = _Reader(ours, "r"), ours.makefile("wb")

    def send(message: Any) -> None:
        _Pickler(writer, 5).dump(message)
        writer.flush()

    try:
        while True:
            task = pickle.load(reader)
            try:
                for item in work(task):
                    send(item)
            except BaseException as error:
                send(_Failed(f"{type(error).__name__}: {error}"))
                os._exit(1)
            send(_Done())
    except BaseException:
        os._exit(1)  # the parent is gone, or there is no memory even for a last word
