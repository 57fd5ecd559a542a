"""Which task trains what the settings of a classification ask for."""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from backbones.classification_task import ClassificationTask
from backbones.classifier import ClipClassifier
from backbones.config import ClassifySettings
from backbones.dataset import ClipDataset, Draw
from backbones.items import Films
from backbones.loader import Made, made_in_order
from backbones.monitor import Monitor
from backbones.multigrid import Phase, check, num_epochs, schedule, table
from backbones.probe_task import Features, ProbeTask
from backbones.rehearsal import rehearse
from models.split_batch_norm import set_splits, split_norms
from recognition.common.command_line import InputError


def make_task(
    model: ClipClassifier, films: Films, fabric: Fabric, config: ClassifySettings, loaded: set[str]
) -> tuple[ClassificationTask | ProbeTask, int]:
    """What is to be trained, and for how many epochs. Raises InputError for settings that do not go with the films."""
    sets = [ClipDataset(items, config, films.readers) for items in (films.train, films.validation)]
    phases = schedule(config.multigrid, config.training, config.clip)
    check(phases, len(films.train), fabric.world_size)
    if config.classifier.cached_views:
        return make_probe(model, sets, fabric, config), config.training.n_epochs
    fit_norms(model, phases, fabric, config)
    if config.multigrid.long or config.multigrid.short:
        if fabric.is_global_zero:
            print(table(phases))
        try_shapes(model, phases, fabric, config)
    monitor = Monitor(config.data.workers, fabric.device, tells=fabric.is_global_zero)
    return ClassificationTask(model, sets[0], sets[1], fabric, config, phases, loaded, monitor), num_epochs(phases)


def fit_norms(model: ClipClassifier, phases: Sequence[Phase], fabric: Fabric, config: ClassifySettings) -> None:
    """Let norms have statistics of about `bn_clips` clips: of parts of a batch that multigrid has made larger, and of
    all GPUs together where each has fewer. Raises InputError where a process has but one clip to take them of."""
    clips = phases[-1].clips // fabric.world_size
    if clips < 2 and config.classifier.norms != "frozen":
        raise InputError(
            f"training.batch_size: {phases[-1].clips} leaves a process one clip, of which norms learn nothing; set "
            f"{2 * fabric.world_size} or more, or classifier.norms: frozen"
        )
    if fabric.world_size > 1 and fabric.device.type == "cuda" and clips < config.multigrid.bn_clips:
        model.backbone.network = nn.SyncBatchNorm.convert_sync_batchnorm(model.backbone.network)
    elif config.multigrid.long or config.multigrid.short:
        split_norms(model)


def try_shapes(model: ClipClassifier, phases: Sequence[Phase], fabric: Fabric, config: ClassifySettings) -> None:
    """Take a step of every shape and say what it takes. Raises InputError for one that does not fit the memory."""

    def step(clips: Tensor, phase: Phase) -> None:
        set_splits(model, phase.num_splits(fabric.world_size, config.multigrid.bn_clips))
        with fabric.autocast():
            logits = model(clips)
        F.cross_entropy(logits, torch.zeros(len(clips), dtype=torch.long, device=clips.device)).backward()

    fabric.to_device(model).train()
    for found in rehearse(model, phases, step, fabric.device, fabric.world_size):
        if fabric.is_global_zero:
            print(found)


def make_probe(
    model: ClipClassifier, sets: Sequence[ClipDataset], fabric: Fabric, config: ClassifySettings
) -> ProbeTask:
    """Last layers, one for each of `classifier.rates`, on features of clips that the frozen network sees once."""
    train, validation = sets
    num = config.classifier.cached_views
    assert num
    if not len(validation):
        raise InputError(
            "classifier.cached_views: there are no validation films, by which a rate is chosen; list some, or raise "
            "data.validation_share"
        )
    fabric.to_device(model).eval()
    draws = [
        Draw(item, view, config.clip.frames, config.clip.side) for item in range(len(train)) for view in range(num)
    ]
    names = train.names([draw.item for draw in draws])
    seen = _features(model, made_in_order(train.drawn, draws, names, config.data.workers), fabric, config)
    numbers = range(len(validation))
    middle = made_in_order(validation.middle, numbers, validation.names(numbers), config.data.workers)
    return ProbeTask(
        Features(seen.unflatten(0, (len(train), num)), _labels(train)),
        Features(_features(model, middle, fabric, config)[:, None], _labels(validation)),
        model.head.out_features,
        config.classifier.rates or [config.training.learning_rate],
        config.training,
        (fabric.global_rank, fabric.world_size),
    )


@torch.no_grad()
def _features(model: ClipClassifier, made: Iterator[Made], fabric: Fabric, config: ClassifySettings) -> Tensor:
    """Features (N, D) of clips, in their order; every process makes all of them."""
    found = []
    while part := list(islice(made, config.test.batch_size)):
        clips = fabric.to_device(torch.cat([one.clips for one in part]))
        with fabric.autocast():
            found.append(model.backbone(clips).cpu())
    return torch.cat(found)


def _labels(dataset: ClipDataset) -> Tensor:
    return torch.tensor([item.label for item in dataset.items])
