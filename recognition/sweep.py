"""Run a sweep: train.py with many settings, and a comparison of what comes out.

  python -m recognition.sweep config-files/sweeps/demo-learning_rate.yaml      every run, then a table and a comparison
  python -m recognition.sweep config-files/sweeps/models.yaml --list           the command lines, one a run
  python -m recognition.sweep config-files/sweeps/models.yaml --run 3          the third alone, for arrays of jobs
  python -m recognition.sweep config-files/sweeps/models.yaml training.n_epochs=5      with a setting changed in all

Runs go one after the other, or side by side as an array of jobs. The files are those of `wandb sweep`, with method
grid or random; Weights & Biases itself is left alone unless logging.wandb=true is given. All runs are checked before
the first is started. They go to runs/<sweep>/, each under the values that it has, and those of a random sweep under
their number too. Run it again after an interruption, after --run, or with more values in the file: finished runs are
kept, and a run that was stopped goes on.

A run that fails does not end the sweep; at the end they are listed, with exit status 1. A scheduler's SIGTERM or
SIGUSR1 is passed on to the run under way, and the sweep ends with exit status 75 when that has its checkpoint.
"""

import shlex
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

import train
from recognition.common.command_line import ArgumentParser, InputError, folder_path, own_file, run, whole_number
from recognition.common.files import is_there
from recognition.common.stopping import EXIT_STATUS
from recognition.training.config import RunConfig
from recognition.training.sweeps import Metric, arguments, draw_runs, load_sweep, run_names

PROJECT = Path(__file__).parents[1]


class PlannedRun(NamedTuple):
    """One run of the sweep: the words behind train.py, the configuration that they make, and the run's folder."""

    words: list[str]
    config: RunConfig
    folder: Path

    @property
    def is_finished(self) -> bool:
        return is_there(self.folder / "test.json")


def main() -> int:
    args = parse_arguments()
    planned = plan(args)
    if args.list:
        for one in planned:
            print(shlex.join(["python", "train.py", *one.words]))
        return 0
    if args.run:
        if args.run > len(planned):
            raise InputError(f"--run {args.run}: the sweep has {len(planned)} runs, counted from 1")
        return finish(planned[args.run - 1])
    failed = []
    for number, one in enumerate(planned, 1):
        print(f"\nrun {number} of {len(planned)}: {one.folder}", flush=True)
        status = finish(one)
        if status == EXIT_STATUS:
            return status
        if status:
            failed.append(f"run {number}, {one.folder}: status {status}")
    status = 0
    if finished := [one for one in planned if one.is_finished]:
        print_table(finished, args.sweep.file.metric)
        status = script("evaluate.py", *(str(one.folder) for one in finished))
    if failed:
        print("\n".join([f"{len(failed)} of {len(planned)} runs failed:", *failed]), file=sys.stderr)
    return status or (1 if failed else 0)


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__, usage="%(prog)s SWEEP [options] [key=value ...]")
    parser.add_argument("path", type=own_file, metavar="SWEEP", help="YAML file, such as those in config-files/sweeps")
    parser.add_argument("--list", action="store_true", help="print the command lines and run nothing")
    parser.add_argument("--run", type=whole_number(1), metavar="K", help="only the K-th run, counted from 1")
    parser.add_argument("--count", type=whole_number(1), help="as many runs at most; run_cap of the file if not given")
    parser.add_argument("--seed", type=whole_number(), default=0, help="of the random draws")
    parser.add_argument(
        "--runs_dir", type=folder_path, help="folder of the runs' folders; runs/<name of the file> if not given"
    )
    args, words = parser.parse_known_args()
    args.overrides = words
    if unknown := [word for word in args.overrides if word.startswith("-") or "=" not in word]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    args.sweep = load_sweep(args.path)
    args.count = args.count or args.sweep.file.run_cap
    if args.sweep.file.method == "random" and not args.count:
        raise InputError(f"{args.path}: run_cap: is missing; set it, or give --count, for a random sweep never ends")
    args.runs_dir = args.runs_dir or Path("runs") / args.path.stem
    return args


def plan(args: Namespace) -> list[PlannedRun]:
    """All runs of the sweep, checked as train.py checks them. Raises InputError naming the file and the run."""
    from recognition.training.model import read_config
    from recognition.training.runs import Run, check_folder, input_files

    runs = draw_runs(args.sweep, args.count, args.seed)
    names = run_names(args.sweep, runs)
    planned = []
    for number, (values, name) in enumerate(zip(runs, names, strict=True), 1):
        if names.index(name) != number - 1:
            raise InputError(f"{args.path}: parameters: two runs are called {name}; give values that differ")
        words = [*arguments(args.sweep, values), "logging.wandb=false", f"name={name}", *args.overrides]
        words += [f"--runs_dir={args.runs_dir}", "--resume"]
        try:
            config = train.parse_arguments(words).config
            if config.name != name:
                raise InputError("name: the runs of a sweep are named by their values")
            check_folder(Run(args.runs_dir / name), config, True, read_config, input_files)
        except InputError as error:
            raise InputError(f"{args.path}: run {number}: {error}") from None
        planned.append(PlannedRun(words, config, args.runs_dir / name))
    return planned


def finish(one: PlannedRun) -> int:
    """Train a run to its end, unless it is finished; returns the exit status."""
    from recognition.training.runs import Run

    if one.is_finished:
        Run(one.folder).keep_places(one.config)
        print(f"{one.folder} is finished")
        return 0
    return script("train.py", *one.words)


def script(name: str, *words: str) -> int:
    """Run a script of this project, showing the command; returns its exit status.

    Whatever ends the sweep meanwhile, a scheduler's signal or Ctrl-C, ends the script first, which keeps its work.
    """
    print(f"$ python {shlex.join([name, *words])}", flush=True)
    process = subprocess.Popen([sys.executable, str(PROJECT / name), *words])
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise


def print_table(finished: list[PlannedRun], metric: Metric) -> None:
    """Print the runs in the order of the sweep's metric, which is taken from a run's best epoch."""
    from recognition.training.runs import Run

    choose = max if metric.goal == "maximize" else min
    scores = [(choose(line[metric.name] for line in Run(one.folder).read_metrics()), one) for one in finished]
    print(f"\n{metric.name} of the best epoch, best run first:")
    for score, one in sorted(scores, key=lambda pair: pair[0], reverse=metric.goal == "maximize"):
        print(f"{score:12.4f}  {one.config.name}")
    print(flush=True)


if __name__ == "__main__":
    run(main)
