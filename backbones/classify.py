"""Learn to name what happens in films, from a list with labels.

  python -m backbones.classify -f config-files/backbones/demo/labels.yaml
  python -m backbones.classify -f config-files/backbones/linear/ucf101.yaml network.weights=runs/x/weights.safetensors
  python -m backbones.classify -f config-files/backbones/actions/ucf101-srtg_r3d_34.yaml --measure_reading 60
  python -m backbones.classify --test runs/ucf101 test.clips=10 test.crops=3       score it anew, with other views

classifier.train says what learns: all (from scratch, or from weights with rates of their own), finetune (the same with
a new last layer), linear (the last layer alone). Lists are made by python -m backbones.prepare; those of UCF101,
HMDB51, Kinetics, HACS, Moments in Time and Diving48 are read as they come. docs/backbones.md tells of all of it.

Writes runs/<name>/ as train.py does; weights.safetensors (the epoch that did best on validation: what
preprocess_videos.py --weights reads), train_results.csv and val_results.csv; and at the end test.json, answers.npz,
classes.csv and report.html: accuracy by film with intervals over the films' sources, and beside it what the same
weights make of one frame repeated, of frames shuffled and of frames reversed.

SIGTERM and SIGUSR1 end it after the step under way with status 75; --resume goes on from that very step.
"""

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from backbones.config import ClassifySettings
from recognition.common.command_line import ArgumentParser, folder_path, parse_training, run, whole_number

if TYPE_CHECKING:
    from backbones.classifier import ClipClassifier
    from backbones.items import Films

# Settings that a finished run may be scored with anew.
TESTED_ANEW = (
    "test.",
    "data.list",
    "data.videos",
    "data.workers",
    "data.cache",
    "training.device",
    "training.num_devices",
)


def main() -> None:
    args = parse_arguments()
    from recognition.training.companions import loss_told

    with loss_told():
        if args.test:
            test_again(args)
        elif args.measure_reading:
            measure_reading(args)
        else:
            train(args)


def train(args: Namespace) -> None:
    from backbones.epoch_tables import write_epoch_tables
    from backbones.items import open_films
    from backbones.monitor import PeakMemory
    from backbones.networks import build_backbone, eye_of, films_seen
    from backbones.session import input_files, tell_films
    from backbones.tasks import make_task
    from backbones.testing import best_weights, test
    from recognition.features.weights_file import write_backbone
    from recognition.training.devices import launch
    from recognition.training.runs import Run
    from recognition.training.session import fit, open_session

    config, run = args.config, Run(args.runs_dir / args.config.name)
    session = open_session(config, args, input_files)
    if session.is_finished:
        return
    fabric = launch(config.training)
    films = open_films(config, fabric.is_global_zero)
    tell_films(films, fabric)
    backbone, loaded = build_backbone(config)
    model = build_classifier(config, backbone, films)
    digests = films_seen(config, films.train) if fabric.is_global_zero else ()
    eye = eye_of(config, films.train, digests, films.classes)
    task, epochs = make_task(model, films, fabric, config, loaded)

    memory = PeakMemory(fabric.device)

    def after_epoch(metrics: dict[str, Any]) -> None:
        memory.tell_once()
        write_backbone(run.path / "weights.safetensors", best_weights(run, model), eye)
        write_epoch_tables(run.path, run.read_metrics())

    training = config.training.model_copy(update={"n_epochs": epochs})
    reporter = fit(session, task, fabric, config, training, after_epoch)
    model.load_weights(best_weights(run, model))
    fabric.to_device(model)
    scores = test(fabric, model, films, config, run)
    if reporter:
        reporter.close({"test top1": scores["top1"]} if scores else {})


def build_classifier(config: ClassifySettings, backbone: Any, films: "Films") -> "ClipClassifier":
    """The network with a new last layer, which the seed draws."""
    import torch

    from backbones.classifier import ClipClassifier

    torch.manual_seed(config.training.seed)
    settings = config.classifier
    return ClipClassifier(backbone, len(films.classes), settings.dropout, settings.train, settings.norms)


def test_again(args: Namespace) -> None:
    """Score a run's best weights anew. Raises InputError where its list is not the one that it was trained on."""
    from backbones.items import open_films
    from backbones.networks import build_backbone, read_weights
    from backbones.session import input_files
    from backbones.testing import test
    from recognition.training.devices import launch
    from recognition.training.runs import Run, describe_inputs

    config, run = args.config, Run(args.test)
    run.check_inputs(describe_inputs({"list": input_files(config)["list"]}))
    weights = read_weights(run.path / "weights.safetensors")
    fabric = launch(config.training)
    films = open_films(config, fabric.is_global_zero)
    backbone, _ = build_backbone(config, with_weights=False)
    model = build_classifier(config, backbone, films)
    model.load_weights(weights)
    fabric.to_device(model)
    test(fabric, model, films, config, run)


def measure_reading(args: Namespace) -> None:
    """Read clips of training for a while, without a network, and say how many a second."""
    import time

    from backbones.dataset import ClipDataset, Draw
    from backbones.items import open_films
    from backbones.loader import made_in_order
    from backbones.monitor import Monitor

    config = args.config
    films = open_films(config)
    data = ClipDataset(films.train, config, films.readers)
    monitor, started, num = Monitor(config.data.workers), time.perf_counter(), 0
    epoch = 0
    while time.perf_counter() - started < args.measure_reading:
        draws = [Draw(item, epoch, config.clip.frames, config.clip.side) for item in range(len(data))]
        epoch += 1
        for made in made_in_order(data.drawn, draws, data.names(range(len(data))), config.data.workers):
            monitor.read(1, made.seconds)
            num += 1
            if time.perf_counter() - started >= args.measure_reading:
                break
    by_workers, by_clock = monitor.rates()["r"], num / (time.perf_counter() - started)
    print(
        f"{config.data.workers} workers make {by_workers:,.0f} clips of {config.clip.frames} x {config.clip.side} x "
        f"{config.clip.side} a second while they are busy; {by_clock:,.0f} a second by the clock"
    )


def parse_arguments(words: Sequence[str] | None = None) -> Namespace:
    from recognition.training.config import describe_keys, load_settings

    parser = ArgumentParser(
        description=__doc__,
        usage="%(prog)s -f CONFIG [--resume] [--runs_dir RUNS] [key=value ...]",
        epilog="keys of the YAML file, with their defaults:\n" + describe_keys(ClassifySettings),
    )
    parser.add_argument("--test", type=folder_path, metavar="RUN", help="score a finished run anew, and train nothing")
    parser.add_argument(
        "--measure_reading", type=whole_number(1), metavar="SECONDS", help="read clips for so long, without a network"
    )
    args, settings = parse_training(parser, words, needs_file=False)
    if bool(args.config_file) == bool(args.test):
        parser.error("one of -f CONFIG and --test RUN is needed")
    if args.test and (others := [word for word in settings if not word.startswith(TESTED_ANEW)]):
        parser.error(f"{others[0]}: is not for a run that is trained; with --test set {', '.join(TESTED_ANEW)}")
    args.config = load_settings(ClassifySettings, args.config_file or args.test / "config.yaml", settings)
    return args


if __name__ == "__main__":
    run(main)
