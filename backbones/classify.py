"""Learn to name what happens in films, from a list of films with labels; or see how good a backbone is at it.

  python -m backbones.classify -f config-files/backbones/demo/labels.yaml
  python -m backbones.classify -f config-files/backbones/linear/ucf101.yaml network.weights=runs/byol/weights.safetensors
  python -m backbones.classify -f config-files/backbones/actions/ucf101-srtg_r3d_34.yaml --measure_reading 60
  python -m backbones.classify --test runs/ucf101 test.clips=10 test.crops=3        score it anew, with other views

classifier.train says what learns: all (from scratch, or from weights with rates of their own), finetune (the same with
a new last layer), linear (the last layer alone). Lists are made by python -m backbones.prepare; those of UCF101, HMDB51,
Kinetics, HACS, Moments in Time and Diving48 are read as they come. docs/backbones.md tells of all of it.

Writes runs/<name>/ as train.py does, and weights.safetensors (the epoch that did best on validation: what
preprocess_videos.py --weights reads), train_results.csv and val_results.csv, and at the end test.json, answers.npz,
classes.csv and report.html: accuracy by film with intervals over the films' sources, and beside it what the same
weights make of one frame repeated, of frames shuffled and of frames reversed.

SIGTERM and SIGUSR1 end it after the step under way with status 75; --resume goes on from that very step.
"""

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from backbones.config import ClassifySettings
from backbones.session import parse_training
from recognition.common.command_line import ArgumentParser, folder_path, run, whole_number

if TYPE_CHECKING:
    pass


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
    from backbones.items import open_films
    from backbones.session import check_run

    config = args.config
    if check_run(config, args, ClassifySettings):
        return
    from recognition.training.devices import launch

    fabric = launch(config.training)
    films = open_films(config, fabric.is_global_zero)
    tell_films(films, fabric)
    ...


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
    args, settings = parse_training(parser, ClassifySettings, words)
    if bool(args.config_file) == bool(args.test):
        parser.error("one of -f CONFIG and --test RUN is needed")
    file = args.config_file or args.test / "config.yaml"
    args.config = load_settings(ClassifySettings, file, settings)
    return args


if __name__ == "__main__":
    run(main)
