"""A linear probe on features that were made once: many last layers learn side by side, each at a rate of its own.

Shapes: N items, V clips of each, B items of a step, D features, C classes, R rates.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.classification_task import count_right
from backbones.config import TrainingConfig
from backbones.optimizers import build_optimizer
from backbones.rates import learning_rate
from recognition.training.loop import IsStopAsked, Validation

SMALLEST_DEVIATION = 1e-6  # of a feature that is not always the same; others become 0


class Features(NamedTuple):
    """Of some items."""

    y: Tensor  # (N, V, D)
    label: Tensor  # (N,)


class FeatureBatch(NamedTuple):
    y: Tensor  # (B, D)
    label: Tensor  # (B,)


class Heads(nn.Module):
    """A last layer for each of several rates: features (B, D) to logits (R, B, C).

    They learn from standardised features: one rate then fits all of them, however large an eye's features are.

    Args:
        num_heads: R.
        num_classes: C.
        y: the features (N, V, D) that standardise, whose mean becomes 0 and deviation 1.
    """

    def __init__(self, num_heads: int, num_classes: int, y: Tensor):
        super().__init__()
        num_features, y = y.shape[2], y.flatten(0, 1).double()
        deviation, mean = torch.std_mean(y, 0)
        self.register_buffer("mean", mean.float())
        self.register_buffer("deviation", deviation.masked_fill(deviation < SMALLEST_DEVIATION, torch.inf).float())
        first = nn.Linear(num_features, num_classes)
        nn.init.normal_(first.weight, std=0.01)
        nn.init.zeros_(first.bias)
        self.heads = nn.ModuleList(nn.Linear(num_features, num_classes) for _ in range(num_heads))
        for head in self.heads:
            head.load_state_dict(first.state_dict())
        self.register_buffer("best", torch.tensor(0))  # the head that did best on validation

    mean: Tensor  # (D,)
    deviation: Tensor  # (D,)
    best: Tensor

    def forward(self, y: Tensor) -> Tensor:
        y = (y - self.mean) / self.deviation
        return torch.stack([head(y) for head in self.heads])


def folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The best of `Heads`, by their state, as weights and bias of a last layer that takes features as they are."""
    number = int(state["best"])
    weight = state[f"heads.{number}.weight"] / state["deviation"]
    return {"weight": weight, "bias": state[f"heads.{number}.bias"] - weight @ state["mean"]}


class ProbeTask:
    """Last layers that learn from features; see `recognition.training.loop.Task`.

    In each epoch every item shows one of its clips. Validation chooses epoch and rate together; what is told of
    training is of the head that was the best so far.

    Args:
        train, validation: features, V of them for an item to train on, one for one of validation.
        num_classes: C.
        rates: of the heads.
        config: of the optimiser and the schedule, which all heads share; a head's rate takes the place of its rate.
        share: this process's number, and how many there are.
    """

    def __init__(
        self,
        train: Features,
        validation: Features,
        num_classes: int,
        rates: Sequence[float],
        config: TrainingConfig,
        share: tuple[int, int] = (0, 1),
    ):
        self.train, self.validation, self.config, self.share = train, validation, config, share
        self.heads = Heads(len(rates), num_classes, train.y)
        self.model: nn.Module = self.heads
        groups = [
            {"params": list(head.parameters()), "rate_factor": rate / config.learning_rate}
            for head, rate in zip(self.heads.heads, rates, strict=True)
        ]
        self.optimizer = build_optimizer(groups, config)
        self.others: Mapping[str, nn.Module] = {}

    def num_steps(self, epoch: int) -> int:
        return max(1, len(self.train.y) // self.config.batch_size)

    def batches(self, epoch: int, first: int, is_stop_asked: IsStopAsked) -> Iterator[FeatureBatch]:
        rng = np.random.default_rng((self.config.seed, epoch))
        order = rng.permutation(len(self.train.y))
        view = rng.integers(self.train.y.shape[1], size=len(order))
        size, (rank, world) = self.config.batch_size, self.share
        for step in range(first, self.num_steps(epoch)):
            chosen = order[step * size : (step + 1) * size][rank::world]
            yield FeatureBatch(self.train.y[chosen, view[chosen]], self.train.label[chosen])

    def learning_rate(self, step: int, num_steps: int) -> float:
        per_epoch = self.num_steps(0)
        epoch_ends = [per_epoch * epoch for epoch in range(1, self.config.n_epochs + 1)]
        return learning_rate(step, epoch_ends, self.config)

    def loss(self, model: nn.Module, batch: FeatureBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        logits = model(batch.y)  # (R, B, C)
        losses = torch.stack([F.cross_entropy(one, batch.label) for one in logits])
        best = int(self.heads.best)
        numbers = {"loss": losses[best].detach().double() * len(batch.label), **count_right(logits[best], batch.label)}
        return losses.sum(), numbers  # each head has the gradient of its own loss

    @torch.no_grad()
    def validate(self, model: nn.Module, epoch: int) -> Validation:
        device = self.heads.best.device
        label = self.validation.label.to(device)
        logits = self.heads(self.validation.y[:, 0].to(device))
        found = []
        for one in logits:
            right = count_right(one, label)
            loss = F.cross_entropy(one, label).item()
            found.append((right["top1"].item() / len(label), -loss, right["top5"].item() / len(label)))
        best = max(range(len(found)), key=lambda k: found[k][:2])
        self.heads.best.fill_(best)
        top1, loss, top5 = found[best]
        return Validation({"loss": -loss, "top1": top1, "top5": top5, "head": float(best)}, [top1, loss])
