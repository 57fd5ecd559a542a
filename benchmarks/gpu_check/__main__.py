"""Check and measure, in a few minutes, all that only a GPU can tell; what matters most comes first.

  python -m benchmarks.gpu_check                                  9 minutes on a GPU; writes docs/gpu/ and docs/gpu.md
  python -m benchmarks.gpu_check --minutes 4 tests correctness    some parts alone
  python -m benchmarks.gpu_check --device cpu --tiny --output DIR rehearses every part in a minute; no figure counts

Every part is a process of its own with a share of the minutes that are left. What it finds is written at once, so a run
that is cut short keeps all that it has found. Status 1 says that something is not as it should be. Packages that only
one part needs, such as av for preprocessing, may be missing: that part says so and the others run.
"""

import json
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from benchmarks import tiny
from benchmarks.gpu_check.page import write_page
from benchmarks.gpu_check.parts import PARTS, append, run_part
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
    parser = ArgumentParser(description=__doc__)
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
