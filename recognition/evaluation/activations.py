"""Activations of chosen layers, recorded while a network runs; nothing of it stays behind in the network.

Shapes: N pictures, C filters of a layer.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def record(*modules: nn.Module, mean: bool = False) -> Iterator[dict[nn.Module, Tensor]]:
    """Keep what the modules give while the block runs, by module, on their own device, of the latest pass alone.

    With `mean` only the spatial mean of every filter is kept: (N, C) of (N, C, H, W). The hooks are removed at the end
    of the block, also after an exception.
    """
    kept: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, _: tuple, output: Tensor) -> None:
        # A copy, as the next layer may compute in place.
        kept[module] = output.detach().mean((-2, -1)) if mean else output.detach().clone()

    hooks = [module.register_forward_hook(keep) for module in modules]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


def conv_layers(branch: nn.Module) -> list[nn.Conv2d]:
    """All convolutions of a network or of a part of it, in the order in which they were registered."""
    return [module for module in branch.modules() if isinstance(module, nn.Conv2d)]


def filter_activations(network: nn.Module, images: Tensor, layer: nn.Module) -> Tensor:
    """Spatial mean of every filter of a layer, (N, C), for pictures (N, 3, H, W).

    The network computes as in use, without dropout, and is left in the mode in which it was.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.inference_mode(), record(layer, mean=True) as kept:
            network(images)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return kept[layer]
