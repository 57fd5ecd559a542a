"""A step of every shape before the first epoch: whether it fits the memory, and how fast clips must be read for it."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from backbones.monitor import PeakMemory
from backbones.multigrid import Phase, Shape
from recognition.common.command_line import InputError

CHANNELS = 3


@dataclass(frozen=True)
class Rehearsed:
    """What a step of a shape took."""

    shape: Shape
    bytes: int  # of memory at most, beside what larger shapes before it have left to the process
    seconds: float

    @property
    def clips_s(self) -> float:
        """How many clips a second all processes must read so that none waits."""
        return self.shape.clips / self.seconds

    def __str__(self) -> str:
        clips, frames, side = self.shape
        return (
            f"{clips} x {frames} x {side}: {self.bytes / 2**30:.2f} GiB, {self.seconds:.3g} s a step, "
            f"so {self.clips_s:,.0f} clips/s must be read"
        )


def rehearse(
    network: nn.Module,
    phases: Sequence[Phase],
    step: Callable[[Tensor, Phase], None],
    device: torch.device,
    num_processes: int = 1,
) -> Iterator[Rehearsed]:
    """Take two steps of every shape that the phases have, each in the order of its first use, and tell of the second:
    the first of a shape is slow. Network and random numbers are then as they were, and no gradient is left.

    Args:
        network: what is trained.
        phases: of the schedule.
        step: the forward and the backward pass of black clips (B, T, 3, S, S) uint8, as many as one process has.
        device: where the network is.
        num_processes: how many share a batch.

    Raises InputError, which names the shape, if it does not fit the GPU.
    """
    first = {shape: phase for phase in reversed(phases) for shape in phase.shapes}
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    for shape, phase in sorted(first.items(), key=lambda item: item[1].first_epoch):
        try:
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                clips = torch.zeros(
                    shape.clips // num_processes, shape.frames, CHANNELS, shape.side, shape.side, dtype=torch.uint8
                ).to(device)
                found = Rehearsed(shape, *_second(network, partial(step, clips, phase), device))
        except torch.OutOfMemoryError:
            raise InputError(
                f"training.batch_size: a batch of {shape.clips} clips of {shape.frames} x {shape.side} x {shape.side} "
                f"needs more memory than {device} has; set a smaller one"
            ) from None
        finally:
            network.zero_grad(set_to_none=True)
            network.load_state_dict(kept)
        yield found


def _second(network: nn.Module, step: Callable[[], None], device: torch.device) -> tuple[int, float]:
    """The most memory of two steps, and the seconds of the second."""
    memory, seconds = PeakMemory(device), 0.0
    for _ in range(2):
        network.zero_grad(set_to_none=True)
        started = _now(device)
        step()
        seconds = _now(device) - started
    return memory.bytes(), seconds


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
