"""How good a backbone is at finding films of the same class: R@1, 5, 10, 20 and 50.

  python -m backbones.retrieve runs/films-r3d_18 --list ucf101/split1.csv --videos ucf101
  python -m backbones.retrieve runs/ucf101-r3d_18-memory                       the list that it was trained on
  python -m backbones.retrieve runs/ucf101-r3d_18-memory --random              its network before it has learned

Each test film asks for its nearest training films by the cosine of features, which are the mean over --clips clips
evenly in time. R@k is the share of test films that have one of their class among the k nearest. Writes
retrieval.json into the run's folder, with 95 % intervals by the bootstrap over the test films' sources.

--random has the weights that the seed draws, and statistics of norms measured on clips as training draws them, without
which it would be at a loss for more than learning.

--source_protocol sees films as the code of Li et al. 2023 (doi 10.1145/3581783.3612131) does: three crops of each clip
of a test film, one middle clip of a training film; their crops are random, these are not.
"""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from backbones.config import BackboneSettings, ClassifySettings, PretrainSettings
from recognition.common.command_line import ArgumentParser, InputError, path, run, whole_number

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import Tensor

    from backbones.dataset import ClipDataset

MOST_BATCHES = 50  # to measure norms with


def main() -> None:
    import json

    from backbones.dataset import ClipDataset
    from backbones.items import open_films
    from backbones.networks import build_backbone
    from backbones.precise_norms import measure_norms
    from backbones.retrieval import score_retrieval
    from backbones.session import tell_films
    from recognition.common.files import written_whole
    from recognition.training.devices import launch

    args = parse_arguments()
    config = settings_of(args)
    fabric = launch(config.training)
    films = open_films(config, fabric.is_global_zero)
    tell_films(films, fabric)
    if not films.test:
        raise InputError(f"{config.data.list}: has no test films to ask for; name another list by --list")
    backbone, _ = build_backbone(config)
    fabric.to_device(backbone)
    sets = [ClipDataset(items, config, films.readers) for items in (films.test, films.train)]
    if args.random:
        measure_norms(backbone, training_clips(fabric, sets[1]))
    found = score_retrieval(fabric, backbone, sets[0], sets[1], args.clips, args.source_protocol)
    if not fabric.is_global_zero:
        return
    for k, (share, interval) in found.items():
        ends = " [{:.3f}, {:.3f}]".format(*interval) if interval else ""
        print(f"R@{k:<3} {share:.3f}{ends}")
    told: dict[str, Any] = {f"recall_at_{k}": share for k, (share, _) in found.items()}
    told |= {f"recall_at_{k}_interval": interval for k, (_, interval) in found.items()}
    told |= {"list": config.data.list, "clips": args.clips, "source_protocol": args.source_protocol}
    file = args.run / ("retrieval-random.json" if args.random else "retrieval.json")
    with written_whole(file) as part:
        part.write_text(json.dumps(told, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    print(f"written to {file}")


def training_clips(fabric: "Fabric", dataset: "ClipDataset") -> Iterator["Tensor"]:
    """Batches (B, T, 3, S, S) of clips as training draws them, of films that lie evenly in the list: of all, or what
    MOST_BATCHES hold. In each process the same, so that all measure the same statistics."""
    import torch

    from backbones.dataset import Draw
    from backbones.loader import made_in_order

    config, size = dataset.config, dataset.config.test.batch_size
    numbers = range(len(dataset))[:: max(1, len(dataset) // (MOST_BATCHES * size))]
    draws = [Draw(number, 0, config.clip.frames, config.clip.side) for number in numbers]
    made = made_in_order(dataset.drawn, draws, dataset.names(numbers), config.data.workers, num_ahead=size)
    with fabric.autocast():
        while batch := [one.clips for one in islice(made, size)]:
            yield fabric.to_device(torch.cat(batch))


def settings_of(args: Namespace) -> BackboneSettings:
    """The settings of the run with the weights that it has learned, of which the list, the folder of films and what
    computes may be others now."""
    from recognition.training.config import load_settings, read_yaml

    file = args.run / "config.yaml"
    if not file.is_file():
        raise InputError(f"{args.run}: is not the folder of a run; python -m backbones.pretrain makes one")
    schema: type[BackboneSettings] = PretrainSettings if "byol" in read_yaml(file) else ClassifySettings
    given = {"data.list": args.list, "data.videos": args.videos, "training.device": args.device}
    config = load_settings(schema, file, [f"{key}={value}" for key, value in given.items() if value])
    if config.data.list is None:
        raise InputError(f"{args.run}: was trained without a list; name one with labels and test films by --list")
    whole = config.data.model_copy(update={"segment_s": None, "share": 1.0, "validation_share": 0.0})
    weights = None if args.random else str(args.run / "weights.safetensors")
    network = config.network.model_copy(update={"weights": weights, "partial": False})
    return config.model_copy(update={"data": whole, "network": network})


def parse_arguments(words: Sequence[str] | None = None) -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("run", type=path, help="folder of the run, of pretrain or classify")
    parser.add_argument("--list", type=path, help="films with labels; the run's own if not given")
    parser.add_argument("--videos", type=path, help="folder with these films; the run's own if not given")
    parser.add_argument("--clips", type=whole_number(1), default=10, help="of each film")
    parser.add_argument("--source_protocol", action="store_true", help="see films as the source's code does")
    parser.add_argument(
        "--random",
        action="store_true",
        help="with the weights that the seed draws and norms measured on training films, for comparison",
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], help="what computes; as the run if not given")
    args = parser.parse_args(words)
    return args


if __name__ == "__main__":
    run(main)
