"""The optimiser of a training, by its settings."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from backbones.config import TrainingConfig
from backbones.lars import LARS


def build_optimizer(groups: Sequence[dict], config: TrainingConfig) -> Optimizer:
    """LARS, SGD with momentum or AdamW over groups of parameters; the loop sets their rates."""
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, weight_decay=decay)
    nesterov = config.nesterov and config.momentum > 0
    kind = LARS if config.optimizer == "lars" else torch.optim.SGD
    return kind(groups, lr=rate, momentum=config.momentum, weight_decay=decay, nesterov=nesterov)


def without_decay_of_vectors(parameters: Sequence[nn.Parameter]) -> list[dict]:
    """Groups of parameters of which those of one dimension, biases and norms, do not decay."""
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim < 2]
    return [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
