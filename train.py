"""Step 4: train one model on the episodes and score it on films it has never seen.

  python train.py -f config-files/transformer.yaml
  python train.py -f config-files/mlstm.yaml training.learning_rate=3e-4 model.args.n_layers=2 name=mlstm-deep
  python train.py -f config-files/transformer.yaml --resume        go on where an interrupted run stopped

Writes runs/<name>/ with config.yaml (all settings, loads back to the same run), metrics.jsonl (a line an epoch),
checkpoints/last.pt (for --resume), checkpoints/best.safetensors (the weights that did best on validation),
environment.json and, at the end, test.json: the test episodes are read once, with the best weights. With
training.calibrate=true their answers are also scored with the threshold that is best on validation.

With a section `stream` in the YAML file it learns from streams of the same films instead, in which every frame is asked
about and some come again, as config-files/demo/stream-mlstm.yaml does; the test stays that of episodes.

SIGTERM and SIGUSR1 end it after the step under way, with a checkpoint and exit status 75, on which a scheduler may
requeue it: the same command with --resume, or with resume: auto in the YAML file, goes on from that very step. Status 2
means wrong input and 1 that the work failed. On several GPUs use training.num_devices=N; on several machines, torchrun.
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recognition.common.command_line import ArgumentParser, as_folder, parse_training, run

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from models.recogniser import Recogniser
    from recognition.episodes.dataset import EpisodeDataset
    from recognition.training.config import RunConfig
    from recognition.training.loop import Task
    from recognition.training.runs import Run


def main() -> None:
    args = parse_arguments()
    from recognition.training.companions import loss_told

    with loss_told():
        train(args)


def train(args: Namespace) -> None:
    from recognition.training.data import open_sets
    from recognition.training.devices import launch
    from recognition.training.episode_task import EpisodeTask
    from recognition.training.model import check_clips, check_probe_times, first_model, read_config, save_weights
    from recognition.training.runs import describe_inputs, input_files
    from recognition.training.session import fit, open_session, stops_told
    from recognition.training.stream_task import StreamTask

    config = args.config
    for file in (config.logging.logfile, config.model.save and config.model.save_path):
        if file:
            as_folder(Path(file).parent)
    session = open_session(config, args, input_files, read_config)
    run = session.run
    if session.is_finished:
        run.keep_places(config)
        return
    fabric = launch(config.training)
    sets = open_sets(config, fabric)
    if not run.config_file.exists():
        check_clips(config, sets)
    if config.model.load:  # looked at before it is read, as the other inputs are before training
        run.check_inputs(describe_inputs({"load": session.inputs["load"]}))
    model = first_model(config, sets[0])
    check_probe_times(config, model)
    task: Task = (
        StreamTask(model, sets[0], sets[1], fabric, config)
        if config.stream
        else EpisodeTask(model, sets[0], sets[1], fabric, config.training, config.dataset)
    )
    if fabric.is_global_zero:  # fabric.print would tell it once a node
        describe(config, model, sets, fabric)

    def after_epoch(metrics: dict[str, Any]) -> None:
        if config.model.save:
            save_weights(task.model, Path(config.model.save_path))

    reporter = fit(session, task, fabric, config, config.training, after_epoch)
    with stops_told(reporter):
        scores = test(fabric, task.model, run, config, sets)
    if reporter:
        reporter.finish(scores)


def test(
    fabric: "Fabric", model: Any, run: "Run", config: "RunConfig", sets: "Sequence[EpisodeDataset]"
) -> dict[str, float]:
    """What test.json tells of the best weights. A threshold that validation gives them is kept with them."""
    from recognition.training.calibration import calibrate
    from recognition.training.episode_task import score

    _, validation_set, test_set = sets
    weights = run.load_best()
    weights.pop("threshold", None)  # of an earlier start, which was stopped before its end
    model.load_state_dict(weights)
    if not config.training.calibrate:
        loss, accuracy = score(fabric, model, test_set, config.training)
        return {"test_loss": loss, "test_accuracy": accuracy}
    threshold = calibrate(fabric, model, validation_set, config.training)
    if fabric.is_global_zero:
        run.save_best(model.state_dict())
    loss, accuracy, calibrated = score(fabric, model, test_set, config.training, (0.0, threshold))
    return {"threshold": threshold, "calibrated_accuracy": calibrated, "test_loss": loss, "test_accuracy": accuracy}


def describe(config: "RunConfig", model: "Recogniser", sets: "Sequence[EpisodeDataset]", fabric: "Fabric") -> None:
    """Print what is about to be trained on what, and where."""
    from recognition.training.data import validation_note

    train_set, validation_set, test_set = sets
    num_study = train_set.num_study_frames
    print(
        f"{config.model.model}: {sum(p.numel() for p in model.parameters()):,} parameters, carries "
        f"{model.state_size(num_study):,} floats from {num_study:,} study frames to the probes\n"
        f"{len(train_set):,} training, {len(validation_set):,} validation, {len(test_set):,} test episodes, "
        f"{train_set.bank}; {fabric.world_size} x {fabric.device}, precision {fabric.strategy.precision.precision}"
    )
    if stream := config.stream:
        print(
            f"trained on {stream.streams_per_epoch:,} streams an epoch, of up to {stream.length_s:g} s, each frame of "
            f"which is asked about, and studied {stream.delay_s:g} s later; validated on {stream.validation_streams:,}"
        )
    if note := validation_note(config.dataset):
        print(note)


def parse_arguments(words: Sequence[str] | None = None) -> Namespace:
    from recognition.training.config import describe_keys

    parser = ArgumentParser(
        description=__doc__,
        usage="%(prog)s -f CONFIG [--resume] [--runs_dir RUNS] [key=value ...]",
        epilog="keys of the YAML file, with their defaults:\n" + describe_keys(),
    )
    args, words = parse_training(parser, words)
    from recognition.training.model import read_config  # takes a second, for torch

    args.config = read_config(args.config_file, words)
    return args


if __name__ == "__main__":
    run(main)
