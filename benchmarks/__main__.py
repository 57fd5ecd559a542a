"""Measure what is fast against its plain rivals, side by side, and write the table to benchmarks/results.json.

python -m benchmarks                     everything that runs on the CPU
python -m benchmarks transformer mlstm   some of it
python -m benchmarks --device cuda       the models and a training epoch on a GPU; benchmarks/results-gpu.json
"""

import importlib
import json
import os
import platform
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from benchmarks import CASES, GPU_CASES
from recognition.command_line import ArgumentParser, nearest, run

FOLDER = Path(__file__).parent


def main() -> None:
    args = parse_arguments()
    import torch

    rows = []
    layout = "{:44}{:40}{:>9}{:>8}{:>9}{:>8}  {}"
    print(layout.format("", "against", "faster", "wanted", "memory", "wanted", ""))
    for name in args.cases or (CASES if args.device == "cpu" else GPU_CASES):
        case = getattr(importlib.import_module(f"benchmarks.{CASES[name]}"), name)
        for row in case(args.device, args.videos) if name == "preprocess" else case(args.device):
            rows.append(row)
            memory = [f"{share:.2f}" if share else "" for share in (row.memory_share, row.wanted_memory_share)]
            print(layout.format(row.what, row.rival, f"{row.ratio:.2f}x", f"{row.wanted:g}x", *memory, row.note))
    if args.cases:
        return
    machine = {
        "device": args.device if args.device == "cpu" else torch.cuda.get_device_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "platform": platform.platform(),
    }
    lines = [{**asdict(row), "ratio": row.ratio} for row in rows]
    path = FOLDER / ("results.json" if args.device == "cpu" else "results-gpu.json")
    path.write_text(json.dumps({"machine": machine, "rows": lines}, indent=2) + "\n")
    print(f"written to {path}")


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__, prog="python -m benchmarks")
    parser.add_argument("cases", nargs="*", help=f"which to measure, all if none is named: {', '.join(CASES)}")
    parser.add_argument("--videos", type=Path, help="films for preprocess; synthetic ones if not given")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where the models run")
    args = parser.parse_args()
    for name in args.cases:
        if name not in CASES:
            parser.error(f"no benchmark is called {name!r}; {nearest(name, CASES)}")
    if args.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            parser.error("--device cuda: torch sees no GPU on this machine")
        if cpu_only := sorted(set(args.cases) - set(GPU_CASES)):
            parser.error(f"--device cuda: {', '.join(cpu_only)} runs on the CPU alone")
    return args


if __name__ == "__main__":
    run(main)
