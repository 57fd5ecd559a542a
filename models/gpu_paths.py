"""Paths that GPUs take in place of plain ones, and the one switch for all of them.

A path is taken on CUDA alone, and only after it has given what the plain one gives, outputs and gradients, on inputs of
the same kind. Where it cannot be had, or gives something else, one warning says so and the plain one is taken.

The switch is the environment variable GPU_PATHS, or `using` for a part of a program:
    none       plain paths alone
    standard   the Triton kernels of UR-LSTM and FlexAttention; what is taken where nothing is said
    all        torch.compile for linear attention as well, which takes a while to compile at the start
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

LEVELS = ("none", "standard", "all")
DEVICE_TYPE = "cuda"
MAX_KINDS = 32  # of inputs that a path is tried with: each may mean a compilation


def _level_by_environment() -> str:
    level = os.environ.get("GPU_PATHS") or "standard"
    if level in LEVELS:
        return level
    logging.getLogger(__name__).warning(
        "GPU_PATHS in the environment is %r, taken for standard; it may be %s", level, ", ".join(LEVELS)
    )
    return "standard"


_level = _level_by_environment()


@contextlib.contextmanager
def using(level: str) -> Iterator[None]:
    """Take the paths of `level` within, in all threads: none, standard or all.

    What was computed within has its gradients taken within, too: layers with checkpoints compute again.
    """
    global _level
    if level not in LEVELS:
        raise ValueError(f"no paths are called {level!r}; there are {', '.join(LEVELS)}")
    before, _level = _level, level
    try:
        yield
    finally:
        _level = before


class GPUPath:
    """A way for GPUs to compute what a plain function computes.

    Args:
        cost: the start of the warning where the plain one is taken after all: what runs how.
        level: the first of LEVELS that takes the path.
        compiles: it does so by torch.compile, once for each kind of inputs.
    """

    def __init__(self, cost: str, level: str = "standard", compiles: bool = False):
        self.cost, self.level, self.compiles = cost, level, compiles
        self.is_good: dict[tuple, bool] = {}  # of each kind of inputs
        self._has_warned = False

    def is_open(self, *tensors: Tensor) -> bool:
        """Whether the path may be taken: all tensors are on a GPU and of at most 32 bits, and nobody compiles them."""
        return (
            LEVELS.index(_level) >= LEVELS.index(self.level)
            and all(x.device.type == DEVICE_TYPE and x.dtype != torch.float64 for x in tensors)
            and not torch.compiler.is_compiling()
        )

    def __call__(self, fast: Callable, plain: Callable, args: Sequence, sample: Sequence | None = None) -> tuple:
        """fast(*args), or plain(*args) where the path is not open or does not work. Both return tuples of tensors.

        The first inputs of each kind - shapes, strides, types, what needs gradients - are tried before: `sample`, as
        large as `args` unless given, goes both ways through both functions. A failure while compiling, which may come
        as late as in the first backward pass, thus ends no training.
        """
        if not self.is_open(*(x for x in args if isinstance(x, Tensor))):
            return plain(*args)
        with _no_autocast(), _compiling() if self.compiles else contextlib.nullcontext():
            if self._works(fast, plain, args if sample is None else sample):
                # Nothing is caught here: checkpoints raise to stop what they compute again.
                return fast(*args)
        return plain(*args)

    def _works(self, fast: Callable, plain: Callable, sample: Sequence) -> bool:
        kind = (torch.is_grad_enabled(), *map(_kind, sample))
        if kind not in self.is_good:
            self.is_good[kind] = False
            try:
                if len(self.is_good) > MAX_KINDS:
                    raise RuntimeError(f"it has been tried with {MAX_KINDS} kinds of input, and they are not the last")
                _compare(fast, plain, sample)
                self.is_good[kind] = True
            except Exception as error:
                self.warn(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        return self.is_good[kind]

    def warn(self, reason: str) -> None:
        """Say once that the plain path is taken, and why."""
        if not self._has_warned:
            self._has_warned = True
            logging.getLogger(__name__).warning("%s (GPU_PATHS=none is silent): %s", self.cost, reason)


def _kind(argument: object) -> object:
    """What compiled code depends on."""
    if isinstance(argument, Tensor):
        return argument.shape, argument.stride(), argument.dtype, argument.device, argument.requires_grad
    return argument


def _compare(fast: Callable, plain: Callable, args: Sequence) -> None:
    """Raises RuntimeError unless both functions give the same, to what rounding does to sums."""
    pairs = zip(_both_ways(fast, args), _both_ways(plain, args), strict=True)
    for what, results in zip(("output", "gradient"), pairs, strict=True):
        largest = max((_size(x) for x in results[1]), default=0.0)
        for k, (ours, theirs) in enumerate(zip(*results, strict=True)):
            close = 0.05 if min(ours.dtype.itemsize, theirs.dtype.itemsize) < 4 else 0.01
            margin = close * _size(theirs) + 0.01 * close * largest
            if ours.shape != theirs.shape or not torch.allclose(
                ours.float(), theirs.float(), rtol=0, atol=margin, equal_nan=True
            ):
                raise RuntimeError(f"{what} {k} is not that of the plain path")


def _size(x: Tensor) -> float:
    return x.float().nan_to_num(0.0, 0.0, 0.0).abs().amax().item() if x.numel() else 0.0


def _both_ways(function: Callable, args: Sequence) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, and gradients of their sum with fixed weights."""
    args = [x.detach().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x for x in args]
    given = [x for x in args if isinstance(x, Tensor) and x.requires_grad]
    # Checkpoints count what is kept; here that is none of their business.
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
        outputs = function(*args)
        learned = [y for y in outputs if y.requires_grad]
        if not (learned and given and torch.is_grad_enabled()):
            return list(outputs), []
        weights = [torch.arange(y.numel(), device=y.device).cos().to(y.dtype).view(y.shape) for y in learned]
        gradients = torch.autograd.grad(learned, given, weights, materialize_grads=True)
    return [y.detach() for y in outputs], list(gradients)


def _no_autocast() -> torch.autocast:
    """The same surroundings whatever autocast there is: compiled code depends on them."""
    return torch.autocast(DEVICE_TYPE, torch.bfloat16, enabled=False, cache_enabled=True)


@contextlib.contextmanager
def _compiling() -> Iterator[None]:
    """As many compilations as there may be kinds, all in this process: helpers would be more to be stopped."""
    import torch._dynamo  # a second and more, which nobody without a GPU should wait for
    import torch._inductor.config

    with (
        torch._dynamo.config.patch(cache_size_limit=2 * MAX_KINDS),
        torch._inductor.config.patch(compile_threads=1),
    ):
        yield
