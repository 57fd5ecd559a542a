"""Episodes as a task of the training loop: old or new?

Shapes: B episodes, T frames, P probes, D features.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from recognition.episodes.dataset import Batch, EpisodeDataset
from recognition.training.config import DatasetConfig, TrainingConfig
from recognition.training.data import batches, loader
from recognition.training.loop import IsStopAsked, Validation, sum_of_all
from recognition.training.optimizer import adamw, learning_rate

FRESH = 3  # keeps the seeds of fresh episodes apart from those that drew the splits 0, 1 and 2


class EpisodeTask:
    """A model that says of the probes of episodes whether they are old; see `recognition.training.loop.Task`.

    With `fresh_episodes` every epoch but the first has new ones, drawn from the same films. The first one too, if they
    ask otherwise than those of the index.
    """

    def __init__(
        self,
        model: nn.Module,
        train_set: EpisodeDataset,
        validation_set: EpisodeDataset,
        fabric: Fabric,
        config: TrainingConfig,
        data: DatasetConfig | None = None,
    ):
        self.model, self.train_set, self.validation_set = model, train_set, validation_set
        self.fabric, self.config, self.data = fabric, config, data or DatasetConfig()
        self.optimizer: Optimizer = adamw(model, fabric, config)
        self.others: Mapping[str, nn.Module] = {}

    def num_steps(self, epoch: int) -> int:
        return max(1, len(self.train_set) // self.config.batch_size)

    def batches(self, epoch: int, first: int, is_stop_asked: IsStopAsked) -> Iterator[Batch]:
        config, fabric = self.config, self.fabric
        if self.data.fresh_episodes and (epoch > 0 or self.train_set.asking):
            self.train_set.draw_fresh((config.seed, FRESH, epoch))
        seed = config.seed, epoch
        order = batches(len(self.train_set), config.batch_size, seed, fabric.global_rank, fabric.world_size)
        return loader(self.train_set, order[first:], config.num_workers, fabric.device, is_stop_asked)

    def learning_rate(self, step: int, num_steps: int) -> float:
        config = self.config
        return learning_rate(step, num_steps, config.learning_rate, config.warmup_steps, config.schedule)

    def loss(self, model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        is_old = batch.is_old
        signs = reflections(batch.film, self.data.whiten) if self.data.reflect_films and self.data.whiten else None
        logits = model(batch.features, self.train_set.asked, signs)  # (B, P)
        loss = F.binary_cross_entropy_with_logits(logits.float(), is_old)
        num_correct = ((logits > 0) == (is_old > 0)).sum()
        count = torch.tensor(is_old.numel(), dtype=torch.float64, device=loss.device)
        return loss, {"loss": loss.detach() * count, "accuracy": num_correct.double(), "count": count}

    def validate(self, model: nn.Module, epoch: int) -> Validation:
        loss, accuracy = score(self.fabric, model, self.validation_set, self.config)
        return Validation({"loss": loss, "accuracy": accuracy}, [accuracy, -loss])


def reflections(film: Tensor, num_axes: int) -> Tensor:
    """Turn the sign of a random half of the axes in every film of every episode: film (B, T) of each frame to 1 or -1,
    (B, T, num_axes) int8.

    Cosines of frames of one film stay what they are, and those of different films change: what tells films apart by the
    places they have among others is of no use, what tells frames from one another is. torch's generator draws them.
    """
    episode = torch.arange(len(film), device=film.device)[:, None]
    films, number = torch.unique(film + (film.max() + 1) * episode, return_inverse=True)  # of all episodes; (B, T)
    order = torch.rand(len(films), num_axes, device=film.device).argsort(1)
    signs = 1 - 2 * (order < num_axes // 2).to(torch.int8)
    return signs[number]


@torch.no_grad()
def answers(
    fabric: Fabric, model: nn.Module, dataset: EpisodeDataset, config: TrainingConfig
) -> Iterator[tuple[Tensor, Tensor]]:
    """Ask a model about this process's share of the episodes: yields logits and is_old, (B, P) each, in their order."""
    order = batches(len(dataset), config.batch_size, None, fabric.global_rank, fabric.world_size)
    model.eval()
    for batch in loader(dataset, order, config.num_workers, fabric.device):
        batch = fabric.to_device(batch)
        with fabric.autocast():
            yield model(batch.features).float(), batch.is_old


def score(
    fabric: Fabric,
    model: nn.Module,
    dataset: EpisodeDataset,
    config: TrainingConfig,
    thresholds: Sequence[float] = (0.0,),
) -> tuple[float, ...]:
    """Mean loss of `model` over all episodes of `dataset`, and its accuracy with each of these thresholds."""
    totals = np.zeros(2 + len(thresholds))
    for logits, is_old in answers(fabric, model, dataset, config):
        loss = F.binary_cross_entropy_with_logits(logits, is_old, reduction="sum").item()
        num_correct = [((logits > threshold) == (is_old > 0)).sum().item() for threshold in thresholds]
        totals += loss, *num_correct, is_old.numel()
    *sums, num_answers = sum_of_all(fabric, totals.tolist())
    return tuple(total / num_answers for total in sums)
