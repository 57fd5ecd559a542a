"""Check and measure, in a few minutes, all that only a GPU can tell; what matters most comes first.

  python -m benchmarks.gpu_check                                  9 minutes on a GPU; writes docs/gpu/ and docs/gpu.md
  python -m benchmarks.gpu_check --minutes 4 tests correctness    some parts alone
  python -m benchmarks.gpu_check --device cpu --tiny --output DIR rehearses every part in a minute; no figure counts

Every part is a process of its own with a share of the minutes that are left. What it finds is written at once, so a run
that is cut short keeps all that it has found. Status 1 says that something is not as it should be. Packages that only
one part needs, such as av for preprocessing, may be missing: that part says so and the others run.
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
from pathlib import Path
from typing import Any

from benchmarks import tiny
from benchmarks.gpu_check.correctness import correctness
from benchmarks.gpu_check.gpu_tests import gpu_tests
from benchmarks.gpu_check.growth import growth
from benchmarks.gpu_check.learning import learning
from benchmarks.gpu_check.machine import machine
from benchmarks.gpu_check.page import write_page
from benchmarks.gpu_check.speed import speed
from recognition.common.command_line import (
    ArgumentParser,
    Failure,
    as_folder,
    folder_path,
    nearest,
    number_between,
    run,
)

ROOT = Path(__file__).parent.parent.parent
Part = Callable[[str, float], Iterator[dict[str, Any]]]  # of a device and seconds: rows, as soon as they are known
PARTS: dict[str, tuple[Part, int]] = {  # in order of worth, with their shares of the time
    "machine": (machine, 5),
    "tests": (gpu_tests, 22),
    "correctness": (correctness, 15),
    "speed": (speed, 22),
    "learning": (learning, 26),
    "growth": (growth, 10),
}


def main() -> None:
    args = parse_arguments()
    if args.tiny:
        tiny.shrink()
    output = as_folder(args.output)
    output.mkdir(parents=True, exist_ok=True)
    results = output / "results.jsonl"
    if not args.page:
        measure_all(args, results)
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    page = write_page(rows, output)
    print("\n" + "\n".join(summary(rows)))
    print(f"written to {page} and {output}")
    if wrong := [row for row in rows if row["is_good"] is False]:
        raise Failure(f"{len(wrong)} findings are not as they should be, {wrong[0]['what']} first; see {page}")


def measure_all(args: Namespace, results: Path) -> None:
    """Run the parts that are asked for, each for its share of the time that is left."""
    results.unlink(missing_ok=True)
    deadline = time.monotonic() + 60 * args.minutes
    names = args.parts or list(PARTS)
    for k, name in enumerate(names):
        share = PARTS[name][1] / sum(PARTS[other][1] for other in names[k:])
        limit_s = share * max(0.0, deadline - time.monotonic())
        print(f"\n== {name}, up to {limit_s:.0f} s", flush=True)
        append(results, run_part(name, args, limit_s))


def run_part(name: str, args: Namespace, limit_s: float) -> dict[str, Any]:
    """Run a part in a process of its own, which appends its rows to the results; returns a row on how it ended."""
    # A CUDA context does not survive a fork; without one a fork spares the loading of torch.
    fork, spawn = multiprocessing.get_context("fork").Process, multiprocessing.get_context("spawn").Process
    kind = fork if args.device == "cpu" else spawn
    process = kind(target=measure, args=(name, args.device, limit_s, args.tiny, args.output))
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


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """A line for every part."""
    layout = "{:14}{:>9}{:>8}{:>8}  {}"
    lines = [layout.format("part", "seconds", "found", "wrong", "")]
    for name in dict.fromkeys(row["part"] for row in rows):
        *found, end = [row for row in rows if row["part"] == name]
        wrong = sum(row["is_good"] is False for row in [*found, end])
        lines.append(layout.format(name, end["seconds"], len(found), wrong, end["value"]))
    return lines


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__, prog="python -m benchmarks.gpu_check")
    parser.add_argument("parts", nargs="*", help=f"which parts to run, all if none is named: {', '.join(PARTS)}")
    parser.add_argument("--minutes", type=number_between(0, 600), default=9, help="for all parts together")
    parser.add_argument(
        "--output",
        type=folder_path,
        default=ROOT / "docs" / "gpu",
        help="folder for numbers, figures and the log; the page beside it has its name and .md",
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda", help="cpu is for rehearsals")
    parser.add_argument(
        "--page", action="store_true", help="measure nothing; make page and figures of the numbers that are in --output"
    )
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that all parts run; no figure counts")
    args = parser.parse_args()
    for name in args.parts:
        if name not in PARTS:
            parser.error(f"no part is called {name!r}; {nearest(name, PARTS)}")
    if args.page:
        if not (args.output / "results.jsonl").exists():
            parser.error(f"--page: {args.output} holds no results.jsonl of an earlier run")
        return args
    if args.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            parser.error("torch sees no GPU on this machine; --device cpu --tiny rehearses the parts without one")
    if args.device == "cpu" and args.output == ROOT / "docs" / "gpu":
        parser.error("--output: name a folder; docs/gpu is for figures of a GPU")
    return args


if __name__ == "__main__":
    run(main)
