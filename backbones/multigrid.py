"""Multigrid training: batches whose shape changes, so that an epoch has fewer steps, each about as costly.

A batch of fewer frames or smaller pictures has as many more clips. The long cycle changes the shape between epochs, the
short cycle the size of the pictures from step to step.

Source: Wu et al., "A multigrid method for efficiently training video models", CVPR 2020, arXiv 1912.00998. Where the
paper leaves a number open it is that of the authors' PySlowFast: sums of epochs are rounded, those of short cycles
alone are cut to whole ones.

B clips of T frames and S pixels a side are the full shape, t_i, s_i and B b_i that of place i in the long cycle. Stages
k = 0..K lie between the epochs e_k at which the rate falls, from e_0 = 0 to the last E.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from backbones.config import ClipConfig, MultigridConfig, TrainingConfig
from recognition.common.command_line import InputError

LONG_CYCLE = ((0.25, 0.5**0.5), (0.5, 0.5**0.5), (0.5, 1.0), (1.0, 1.0))  # shares of the frames and of the side
SHORT_CYCLE = (0.5, 0.5**0.5)  # shares of the side; the third size is the long cycle's own
LEAST_SIDE = 16  # below, the last stage of a network sees one place
LEAST_FRAMES = 2


class Shape(NamedTuple):
    """That of a batch, of all processes together."""

    clips: int
    frames: int
    side: int


@dataclass(frozen=True)
class Phase:
    """Epochs of one rate and one cycle of shapes."""

    first_epoch: int
    end_epoch: int  # the epoch after the last
    rate: float  # after the warm-up
    shapes: tuple[Shape, ...]  # of its steps in turn, anew in each epoch: one, or the three of a short cycle

    @property
    def clips(self) -> int:
        """Clips of the long cycle's batch, the smallest of the phase."""
        return self.shapes[-1].clips

    @property
    def frames(self) -> int:
        return self.shapes[-1].frames

    @property
    def side(self) -> int:
        return self.shapes[-1].side

    def num_splits(self, num_processes: int, norm_clips: int) -> int:
        """Parts of a process's batch that have statistics of their own in norms, each of about `norm_clips` clips; a
        short cycle keeps their number."""
        return max(1, self.clips // num_processes // norm_clips)


class Batch(NamedTuple):
    """What a step is made of, before processes share it."""

    items: np.ndarray  # (B,) numbers of the items
    frames: int
    side: int


def schedule(multigrid: MultigridConfig, training: TrainingConfig, clip: ClipConfig) -> list[Phase]:
    """The phases of a training, from epoch 0 to the end of the last one.

    Without cycles it is one phase, of the settings' epochs and rate, which then falls within it. Phases that are
    shorter than half an epoch vanish.

    Raises InputError for settings that have no such schedule.
    """
    full = Shape(training.batch_size, clip.frames, clip.side)
    if not (multigrid.long or multigrid.short):
        return [Phase(0, training.n_epochs, training.learning_rate, (full,))]
    _check_settings(multigrid, training, clip)
    if multigrid.long:
        return list(_long_cycles(multigrid, training, full))
    ends = [int(epoch * multigrid.epoch_factor) for epoch in (*training.rate_steps, training.n_epochs)]
    rates = [training.learning_rate * training.rate_factor**k for k in range(len(ends))]
    return list(_phases(ends, rates, [short_cycle(full, clip.side, multigrid)] * len(ends)))


def _long_cycles(multigrid: MultigridConfig, training: TrainingConfig, full: Shape) -> Iterator[Phase]:
    """In every stage but the last once through all shapes, with as many steps each; then the full shape alone."""
    longs = [_long_shape(full, *shares) for shares in LONG_CYCLE]
    cycles = [short_cycle(shape, full.side, multigrid) for shape in longs]
    growth = [shape.clips // full.clips for shape in longs]  # b_i
    means = [float(np.mean([shape.clips for shape in cycle])) / full.clips for cycle in cycles]  # m_i
    steps, last, rate, factor = training.rate_steps, training.n_epochs, training.learning_rate, training.rate_factor
    stages = [end - first for first, end in itertools.pairwise([0, *steps])]
    shares = [stage * mean / sum(means) for stage in stages for mean in means]
    final = (last - steps[-1]) * means[-1] / (sum(means) / len(means))
    stretch = multigrid.epoch_factor * last / (steps[-1] + final)
    *ends, end = [round(share) for share in itertools.accumulate(share * stretch for share in (*shares, final))]
    middle = (ends[-1] + end) // 2
    rates = [rate * factor**k * times for k in range(len(stages)) for times in growth]
    rates += [rate * factor ** (len(stages) - 1), rate * factor ** len(stages)]
    yield from _phases([*ends, middle, end], rates, [*cycles * len(stages), cycles[-1], cycles[-1]])


def _long_shape(full: Shape, of_frames: float, of_side: float) -> Shape:
    frames, side = round(full.frames * of_frames), round(full.side * of_side)
    growth = round(full.frames * full.side**2 / (frames * side**2))
    return Shape(full.clips * growth, frames, side)


def short_cycle(shape: Shape, full_side: int, multigrid: MultigridConfig) -> tuple[Shape, ...]:
    """The shapes of the steps in turn where the long cycle has `shape`; that one alone without short cycles.

    Sizes are shares of the full side, as PySlowFast has them, and never above the long cycle's; or, with
    `short_of: long`, of the long cycle's own.
    """
    if not multigrid.short:
        return (shape,)
    whole = full_side if multigrid.short_of == "full" else shape.side
    sides = [min(whole * share, shape.side) for share in SHORT_CYCLE]
    smaller = [Shape(shape.clips * round((shape.side / side) ** 2), shape.frames, round(side)) for side in sides]
    return (*smaller, shape)


def _phases(ends: Sequence[int], rates: Sequence[float], cycles: Sequence[tuple[Shape, ...]]) -> Iterator[Phase]:
    for first, end, rate, shapes in zip([0, *ends], ends, rates, cycles, strict=False):
        if end > first:
            yield Phase(first, end, rate, shapes)


def num_epochs(phases: Sequence[Phase]) -> int:
    """Epochs of the whole training."""
    return phases[-1].end_epoch


def phase_of(phases: Sequence[Phase], epoch: int) -> Phase:
    """The phase in which an epoch lies."""
    return next(phase for phase in phases if epoch < phase.end_epoch)


def step_shapes(num_items: int, phase: Phase) -> list[Shape]:
    """The shape of every step of an epoch over so many items: whole batches alone, so some items may be left over."""
    shapes: list[Shape] = []
    left = num_items
    for shape in itertools.cycle(phase.shapes):
        left -= shape.clips
        if left < 0:
            break
        shapes.append(shape)
    return shapes


def epoch_batches(num_items: int, phase: Phase, seed: int, epoch: int) -> list[Batch]:
    """The batches of an epoch: an order of the items that seed and epoch decide, cut by the cycle of batch sizes."""
    order, first, batches = np.random.default_rng((seed, epoch)).permutation(num_items), 0, []
    for shape in step_shapes(num_items, phase):
        batches.append(Batch(order[first : first + shape.clips], shape.frames, shape.side))
        first += shape.clips
    return batches


def check(phases: Sequence[Phase], num_items: int, num_processes: int = 1) -> None:
    """Raise InputError if a batch has more clips than there are to train on, or cannot be shared by the processes."""
    largest = max(shape.clips for phase in phases for shape in phase.shapes)
    if largest > num_items:
        times = largest // phases[-1].clips
        advice = "a smaller training.batch_size" + (", or multigrid.long: false" if times > 4 else "")
        raise InputError(
            f"training.batch_size: {phases[-1].clips}, {times} times as many in the smallest shape of multigrid, but "
            f"there are {num_items} items to train on; set {advice}"
            if times > 1
            else f"training.batch_size: {largest}, but there are {num_items} items to train on; set a smaller one"
        )
    for phase in phases:
        if phase.clips % num_processes:
            raise InputError(
                f"training.batch_size: {phase.clips} clips cannot be shared evenly by {num_processes} processes; "
                f"set a multiple of {num_processes}"
            )


def _check_settings(multigrid: MultigridConfig, training: TrainingConfig, clip: ClipConfig) -> None:
    if training.schedule != "steps":
        raise InputError("training.schedule: multigrid follows the steps of the rate; set it to steps")
    if training.rate_steps[-1] >= training.n_epochs:
        raise InputError(
            f"training.rate_steps: multigrid trains on after the last of them, found {training.rate_steps[-1]} of "
            f"{training.n_epochs} epochs; set training.n_epochs to more"
        )
    if multigrid.epoch_factor * training.n_epochs < 1:
        raise InputError(
            f"multigrid.epoch_factor: {multigrid.epoch_factor} of {training.n_epochs} epochs is none; set more"
        )
    if multigrid.long and clip.frames < LEAST_FRAMES * 4:
        raise InputError(
            f"clip.frames: multigrid.long trains on a quarter of {clip.frames}, which is below {LEAST_FRAMES}; set "
            f"{LEAST_FRAMES * 4} or more"
        )
    full = Shape(training.batch_size, clip.frames, clip.side)
    longs = [_long_shape(full, *shares) for shares in LONG_CYCLE] if multigrid.long else [full]
    least = min(shape.side for long in longs for shape in short_cycle(long, clip.side, multigrid))
    if least < LEAST_SIDE:
        raise InputError(
            f"clip.side: multigrid shrinks {clip.side} to {least} pixels, which is below {LEAST_SIDE}; set more"
        )


def table(phases: Sequence[Phase]) -> str:
    """The phases as lines to print: epochs counted from 1, rate, and clips x frames x side of the steps in turn."""
    rows = [("epochs", "rate", "clips x frames x side")]
    for phase in phases:
        shapes = ", ".join(f"{shape.clips} x {shape.frames} x {shape.side}" for shape in phase.shapes)
        rows.append((f"{phase.first_epoch + 1}-{phase.end_epoch}", f"{phase.rate:.4g}", shapes))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{epochs:>{widths[0]}}  {rate:>{widths[1]}}  {shapes}" for epochs, rate, shapes in rows)
