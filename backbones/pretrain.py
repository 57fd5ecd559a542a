"""Learn a backbone from films without a label: predict what a copy of it says of another clip.

  python -m backbones.pretrain -f config-files/backbones/films-r3d_18.yaml
  python -m backbones.pretrain -f config-files/backbones/films-r3d_18.yaml data.split_of=video-features name=own-eye
  python -m backbones.pretrain -f config-files/backbones/ucf101-r3d_18-memory.yaml --resume
  python preprocess_videos.py --backbone r3d_18 --weights runs/films-r3d_18/weights.safetensors

BYOL (arXiv 2006.07733) with a perceptron or a key-value memory for predictor and with concept alignment (Li et al.
2023, doi 10.1145/3581783.3612131). Small films read many times faster: make them with python -m backbones.prepare.
data.split_of trains on the training films of episodes, so that the test films of a memory stay unseen.

Writes runs/<name>/ as train.py does, and after each epoch weights.safetensors, what preprocess_videos.py --weights and
python -m backbones.classify read, with films.txt, the films that the backbone has learned from. metrics.jsonl tells
whether projections collapse: `spread` falls to 0, `cosine` rises to 1; of a memory also the entropy of its addresses
and how many slots are used. A list's validation films, or its test films if it has none and data.validation_share is
0, are looked for among those for training: R@1 is told every training.monitor_epochs.

SIGTERM and SIGUSR1 end it after the step under way with status 75; --resume goes on from that very step.
"""

from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from backbones.config import PretrainSettings
from recognition.common.command_line import ArgumentParser, InputError, parse_training, run

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from backbones.items import Films


def main() -> None:
    args = parse_arguments()
    from recognition.training.companions import loss_told

    with loss_told():
        train(args)


def train(args: Namespace) -> None:
    import torch

    from backbones.byol import VideoBYOL
    from backbones.dataset import ClipDataset
    from backbones.items import open_films
    from backbones.monitor import Monitor, PeakMemory
    from backbones.networks import build_backbone, eye_of, films_seen
    from backbones.pretraining_task import PretrainingTask
    from backbones.session import input_files, tell_films
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
    check_batch(config, len(films.train), fabric)
    backbone, _ = build_backbone(config)
    torch.manual_seed(config.training.seed)
    model = VideoBYOL(backbone, backbone.num_features, config.byol)
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    eye = eye_of(config, films.train, films_seen(config, films.train) if fabric.is_global_zero else ())
    monitor = Monitor(config.data.workers, fabric.device, tells=fabric.is_global_zero)
    train_set = ClipDataset(films.train, config, films.readers)
    task = PretrainingTask(model, train_set, fabric, config, monitor, recall(films, backbone, config, fabric))

    memory = PeakMemory(fabric.device)

    def after_epoch(metrics: dict[str, Any]) -> None:
        memory.tell_once()
        write_backbone(run.path / "weights.safetensors", backbone.network.state_dict(), eye)

    reporter = fit(session, task, fabric, config, config.training, after_epoch)
    if reporter:
        reporter.close({})
        print(f"weights: {(run.path / 'weights.safetensors').resolve()}")


def check_batch(config: PretrainSettings, num_items: int, fabric: "Fabric") -> None:
    """Raise InputError for a batch that the items do not fill, or the processes cannot share: norms need two clips."""
    size = config.training.batch_size
    if size > num_items:
        raise InputError(
            f"training.batch_size: {size}, but there are {num_items} items to train on; lower it, or set a shorter "
            f"data.segment_s to cut films into more of them"
        )
    if size % fabric.world_size or size // fabric.world_size < 2:
        raise InputError(
            f"training.batch_size: {size} must be shared evenly by {fabric.world_size} processes, two or more for each"
        )


def recall(
    films: "Films", backbone: Any, config: PretrainSettings, fabric: "Fabric"
) -> Callable[[], dict[str, float]] | None:
    """What finds R@1 of a list's validation films, or else its test films, among those for training; None if it has
    neither."""
    queries = films.validation or films.test
    if not queries:
        return None
    from backbones.dataset import ClipDataset
    from backbones.retrieval import score_retrieval

    sets = [ClipDataset(items, config, films.readers) for items in (queries, films.train)]

    def found() -> dict[str, float]:
        recalls = score_retrieval(fabric, backbone, sets[0], sets[1], config.test.clips)
        return {"recall_at_1": recalls[1][0]}

    return found


def parse_arguments(words: Sequence[str] | None = None) -> Namespace:
    from recognition.training.config import describe_keys, load_settings

    parser = ArgumentParser(
        description=__doc__,
        usage="%(prog)s -f CONFIG [--resume] [--runs_dir RUNS] [key=value ...]",
        epilog="keys of the YAML file, with their defaults:\n" + describe_keys(PretrainSettings),
    )
    args, settings = parse_training(parser, words)
    args.config = load_settings(PretrainSettings, args.config_file, settings)
    return args


if __name__ == "__main__":
    run(main)
