"""Measure what is fast against its plain rivals, side by side, and write the table to benchmarks/results.json.

python -m benchmarks                     everything that runs on the CPU
python -m benchmarks transformer mlstm   some of it
"""

import importlib
import json
import os
import platform
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from benchmarks import CASES
from recognition.command_line import ArgumentParser, nearest, run

RESULTS = Path(__file__).parent / "results.json"


def main() -> None:
    args = parse_arguments()
    import torch

    rows = []
    layout = "{:44}{:40}{:>9}{:>8}{:>9}{:>8}  {}"
    print(layout.format("", "against", "faster", "wanted", "memory", "wanted", ""))
    for name in args.cases or CASES:
        case = getattr(importlib.import_module(f"benchmarks.{CASES[name]}"), name)
        for row in case(args.videos) if name == "preprocess" else case():
            rows.append(row)
            memory = [f"{share:.2f}" if share else "" for share in (row.memory_share, row.wanted_memory_share)]
            print(layout.format(row.what, row.rival, f"{row.ratio:.2f}x", f"{row.wanted:g}x", *memory, row.note))
    if args.cases:
        return
    machine = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    lines = [{**asdict(row), "ratio": row.ratio} for row in rows]
    RESULTS.write_text(
        json.dumps({"machine": machine | {"platform": platform.platform()}, "rows": lines}, indent=2) + "\n"
    )
    print(f"written to {RESULTS}")


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__, prog="python -m benchmarks")
    parser.add_argument("cases", nargs="*", help=f"which to measure, all if none is named: {', '.join(CASES)}")
    parser.add_argument("--videos", type=Path, help="films for preprocess; synthetic ones if not given")
    args = parser.parse_args()
    for name in args.cases:
        if name not in CASES:
            parser.error(f"no benchmark is called {name!r}; {nearest(name, CASES)}")
    return args


if __name__ == "__main__":
    run(main)
