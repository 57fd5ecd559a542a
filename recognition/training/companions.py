"""Processes that train together: when one is lost the others end too, and one line tells of it."""

import atexit
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from recognition.common.command_line import Failure, say_error
from recognition.common.stopping import EXIT_STATUS, INTERRUPTED, Stopped, is_first, say_farewell

LOOK_S = 0.2
GRACE_S = 3.0  # in which a process that fails by itself has told why


def end_with_first() -> None:
    """Let the system kill the processes that the first one starts when that one ends, however it does.

    Called by all of them, before the first starts the others.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":
        os.environ["FIRST_OF_TRAINING"] = str(os.getpid())
        return
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG of Linux
    if str(os.getppid()) != os.environ["FIRST_OF_TRAINING"]:
        os._exit(1)


def watch(starting: list[subprocess.Popen]) -> None:
    """In the first process: end when one of the others fails, and let them end with this one.

    They are taken out of the list as they appear in it. Fabric, which starts them, would watch them too, and kill this
    process without a word.
    """
    leaving = threading.Event()
    others: list[subprocess.Popen] = []

    def look() -> None:
        while not leaving.wait(LOOK_S):
            while starting:
                others.append(starting.pop(0))
            for rank, process in enumerate(others, 1):
                if process.poll():
                    end(rank, process.returncode)

    def end(rank: int, status: int) -> None:
        # This process fails as well if all of them do. If not, it may wait for the lost one in a library, for ever.
        if status > 0 and leaving.wait(GRACE_S):
            return
        if status in (EXIT_STATUS, INTERRUPTED):
            say_farewell(Stopped("a signal to all processes") if status == EXIT_STATUS else KeyboardInterrupt())
        elif status < 0:
            # A library that ends its process, as NCCL's does after waiting for another in vain, has told why.
            advice = "lower training.batch_size or training.num_devices, or ask for more"
            is_killed = -status == signal.SIGKILL
            reason = f"most likely for want of memory; {advice}" if is_killed else "what it printed before says why"
            print(file=sys.stderr)  # a bar may stand in its line
            say_error(f"process {rank + 1} of {len(others) + 1} was killed by signal {-status}, {reason}")
        kill()
        with suppress(Exception):
            sys.stdout.flush()
        os._exit(max(1, status))

    def kill() -> None:
        leaving.set()
        for process in [*others, *starting]:
            process.kill()

    atexit.register(kill)
    threading.Thread(target=look, daemon=True).start()


@contextmanager
def loss_told() -> Iterator[None]:
    """Tell in one line, and end with status 1, when another process is lost while this one exchanges tensors with it.

    The first process alone speaks, and only where it has not started the others: `watch` knows more of those.
    """
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, torch.distributed.DistError) or "gloo" in str(error)):
            raise
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            time.sleep(2 * GRACE_S)
        if not is_first():
            sys.exit(1)
        raise Failure("another process of this training was lost; it or what has started it says why") from None
