"""The learning rate of a step, whose epoch may have more or fewer steps than others."""

import math
from bisect import bisect_right
from collections.abc import Sequence

from backbones.config import TrainingConfig
from backbones.multigrid import Phase, phase_of


def learning_rate(
    step: int, epoch_ends: Sequence[int], config: TrainingConfig, phases: Sequence[Phase] | None = None
) -> float:
    """The rate at a step of the training, counted from 0.

    It rises linearly over the steps of the first `warmup_epochs`. Beside that it is constant, falls on a cosine from
    the end of the warm-up to 0 after the last step, or is multiplied by `rate_factor` after each epoch of
    `rate_steps`. With the phases of multigrid it is the phase's.

    Args:
        step: its number.
        epoch_ends: how many steps there are until the end of each epoch, (E,).
        config: rate, warm-up and schedule.
        phases: of multigrid training, where it has more shapes than one.
    """
    warmup, epoch = warmup_steps(epoch_ends, config.warmup_epochs), bisect_right(epoch_ends, step)
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if phases and not _is_plain(phases):
        return phase_of(phases, epoch).rate * rise
    if config.schedule == "steps":
        return config.learning_rate * config.rate_factor ** bisect_right(config.rate_steps, epoch) * rise
    if config.schedule == "cosine" and step >= warmup:
        progress = (step - warmup) / max(1, epoch_ends[-1] - warmup)
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * rise


def warmup_steps(epoch_ends: Sequence[int], warmup_epochs: float) -> int:
    """Steps of the first epochs, of which there may be a part: rounded to whole steps."""
    whole = int(warmup_epochs)
    if whole >= len(epoch_ends):
        return epoch_ends[-1]
    before = epoch_ends[whole - 1] if whole else 0
    return before + round((warmup_epochs - whole) * (epoch_ends[whole] - before))


def _is_plain(phases: Sequence[Phase]) -> bool:
    return len(phases) == 1 and len(phases[0].shapes) == 1
