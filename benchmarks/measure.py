"""How the benchmarks measure: rival computations take turns in one run, memory is taken in a process of its own."""

import copy
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import tiny

PRODUCT_SIDE = {"cpu": 2048, "cuda": 8192}  # of the matrices that show what a machine can do


@dataclass(frozen=True)
class Row:
    """One line of the table: how many times faster than its rival something is, and how much memory it takes of it."""

    what: str
    rival: str
    ours_s: float
    rival_s: float
    wanted: float  # the speed ratio that was asked for
    memory_share: float | None = None  # our peak memory over the rival's
    wanted_memory_share: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return self.rival_s / self.ours_s


def take_turns(functions: Sequence[Callable[[], object]], repeats: int = 3, warm_up: bool = True) -> list[float]:
    """Median seconds of each function; they take turns, so that whatever slows the machine slows all of them.

    With `warm_up` each runs once before, unmeasured.
    """
    if warm_up:
        for function in functions:
            function()
        _wait_for_gpu()
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, taken in zip(functions, seconds, strict=True):
            started = time.perf_counter()
            function()
            _wait_for_gpu()
            taken.append(time.perf_counter() - started)
    return [median(taken) for taken in seconds]


def peak_memory(prepare: Callable[..., Callable[[], object]], device: str, *args: object) -> int:
    """Bytes by which memory grows at its peak while the function runs that `prepare(device, *args)` returns.

    On the CPU it is measured in a fresh process, so `prepare` must be importable: there is nothing freed to take again.
    """
    if device != "cpu":
        function = prepare(device, *args)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    if tiny.is_tiny:
        return max(1, _grow(prepare, args))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_grow, prepare, args).result()


def operations(model: nn.Module, *shape: int) -> int:
    """Floating-point operations of a forward and a backward pass over features of this shape.

    Counted on tensors without numbers, where attention hides nothing of what it does. Of the families this can be said
    of the transformer alone: others are not for such tensors, or take minutes with them.
    """
    empty = copy.deepcopy(model).to("meta")
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        empty(torch.empty(shape, device="meta")).sum().backward()
    return counter.get_total_flops()


def largest_rate(device: str) -> float:
    """Operations a second of a large matrix product, in the precision that the models have on this device."""
    side = PRODUCT_SIDE[device]
    matrix = torch.randn(side, side, device=device)

    def product() -> None:
        with precision(device):
            matrix @ matrix

    return 2 * side**3 / take_turns([product])[0]


def precision(device: str) -> torch.autocast:
    """What the models are measured in: float32 on the CPU, bfloat16 by autocast on a GPU."""
    return torch.autocast(device, torch.bfloat16, enabled=device != "cpu")


def _wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _grow(prepare: Callable[..., Callable[[], object]], args: tuple) -> int:
    function = prepare("cpu", *args)
    before = memory_of_process("VmRSS")
    function()
    return memory_of_process("VmHWM") - before


def memory_of_process(name: str) -> int:
    """Bytes that Linux tells of this process: VmRSS is held now, VmHWM was at its peak."""
    # Not getrusage: its peak begins with that of the process from which this one was started.
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024
