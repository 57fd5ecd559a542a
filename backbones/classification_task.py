"""Action recognition as a task of the training loop: what happens in this clip?

Shapes: B clips, T frames, S pixels a side, C classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from backbones.augmentation import mixed
from backbones.classifier import ClipClassifier, groups_of
from backbones.config import ClassifySettings
from backbones.dataset import ClipDataset, Draw
from backbones.loader import made_in_order
from backbones.monitor import Monitor
from backbones.multigrid import Batch, Phase, epoch_batches, num_epochs, phase_of, step_shapes
from backbones.optimizers import build_optimizer
from backbones.precise_norms import measure_norms
from backbones.rates import learning_rate
from models.split_batch_norm import set_splits
from recognition.training.loop import IsStopAsked, Validation, sum_of_all

PRECISE = 1_000_000  # what clips for norms are drawn with in place of an epoch, so that they are none of training's


class ClipBatch(NamedTuple):
    """Clips with the numbers of their classes."""

    clips: Tensor  # (B, T, 3, S, S) uint8
    label: Tensor  # (B,) int64


class ClassificationTask:
    """A network that learns the classes of clips; see `recognition.training.loop.Task`.

    Args:
        model: the network.
        train_set, validation_set: items with labels.
        fabric: launched.
        config: all settings.
        phases: of multigrid, or the one of a training of one shape.
        loaded: names of the model's weights that came from a file.
        monitor: is told how long reading and computing take.
    """

    def __init__(
        self,
        model: ClipClassifier,
        train_set: ClipDataset,
        validation_set: ClipDataset,
        fabric: Fabric,
        config: ClassifySettings,
        phases: Sequence[Phase],
        loaded: set[str],
        monitor: Monitor,
    ):
        self.classifier, self.train_set, self.validation_set = model, train_set, validation_set
        self.model: nn.Module = model
        self.fabric, self.config, self.phases, self.monitor = fabric, config, phases, monitor
        rates = config.classifier.rates_of
        groups = groups_of(model, loaded, (rates.loaded, rates.gates, rates.new))
        self.optimizer = build_optimizer(groups, config.training)
        self.others: Mapping[str, nn.Module] = {}
        self._epoch_ends = list(accumulate(map(self.num_steps, range(num_epochs(phases)))))

    def num_steps(self, epoch: int) -> int:
        return len(step_shapes(len(self.train_set), phase_of(self.phases, epoch)))

    def batches(self, epoch: int, first: int, is_stop_asked: IsStopAsked) -> Iterator[ClipBatch]:
        phase, fabric = phase_of(self.phases, epoch), self.fabric
        if self.config.multigrid.long or self.config.multigrid.short:
            set_splits(self.classifier, phase.num_splits(fabric.world_size, self.config.multigrid.bn_clips))
        plan = epoch_batches(len(self.train_set), phase, self.config.training.seed, epoch)[first:]
        return self.monitor.watched(self._read(plan, epoch, is_stop_asked))

    def learning_rate(self, step: int, num_steps: int) -> float:
        return learning_rate(step, self._epoch_ends, self.config.training, self.phases)

    def loss(self, model: nn.Module, batch: ClipBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        classifier, label = self.config.classifier, batch.label
        clips, wanted = batch.clips, label
        if classifier.mixing:
            clips, wanted = mixed(clips.float(), label, self.classifier.head.out_features)
        with self.monitor.forward(clips.shape, self.optimizer.param_groups[-1]["lr"]):
            logits = model(clips)  # (B, C)
        loss = F.cross_entropy(logits, wanted, label_smoothing=classifier.label_smoothing)
        return loss, {"loss": loss.detach().double() * len(label), **count_right(logits, label)}

    def validate(self, model: nn.Module, epoch: int) -> Validation:
        if self.config.classifier.norms == "precise" or len(self.phases) > 1:
            self._measure_norms(epoch)
        if self.fabric.world_size > 1:
            for buffer in self.classifier.buffers():  # each process has averaged statistics of its own clips
                torch.distributed.broadcast(buffer, 0)
        if not len(self.validation_set):
            return Validation({}, [float(epoch)])
        loss, top1, top5 = score(self.fabric, model, self.validation_set, self.config)
        return Validation({"loss": loss, "top1": top1, "top5": top5}, [top1, -loss])

    def _read(self, plan: Sequence[Batch], epoch: int, is_stop_asked: IsStopAsked) -> Iterator[ClipBatch]:
        """This process's share of batches, made by workers."""
        rank, world, data = self.fabric.global_rank, self.fabric.world_size, self.train_set
        shares = [batch.items[rank::world].tolist() for batch in plan]
        draws = [
            Draw(item, epoch, batch.frames, batch.side)
            for batch, share in zip(plan, shares, strict=True)
            for item in share
        ]
        names = data.names([draw.item for draw in draws])
        num_ahead = max(map(len, shares), default=0)  # a batch
        made = made_in_order(data.drawn, draws, names, self.config.data.workers, is_stop_asked, num_ahead)
        for share in shares:
            clips = list(islice(made, len(share)))
            self.monitor.read(len(clips), sum(one.seconds for one in clips))
            label = torch.tensor([data.items[item].label for item in share])
            yield ClipBatch(torch.cat([one.clips for one in clips]), label)

    def _measure_norms(self, epoch: int) -> None:
        """Running statistics anew, of training clips of the full shape."""
        config, data = self.config, self.train_set
        full = Phase(0, 1, 1.0, (self.phases[-1].shapes[-1],))
        plan = epoch_batches(len(data), full, config.training.seed, epoch)[: config.multigrid.precise_batches]
        clips = (self.fabric.to_device(batch).clips for batch in self._read(plan, PRECISE + epoch, lambda: False))
        with self.fabric.autocast():
            measure_norms(self.classifier, clips)


def count_right(logits: Tensor, label: Tensor) -> dict[str, Tensor]:
    """How many of the logits (B, C) have their label (B,) first, and among the first five; and B. All float64."""
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices == label[:, None]
    count = torch.tensor(len(label), dtype=torch.float64, device=logits.device)
    return {"top1": best[:, 0].sum().double(), "top5": best.any(1).sum().double(), "count": count}


@torch.no_grad()
def score(fabric: Fabric, model: nn.Module, dataset: ClipDataset, config: ClassifySettings) -> tuple[float, ...]:
    """Mean loss, top-1 and top-5 accuracy over the middle clips of items, of which there is at least one."""
    numbers = range(len(dataset))[fabric.global_rank :: fabric.world_size]
    size, totals = config.test.batch_size, torch.zeros(4, dtype=torch.float64)
    model.eval()
    made = made_in_order(dataset.middle, numbers, dataset.names(numbers), config.data.workers, num_ahead=size)
    for first in range(0, len(numbers), size):
        part = numbers[first : first + size]
        clips = fabric.to_device(torch.cat([one.clips for one in islice(made, len(part))]))
        label = fabric.to_device(torch.tensor([dataset.items[number].label for number in part]))
        with fabric.autocast():
            logits = model(clips)
        loss = F.cross_entropy(logits, label, reduction="sum").double()
        totals += torch.stack([loss, *count_right(logits, label).values()]).cpu()
    *sums, num = sum_of_all(fabric, totals.tolist())
    return tuple(one / num for one in sums)
