"""The parts in their order, and how each runs: a process of its own, whose rows are on disk as soon as they are known.

Not in __main__.py: a process that is started afresh, as beside CUDA, does not find what stands there.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmarks import tiny
from benchmarks.gpu_check.correctness import correctness
from benchmarks.gpu_check.gpu_tests import gpu_tests
from benchmarks.gpu_check.growth import growth
from benchmarks.gpu_check.learning import learning
from benchmarks.gpu_check.machine import machine
from benchmarks.gpu_check.speed import speed

Part = Callable[[str, float], Iterator[dict[str, Any]]]  # of a device and seconds: rows, as soon as they are known
PARTS: dict[str, tuple[Part, int]] = {  # in order of worth, with their shares of the time
    "machine": (machine, 5),
    "tests": (gpu_tests, 22),
    "correctness": (correctness, 15),
    "speed": (speed, 22),
    "learning": (learning, 26),
    "growth": (growth, 10),
}

# A CUDA context does not survive a fork; without one a fork spares the loading of torch.
PROCESSES: dict[str, Callable[..., BaseProcess]] = {
    "cpu": multiprocessing.get_context("fork").Process,
    "cuda": multiprocessing.get_context("spawn").Process,
}


def run_part(name: str, args: Namespace, limit_s: float) -> dict[str, Any]:
    """Run a part in a process of its own, which appends its rows to the results; returns a row on how it ended."""
    process = PROCESSES[args.device](target=measure, args=(name, args.device, limit_s, args.tiny, args.output))
    started = time.monotonic()
    process.start()
    try:
        process.join(limit_s)
        is_cut = process.is_alive()
    finally:
        if process.is_alive() and process.pid:
            with contextlib.suppress(ProcessLookupError):  # it has no group of its own yet
                os.killpg(process.pid, signal.SIGKILL)  # with all that it has started
            process.kill()
            process.join()
    seconds = time.monotonic() - started
    if is_cut:
        how = f"cut at its limit of {limit_s:.0f} s; what it had found is kept"
    else:
        how = "done" if process.exitcode == 0 else f"ended with status {process.exitcode}"
    print(f"{name}: {how}, {seconds:.0f} s", flush=True)
    # Being cut is not wrong: how much is measured in the minutes given depends on the machine.
    is_good = True if process.exitcode == 0 else None if is_cut else False
    return {"part": name, "what": "how it ended", "value": how, "seconds": round(seconds, 1), "is_good": is_good}


def measure(name: str, device: str, limit_s: float, is_tiny: bool, output: Path) -> None:
    """What the process of a part does: every row is on disk before the next is measured."""
    os.setsid()
    if is_tiny and not tiny.is_tiny:
        tiny.shrink()
    log = os.open(output / "log.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(log, sys.stderr.fileno())  # progress bars and warnings, also of libraries and of processes started
    try:
        for row in PARTS[name][0](device, limit_s):
            row = {"part": name, **row}
            row.setdefault("is_good", None)
            append(output / "results.jsonl", row)
            print(text_of(row), flush=True)
    except Exception as error:
        traceback.print_exc()
        row = {"part": name, "what": "what ended it", "value": " ".join(f"{error!r}".split())[:500], "is_good": False}
        append(output / "results.jsonl", row)
        print(text_of(row), flush=True)


def append(path: Path, row: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def text_of(row: dict[str, Any]) -> str:
    """A row as a line of text, what is wrong in capitals."""
    values = [f"{key} {value}" for key, value in row.items() if key not in ("part", "what", "is_good", "value")]
    values.insert(0, str(row.get("value", "")))
    mark = "WRONG " if row["is_good"] is False else ""
    return f"{mark}{row['what']}: {', '.join(filter(None, values))}"
