"""Running statistics of batch norms measured anew, for weights that have changed faster than their averages."""

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn


def measure_norms(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the running statistics of all batch norms to their means over batches, each of which counts alike.

    Nothing else of the network changes, nor the state of torch's generators. Without any batch nothing changes at all.
    Source: "precise" statistics of Wu and Johnson 2021, arXiv 2105.07576, section 3.

    Args:
        network: what maps a batch; batch norms that are frozen are measured too.
        batches: of clips as in training, on the network's device.
    """
    remaining = iter(batches)
    if (first := next(remaining, None)) is None:
        return
    modes = {module: module.training for module in network.modules()}
    momenta = {module: module.momentum for module in modes if isinstance(module, _BatchNorm)}
    try:
        with torch.random.fork_rng([first.device] if first.is_cuda else []):  # of dropout
            update_bn(itertools.chain([first], remaining), network)
    finally:  # a failure must not leave other momenta behind, nor may frozen parts thaw
        for module, mode in modes.items():
            module.training = mode
        for norm, momentum in momenta.items():
            norm.momentum = momentum
