"""AdamW and its learning rate, for episodes, streams and captions."""

import math
from typing import Literal

import torch
from lightning_fabric import Fabric
from torch import nn

from recognition.training.config import LoopConfig


def adamw(model: nn.Module, fabric: Fabric, config: LoopConfig) -> torch.optim.AdamW:
    """The optimiser of a model's parameters."""
    # Losses scaled for float16 must be unscaled before clipping, which a fused step does too late.
    fused = fabric.strategy.precision.precision != "16-mixed"
    rate, decay = config.learning_rate, config.weight_decay
    return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay, fused=fused)


def learning_rate(
    step: int, num_steps: int, highest: float, warmup_steps: int, schedule: Literal["constant", "cosine"]
) -> float:
    """The rate at `step` of `num_steps`, counted from 0: a linear rise over warmup_steps, then constant, or a cosine
    that falls to 0."""
    if step < warmup_steps:
        return highest * (step + 1) / warmup_steps
    if schedule == "constant":
        return highest
    progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return highest * 0.5 * (1 + math.cos(math.pi * progress))
