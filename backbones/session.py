"""What the trainings of backbones do alike: start or go on with a run, train, tell."""

import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from backbones.config import BackboneSettings
from recognition.common.command_line import ArgumentParser, as_folder, folder_path, own_file

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from backbones.items import Films

AnySettings = TypeVar("AnySettings", bound=BackboneSettings)


def parse_training(parser: ArgumentParser, words: Sequence[str] | None = None) -> tuple[Namespace, list[str]]:
    """Arguments of a command that trains by a YAML file, and the settings among them, such as clip.frames=8."""
    parser.add_argument("-f", "--config-file", type=own_file, help="YAML file with the settings of the run")
    parser.add_argument("--resume", action="store_true", help="go on with the run of this name, if it was started")
    parser.add_argument("--runs_dir", type=folder_path, default=Path("runs"), help="folder of the runs' folders")
    args, settings = parser.parse_known_args(words)
    if options := [word for word in settings if word.startswith("-") and "=" not in word]:
        parser.error(f"unrecognized arguments: {' '.join(options)}")
    return args, settings


def input_files(config: BackboneSettings) -> dict[str, Path]:
    """The files that a run knows again by their content."""
    files = {}
    if config.data.list:
        files["list"] = Path(config.data.list)
    if config.network.weights and not config.network.weights.startswith(("DEFAULT", "random:")):
        files["weights"] = Path(config.network.weights)
    return files


def check_run(config: AnySettings, args: Namespace) -> bool:
    """Whether the run is finished already, which is told. Raises InputError if its folder is another run's, or this
    one's and is not to be gone on with."""
    from recognition.common.files import is_there
    from recognition.training.config import load_settings
    from recognition.training.runs import Run, check_folder

    run = Run(as_folder(args.runs_dir / str(config.name)))
    resume = args.resume or config.resume == "auto"
    check_folder(run, config, resume, lambda path: load_settings(type(config), path), input_files)
    if is_there(run.test_file):
        print(f"{run.path} is finished; its scores: {run.test_file.read_text()}")
        return True
    return False


def tell_films(films: "Films", fabric: "Fabric") -> None:
    """Say in the first process what is trained on, and which films of a list are missing."""
    if not fabric.is_global_zero:
        return
    parts = {"training": films.train, "validation": films.validation, "test": films.test}
    told = ", ".join(f"{len(items):,} {name}" for name, items in parts.items() if items)
    classes = f" of {len(films.classes)} classes" if films.classes else ""
    precision = fabric.strategy.precision.precision
    print(f"items: {told}{classes}; {fabric.world_size} x {fabric.device}, precision {precision}")
    for place, reason in films.missing:
        print(f"{place}: {reason}; left out", file=sys.stderr)


def fit(
    task: Any,
    fabric: Any,
    config: BackboneSettings,
    args: Namespace,
    num_epochs: int,
    after_epoch: Callable[[dict[str, Any]], None],
) -> Any:
    """Train a task in the run's folder, from where it was left if that is wanted; returns the Reporter in the first of
    its processes, None in the others.

    Args:
        task: what to train, see `recognition.training.loop.Task`.
        fabric: launched.
        config: all settings; `args` those of the command line.
        num_epochs: how many the task has.
        after_epoch: called in the first process with the epoch's metrics, to keep weights and tables.

    Raises InputError if an input is not what the run has read before, and Stopped in the first process, which alone
    tells the scheduler, where that one wants it; a checkpoint has been written.
    """
    from recognition.common.stopping import Stopped
    from recognition.training.loop import Loop
    from recognition.training.reporting import Reporter
    from recognition.training.runs import Run, describe_environment, describe_inputs

    run = Run(args.runs_dir / str(config.name))
    inputs: Mapping[str, Any] = describe_inputs(input_files(config))
    run.check_inputs(inputs)
    reporter = Reporter(run, config, num_epochs) if fabric.is_global_zero else None
    training = config.training.model_copy(update={"n_epochs": num_epochs})
    loop = Loop(task, fabric, training, run)
    if args.resume or config.resume == "auto":
        loop.restore()
    if reporter:
        run.start(config, {**describe_environment(str(fabric.device)), "inputs": inputs}, reporter.wandb_id)
        run.forget_metrics_after(loop.progress.epoch)

    def report(metrics: dict[str, Any]) -> None:
        assert reporter is not None  # in the process that is asked to report
        reporter.report(metrics)
        after_epoch(metrics)

    try:
        loop.fit(report, config.show_timing)
        fabric.barrier()  # until the best weights are written
    except Stopped:
        if reporter is None:
            sys.exit()
        reporter.stopped()
        raise
    return reporter
