"""Self-supervised pre-training as a task of the training loop: predict what the target says of the other clip.

Shapes: B items, T frames, S pixels a side, Y features.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from backbones.byol import SlotUse, Target, VideoBYOL
from backbones.config import PretrainSettings
from backbones.dataset import ClipDataset, Draw
from backbones.loader import made_in_order
from backbones.monitor import Monitor
from backbones.optimizers import build_optimizer, without_decay_of_vectors
from backbones.rates import learning_rate
from recognition.training.loop import IsStopAsked, Validation


class PairBatch(NamedTuple):
    """Two clips of each item, from places of their own and changed in ways of their own."""

    first: Tensor  # (B, T, 3, S, S) uint8
    second: Tensor


class PretrainingTask:
    """A backbone that learns without labels; see `recognition.training.loop.Task`.

    Args:
        model: what learns.
        train_set: the items.
        fabric: launched.
        config: all settings.
        monitor: is told how long reading and computing take.
        retrieval: finds scores of the backbone, such as retrieval, every `monitor_epochs`; None where there are no
            labels.
    """

    def __init__(
        self,
        model: VideoBYOL,
        train_set: ClipDataset,
        fabric: Fabric,
        config: PretrainSettings,
        monitor: Monitor,
        retrieval: Callable[[], dict[str, float]] | None = None,
    ):
        self.online, self.train_set, self.fabric, self.config = model, train_set, fabric, config
        self.monitor, self.retrieval = monitor, retrieval
        self.model: nn.Module = model
        self.target = Target(model.encoder, config.byol.target_momentum)
        self.slots = SlotUse(config.byol.slots, config.byol.heads) if config.byol.predictor == "memory" else None
        self.others: Mapping[str, nn.Module] = {"target": self.target} | ({"slots": self.slots} if self.slots else {})
        for module in self.others.values():
            module.to(fabric.device)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = build_optimizer(without_decay_of_vectors(parameters), config.training)

    def num_steps(self, epoch: int) -> int:
        return len(self.train_set) // self.config.training.batch_size

    def batches(self, epoch: int, first: int, is_stop_asked: IsStopAsked) -> Iterator[PairBatch]:
        return self.monitor.watched(self._read(epoch, first, is_stop_asked))

    def learning_rate(self, step: int, num_steps: int) -> float:
        ends = [self.num_steps(0) * epoch for epoch in range(1, self.config.training.n_epochs + 1)]
        return learning_rate(step, ends, self.config.training)

    def loss(self, model: nn.Module, batch: PairBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        self._follow(step)
        with self.monitor.forward(batch.first.shape, self.optimizer.param_groups[0]["lr"]):
            with self.fabric.autocast():
                targets = [self.target(clips) for clips in batch]
            found = model(*batch, *targets)
        if self.slots and found.first is not None:
            self.slots.add(found.first)
        count = torch.tensor(len(batch.first), dtype=torch.float64, device=found.loss.device)
        return found.loss, {name: mean.double() * count for name, mean in found.means.items()} | {"count": count}

    def validate(self, model: nn.Module, epoch: int) -> Validation:
        """The last epoch is the best: there is nothing to choose by without labels, and rates fall to 0."""
        self._follow(self.num_steps(0) * (epoch + 1))
        scores = {"slots_used": float(self.slots.count())} if self.slots else {}
        every, last = self.config.training.monitor_epochs, self.config.training.n_epochs
        if self.retrieval and every and ((epoch + 1) % every == 0 or epoch + 1 == last):
            self._share_statistics()
            scores |= self.retrieval()
        return Validation(scores, [float(epoch)])

    def _read(self, epoch: int, first: int, is_stop_asked: IsStopAsked) -> Iterator[PairBatch]:
        """This process's share of the batches of an epoch, made by workers."""
        config, data, fabric = self.config, self.train_set, self.fabric
        size = config.training.batch_size
        order = np.random.default_rng((config.training.seed, epoch)).permutation(len(data))
        shares = [
            order[step * size : (step + 1) * size][fabric.global_rank :: fabric.world_size].tolist()
            for step in range(first, self.num_steps(epoch))
        ]
        draws = [Draw(item, epoch, config.clip.frames, config.clip.side) for share in shares for item in share]
        names = data.names([draw.item for draw in draws])
        workers, num_ahead = config.data.workers, size // fabric.world_size
        made = made_in_order(lambda draw: data.drawn(draw, 2), draws, names, workers, is_stop_asked, num_ahead)
        for share in shares:
            pairs = list(islice(made, len(share)))
            self.monitor.read(2 * len(pairs), sum(one.seconds for one in pairs))
            yield PairBatch(*(torch.stack([one.clips[k] for one in pairs]) for k in (0, 1)))

    def _share_statistics(self) -> None:
        """Give all processes the running statistics of the first, as a checkpoint has them: on CPUs each measures those
        of its own clips. Nothing that learns depends on them."""
        if self.fabric.world_size > 1:
            for buffer in self.online.buffers():
                torch.distributed.broadcast(buffer, 0)

    def _follow(self, num_done: int) -> None:
        """Let the target take in what the step before made of the online networks."""
        self.target.follow(self.online.encoder, num_done, self.num_steps(0) * self.config.training.n_epochs)
