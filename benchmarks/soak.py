"""A long run: training that is stopped and restarted, and evaluations beside it, watched for memory and open files.

  make demo                                      its films and episodes are what is trained on
  python -m benchmarks.soak --minutes 60         writes docs/soak.md; exit status 1 if something grew

Training draws fresh episodes every epoch. Half-way it is sent SIGTERM and started again. Memory is what all processes
of a script hold, files are those they have open; the first tenth of each part is warm-up. Of every evaluation
the peak counts.
"""

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from recognition.common.command_line import ArgumentParser, Failure, InputError, number_between, run
from recognition.common.machine import granted_cores

ROOT = Path(__file__).parent.parent
EVERY_S = 2.0
ALLOWED = 1.05  # times what was there after the warm-up


@dataclass
class Watch:
    """What was seen of one part of the run, in the order of time."""

    what: str
    memory_mb: list[float] = field(default_factory=list)
    num_files: list[int] = field(default_factory=list)

    def verdict(self) -> tuple[str, bool]:
        """A row of the table, and whether nothing grew."""
        after = len(self.memory_mb) // 10
        third = max(1, (len(self.memory_mb) - after) // 3)
        (first, last), (files, last_files) = (
            (median(seen[after : after + third]), median(seen[-third:])) for seen in (self.memory_mb, self.num_files)
        )
        is_flat = last <= ALLOWED * first and last_files <= files
        return (
            f"| {self.what} | {len(self.memory_mb)} | {first:.0f} | {last:.0f} | {last / first:.3f} | {files:.0f} | "
            f"{last_files:.0f} |",
            is_flat,
        )


def main() -> int:
    args = parse_arguments()
    [*configs] = args.demo.glob("*/runs/transformer/config.yaml")
    if not configs:
        raise InputError(f"--demo {args.demo}: holds no run of the transformer; run `make demo` first")
    with tempfile.TemporaryDirectory() as folder:
        parts = watch_all(Path(folder), configs[0], args.minutes * 60)
    rows = [part.verdict() for part in parts]
    lines = [
        "# A long run",
        "",
        f"{args.minutes:.0f} minutes of training and evaluation on the demo's episodes, on {granted_cores()} CPU cores "
        "(`python -m benchmarks.soak`): medians of the first and the last third after a warm-up.",
        "",
        "| part | samples | MB first | MB last | ratio | files first | files last |",
        "|---|---|---|---|---|---|---|",
        *(row for row, _ in rows),
    ]
    print("\n".join(lines))
    args.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0 if all(is_flat for _, is_flat in rows) else 1


def watch_all(folder: Path, config: Path, seconds: float) -> list[Watch]:
    """Train for two halves with a restart between them, and evaluate a copy of the run meanwhile, over and over."""
    trained, evaluations = [], Watch("evaluate.py, peak of each run")
    command = [*("train.py", "-f", config, f"--runs_dir={folder}"), "name=soak", "resume=auto"]
    command += ["training.n_epochs=1000000", "dataset.fresh_episodes=true"]
    copy = folder / "evaluated" / "soak"
    for half in ("before", "after"):
        training = Watch(f"train.py, {half} its restart")
        process, evaluation, peak = start(command), None, (0.0, 0)
        end = time.monotonic() + seconds / 2
        while time.monotonic() < end:
            time.sleep(EVERY_S)
            if process.poll() is not None:
                raise Failure(f"train.py ended with status {process.returncode} {half} its restart")
            memory, files = usage(process.pid)
            training.memory_mb.append(memory)
            training.num_files.append(files)
            if evaluation and evaluation.poll() is None:
                memory, files = usage(evaluation.pid)
                peak = max(peak[0], memory), max(peak[1], files)
            elif evaluation or (folder / "soak" / "checkpoints" / "best.safetensors").exists():
                if evaluation:
                    if evaluation.returncode:
                        raise Failure(f"evaluate.py ended with status {evaluation.returncode}")
                    evaluations.memory_mb.append(peak[0])
                    evaluations.num_files.append(peak[1])
                for name in ("config.yaml", "environment.json", "metrics.jsonl", "checkpoints/best.safetensors"):
                    (copy / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(folder / "soak" / name, copy / name)
                evaluation, peak = start(["evaluate.py", copy]), (0.0, 0)
        process.send_signal(signal.SIGTERM)
        if (status := process.wait()) != 75:
            raise Failure(f"train.py ended with status {status} when it was asked to stop")
        if evaluation:
            evaluation.kill()
            evaluation.wait()
        trained.append(training)
    return [*trained, evaluations]


def start(command: list[object]) -> subprocess.Popen:
    """Start a script of the project, silently."""
    script, *words = map(str, command)
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *words], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def usage(process_id: int) -> tuple[float, int]:
    """Megabytes and open files of a process and of all that it has started. Shared pages count in parts."""
    memory_kb = num_files = 0
    for number in family(process_id):
        try:
            rollup = Path(f"/proc/{number}/smaps_rollup").read_text()
            num_files += len(list(Path(f"/proc/{number}/fd").iterdir()))
        except OSError:  # it has just ended
            continue
        [line] = [line for line in rollup.splitlines() if line.startswith("Pss:")]
        memory_kb += int(line.split()[1])
    return memory_kb / 1024, num_files


def family(process_id: int) -> Iterator[int]:
    """A process and all its descendants."""
    yield process_id
    try:
        children = [task.read_text().split() for task in Path(f"/proc/{process_id}/task").glob("*/children")]
    except OSError:
        return
    for child in {int(number) for numbers in children for number in numbers}:
        yield from family(child)


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=number_between(1, 10_000), default=60, help="length of the run")
    parser.add_argument("--demo", type=Path, default=ROOT / "demo-run", help="folder of an earlier demo")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "soak.md", help="where the table goes")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
