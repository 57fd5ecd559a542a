"""What commands that train do alike, whatever it is: start a run or go on with one, train it, tell of it."""

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from lightning_fabric import Fabric

from recognition.common.command_line import as_folder
from recognition.common.files import is_there
from recognition.common.stopping import Stopped
from recognition.training.config import AnySettings, LoopConfig, Settings, load_settings
from recognition.training.loop import Loop, Task
from recognition.training.reporting import Reporter
from recognition.training.runs import Run, check_folder, describe_environment, describe_inputs


class Session(NamedTuple):
    """A run that is to be trained."""

    run: Run
    resume: bool  # whether to go on with it, if it was started
    inputs: Mapping[str, Path]  # what it reads and knows again by its content, by names in INPUT_KEYS
    is_finished: bool


def open_session(
    config: AnySettings,
    args: Namespace,
    input_files: Callable[[AnySettings], Mapping[str, Path]],
    read: Callable[[Path], AnySettings] | None = None,
) -> Session:
    """The run of these settings in the folder that arguments name; that it is finished is told.

    Args:
        config: all settings.
        args: with runs_dir and resume.
        input_files: what a run of such settings reads.
        read: how its config.yaml is read again, if that takes more than its class.

    Raises InputError if its folder is another run's, or this one's and is not to be gone on with, and if an input is
    missing.
    """
    run = Run(as_folder(args.runs_dir / str(config.name)))
    resume = args.resume or config.resume == "auto"
    check_folder(run, config, resume, read or (lambda path: load_settings(type(config), path)), input_files)
    is_finished = is_there(run.test_file)
    if is_finished:
        print(f"{run.path} is finished; its scores: {run.test_file.read_text()}")
    return Session(run, resume, input_files(config), is_finished)


def fit(
    session: Session,
    task: Task,
    fabric: Fabric,
    config: Settings,
    training: LoopConfig,
    after_epoch: Callable[[dict[str, Any]], None],
) -> Reporter | None:
    """Train a task, from where it was left if that is wanted; returns the Reporter in the first of its processes, None
    in the others.

    Args:
        session: the run.
        task: what to train.
        fabric: launched.
        config: all settings, to be kept with the run.
        training: those of the loop, with as many epochs as the task has.
        after_epoch: called in the first process with the epoch's metrics, to keep weights and tables.

    Raises InputError if an input is not what the run has read before, and Stopped in the first process, which alone
    tells the scheduler, where that one wants it; a checkpoint has been written.
    """
    run, inputs = session.run, describe_inputs(session.inputs)
    run.check_inputs(inputs)
    reporter = Reporter(run, config, training.n_epochs) if fabric.is_global_zero else None
    loop = Loop(task, fabric, training, run)
    if session.resume:
        loop.restore()
    if reporter:
        run.start(config, {**describe_environment(str(fabric.device)), "inputs": inputs}, reporter.wandb_id)
        run.forget_metrics_after(loop.progress.epoch)

    def report(metrics: dict[str, Any]) -> None:
        assert reporter is not None  # in the process that is asked to report
        reporter.report(metrics)
        after_epoch(metrics)

    with stops_told(reporter):
        loop.fit(report, config.show_timing)
        fabric.barrier()  # until the best weights are written
    return reporter


@contextmanager
def stops_told(reporter: Reporter | None) -> Iterator[None]:
    """Within the block a stop that a scheduler wants is told by the first process alone, which has the reporter; the
    others end."""
    try:
        yield
    except Stopped:
        if reporter is None:
            sys.exit()
        reporter.stopped()
        raise
