"""One training step of every shipped configuration at the published scale, 16 episodes of 9,180 frames: time, memory.

python -m benchmarks.full_scale              all of config-files/, on the CPU; writes docs/full_scale.md, takes minutes
python -m benchmarks.full_scale lstm mlstm   some of them, to be printed alone

Episodes are drawn from made-up:1072x20000 and gathered as in training. Every step is the first one of a process of its
own, so that it has what happens once only, such as compiling, and memory begins at what the program itself takes.
"""

import multiprocessing
import platform
from argparse import Namespace
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from benchmarks.gpu_check import learning
from benchmarks.measure import memory_of_process
from recognition.common.command_line import ArgumentParser, nearest, run
from recognition.common.machine import granted_cores

ROOT = Path(__file__).parent.parent
CONFIGS = {path.stem: path for path in sorted((ROOT / "config-files").glob("*.yaml"))}
BATCH = 16


class Step(NamedTuple):
    """What one batch and the step on it took."""

    parameters: int
    gather_s: float
    step_s: float
    peak_gb: float  # of the whole process
    loss: float


def main() -> None:
    args = parse_arguments()
    lines = []
    for name in args.configs or CONFIGS:
        # Every one in a process of its own: memory that another has freed would not count.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            step = pool.submit(measure, name).result()
        lines.append(
            f"| {name} | {step.parameters:,} | {step.gather_s:.1f} | {step.step_s:.1f} | {step.peak_gb:.1f} | "
            f"{step.loss:.3f} |"
        )
        print(lines[-1], flush=True)
    if not args.configs:
        (ROOT / "docs" / "full_scale.md").write_text(page(lines))


def measure(name: str) -> Step:
    """Gather a batch and make the first training step of a configuration on it, in this process."""
    learning.NUM_TRAINING = learning.NUM_VALIDATION = BATCH
    train_set, _ = learning.open_sets("cpu", place="mapped")  # held nowhere, made as needed
    loop = learning.prepare(name, "cpu", train_set, train_set)
    metrics, progress = loop.train_epoch(), loop.progress
    peak_gb = memory_of_process("VmHWM") / 1e9
    num_parameters = sum(parameter.numel() for parameter in loop.model.parameters())
    return Step(num_parameters, progress.waited, progress.seconds - progress.waited, peak_gb, metrics["train_loss"])


def page(lines: list[str]) -> str:
    """The measurements as a page of Markdown."""
    import torch

    return "\n".join(
        [
            "# One training step at the published scale",
            "",
            f"The first step of every configuration in `config-files/` on {BATCH} episodes of 90 clips, 9,000 study",
            "frames and 180 probes, from `made-up:1072x20000`: seconds to gather the batch and to compute the step,",
            "forwards and backwards, and the peak memory of the whole process. In float32 on "
            f"{granted_cores()} CPU cores ({platform.machine()}), torch {torch.__version__}; made by",
            "`python -m benchmarks.full_scale`.",
            "",
            "| configuration | parameters | gather, s | step, s | peak, GB | loss |",
            "|---|---|---|---|---|---|",
            *lines,
            "",
        ]
    )


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="*", help=f"which to measure, all if none is named: {', '.join(CONFIGS)}")
    args = parser.parse_args()
    for name in args.configs:
        if name not in CONFIGS:
            parser.error(f"no configuration is called {name!r}; {nearest(name, CONFIGS)}")
    return args


if __name__ == "__main__":
    run(main)
