"""LARS (You et al. 2017, arXiv:1708.03888): steps as long as a weight is, for batches and rates that are large."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class LARS(Optimizer):
    """SGD with momentum on gradients rescaled for each weight w of two or more dimensions, with gradient d, to

        g = trust |w| (d + weight_decay w) / (|d| + weight_decay |w| + 1e-8)        g = d if w or d is zero

    Biases and norms, which have one dimension, take their gradients as they are, without decay.

    A factor on the loss so cancels for weights of two and more dimensions, but for what it does to the decay.

    Args:
        params: parameters or groups of them, as for torch's optimisers.
        lr: the rate, of which each step reads its group's "lr".
        momentum, nesterov: as of torch.optim.SGD.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        trust: float = 0.001,
    ):
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov, "trust": trust}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is not None:
                    w.sub_(self._move(w, _rescaled(w, w.grad, group), group), alpha=group["lr"])
        return loss

    def _move(self, w: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[w]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(w)
        velocity = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        return gradient + group["momentum"] * velocity if group["nesterov"] else velocity


def _rescaled(w: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
    if w.ndim < 2:
        return gradient
    decay, size, slope = group["weight_decay"], w.norm(), gradient.norm()
    factor = group["trust"] * size / (slope + decay * size + 1e-8)
    # Chosen on the device, which a processor would have to wait for.
    return torch.where((size > 0) & (slope > 0), factor * (gradient + decay * w), gradient)
