"""Measure what is fast against its plain rivals, side by side, and write the table to benchmarks/results.json and
docs/speed.md.

python -m benchmarks                     everything that runs on the CPU
python -m benchmarks transformer mlstm   some of it, to be printed alone
python -m benchmarks --device cuda       the models and a training epoch on a GPU: results-gpu.json, speed-gpu.md
"""

import importlib
import json
import platform
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from benchmarks import CASES, GPU_CASES
from recognition.common.allocator import keep_freed_memory
from recognition.common.command_line import ArgumentParser, nearest, run
from recognition.common.machine import granted_cores

FOLDER = Path(__file__).parent
DOCS = FOLDER.parent / "docs"


def main() -> None:
    args = parse_arguments()
    import torch

    if args.keep_memory:
        keep_freed_memory()
    rows = []
    layout = "{:44}{:40}{:>9}{:>8}{:>9}{:>8}  {}"
    print(layout.format("", "against", "faster", "wanted", "memory", "wanted", ""))
    for name in args.cases or (CASES if args.device == "cpu" else GPU_CASES):
        case = getattr(importlib.import_module(f"benchmarks.{CASES[name]}"), name)
        for row in case(args.device, args.videos) if name in ("preprocess", "clips") else case(args.device):
            rows.append(row)
            memory = [f"{share:.2f}" if share else "" for share in (row.memory_share, row.wanted_memory_share)]
            print(layout.format(row.what, row.rival, f"{row.ratio:.2f}x", f"{row.wanted:.3g}x", *memory, row.note))
    if args.cases or args.keep_memory:
        return
    machine = {
        "device": args.device if args.device == "cpu" else torch.cuda.get_device_name(),
        "cores": granted_cores(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "platform": platform.platform(),
    }
    measured = [{**asdict(row), "ratio": row.ratio} for row in rows]
    path = FOLDER / ("results.json" if args.device == "cpu" else "results-gpu.json")
    path.write_text(json.dumps({"machine": machine, "rows": measured}, indent=2) + "\n")
    page = DOCS / ("speed.md" if args.device == "cpu" else "speed-gpu.md")
    page.write_text(describe(machine, measured))
    print(f"written to {path} and {page}")


def describe(machine: dict, rows: list[dict]) -> str:
    """The measurements as a page of Markdown."""
    lines = [
        "# How fast it is",
        "",
        "Times and peak memory against plain rivals, which take turns with ours in one run and get the same inputs and "
        f"weights. On {machine['device']}, {machine['cores']} cores, torch {machine['torch']}; made by "
        "`python -m benchmarks`. On a CPU some rivals spend nearly half of their time on pages that the system clears; "
        "`--keep_memory` prints the ratios without that.",
        "",
        "| what | against | times faster (goal) | share of its memory (goal) | |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        memory = f"{row['memory_share']:.2f} ({row['wanted_memory_share']:.2f})" if row["memory_share"] else ""
        faster = f"{row['ratio']:.2f} ({row['wanted']:.3g})"
        lines.append(f"| {row['what'].strip()} | {row['rival']} | {faster} | {memory} | {row['note']} |")
    return "\n".join(lines) + "\n"


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help=f"which to measure, all if none is named: {', '.join(CASES)}")
    parser.add_argument("--videos", type=Path, help="films for preprocess and clips; synthetic ones if not given")
    parser.add_argument(
        "--keep_memory",
        action="store_true",
        help="have both sides keep memory that they free, as train.py does: no time goes into clearing new pages, of "
        "which some rivals need many; nothing is written",
    )
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
