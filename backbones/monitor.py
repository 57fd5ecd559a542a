"""How fast a training reads, computes and waits, and how much memory it takes, told while it runs."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO, TypeVar

import torch
from tqdm import tqdm

# Clips a second below which a number is red and above which it is green, as in Stergiou's code for arXiv 2006.08247.
LIMITS: dict[str, tuple[float, float]] = {"r": (100, 3000), "f": (50, 300), "b": (20, 200)}
RED, YELLOW, GREEN, PLAIN = "\033[31m", "\033[33m", "\033[32m", "\033[0m"
MEASURED_EVERY = 20  # steps: waiting for the device costs time
MEASURED_FIRST = 3  # of an epoch, counted from 0: each of three shapes has been seen, of which the first step is slow
Item = TypeVar("Item")


@dataclass
class _Step:
    """One of the training."""

    shape: tuple[int, ...]  # of its clips
    rate: float
    backward_from: float | None = None  # when its backward pass began, if that is measured


@dataclass
class _Interval:
    """Clips and seconds since the last line."""

    started: float
    clips: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LIMITS, 0))
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(LIMITS, 0.0))
    waited: float = 0.0
    last: "_Step | None" = None

    def add(self, what: str, clips: int, seconds: float) -> None:
        self.clips[what] += clips
        self.seconds[what] += seconds


class Monitor:
    """Clips a second of reading (r), of the forward pass (f) and of the backward pass with the step after it (b), and
    the share of time that the training waits for its data; told in a line at the end of every epoch, and in between
    from time to time.

    Reading is measured where it is done: clips over the seconds in which workers were busy with them, times their
    number. The passes are measured on one step in MEASURED_EVERY, of which the device is waited for; others cost
    nothing.

    Args:
        num_workers: how many read at once; 0, in the training's own process, counts as one.
        device: what computes.
        limits: in place of LIMITS.
        stream: where lines go, coloured if it is a terminal; the standard output if None.
        every_s: seconds from one line to the next within an epoch.
        tells: whether to write lines; one of several processes does.
        clock: what tells seconds.
    """

    def __init__(
        self,
        num_workers: int,
        device: torch.device | None = None,
        limits: Mapping[str, Sequence[float]] | None = None,
        stream: TextIO | None = None,
        every_s: float = 60.0,
        tells: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.num_workers, self.device, self.clock = max(1, num_workers), device or torch.device("cpu"), clock
        self.limits: dict[str, Sequence[float]] = {**LIMITS, **(limits or {})}
        self.stream, self.every_s, self.tells = stream or sys.stdout, every_s, tells
        self._number = 0  # of the epoch's steps
        self._step: _Step | None = None  # the one under way
        self._interval = _Interval(clock())

    def read(self, clips: int, seconds: float) -> None:
        """A worker has been busy for `seconds` with so many clips."""
        self._interval.add("r", clips, seconds)

    def watched(self, batches: Iterable[Item]) -> Iterator[Item]:
        """The batches of an epoch, with the time noted for which each is waited, and the end of the step before it."""
        remaining, self._number = iter(batches), 0
        self._interval = _Interval(self.clock())  # what was between two epochs is none of training's
        while True:
            asked = self.clock()
            try:
                batch = next(remaining)
            except StopIteration:
                break
            self._interval.waited += self.clock() - asked
            yield batch
            last = self._end_step()
            if last and self.clock() - self._interval.started > self.every_s:
                self._tell(last)
        if self._interval.last:
            self._tell(self._interval.last)

    @contextmanager
    def forward(self, shape: Sequence[int], rate: float) -> Iterator[None]:
        """Around the forward pass of clips of `shape`, of which the first is their number, at a learning rate; what
        comes after it until the next batch is asked for is the backward pass."""
        step = _Step(tuple(shape), rate)
        if self._number % MEASURED_EVERY == MEASURED_FIRST:
            started = self._now()
            yield
            step.backward_from = self._now()
            self._interval.add("f", shape[0], step.backward_from - started)
        else:
            yield
        self._number += 1
        self._step = self._interval.last = step

    def rates(self) -> dict[str, float]:
        """Clips a second since the last line: r, f and b, those that were measured; and `wait`, a share."""
        interval = self._interval
        found = {what: interval.clips[what] / s for what, s in interval.seconds.items() if s > 0}
        if "r" in found:
            found["r"] *= self.num_workers
        return {**found, "wait": interval.waited / max(self.clock() - interval.started, 1e-9)}

    def line(self, shape: Sequence[int], rate: float) -> str:
        """What there is to tell of the time since the last line, in one, and of a step: its batch and rate."""
        found = self.rates()
        speeds = [f"{what} {self._coloured(what, found[what])} clips/s" for what in self.limits if what in found]
        batch = f"batch ({', '.join(map(str, shape))})"
        return ", ".join([*speeds, f"wait {found['wait']:.0%}", batch, f"rate {rate:.2e}"])

    def _tell(self, step: "_Step") -> None:
        """Write the line, and begin another interval."""
        if self.tells:
            # So that a progress bar does not stand in it.
            tqdm.write(self.line(step.shape, step.rate), file=self.stream)
        self._interval = _Interval(self.clock())

    def _end_step(self) -> "_Step | None":
        step, self._step = self._step, None
        if step and step.backward_from is not None:
            self._interval.add("b", step.shape[0], self._now() - step.backward_from)
        return step

    def _now(self) -> float:
        """The time at which the device has done all that it was asked."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.clock()

    def _coloured(self, what: str, clips_s: float) -> str:
        low, high = self.limits[what]
        told = f"{clips_s:,.0f}" if clips_s >= 10 else f"{clips_s:.1f}"
        if not self.stream.isatty():
            return told
        colour = RED if clips_s < low else GREEN if clips_s > high else YELLOW
        return f"{colour}{told}{PLAIN}"


class PeakMemory:
    """The most memory that is taken from here on: of the device, or of the process beyond what it has had at most."""

    def __init__(self, device: torch.device):
        self.device, self._is_told = device, False
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            self._before = _high_water()

    def bytes(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return _high_water() - self._before

    def tell_once(self) -> None:
        """Print it, the first time that this is called."""
        if not self._is_told:
            print(f"memory at its peak: {self.bytes() / 2**30:.2f} GiB for steps and validation")
        self._is_told = True


def _high_water() -> int:
    """The most memory that this process has had, in bytes; 0 where the system does not say it."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)
