"""Batch norms that take their statistics over a few clips of a large batch (Wu et al. 2020, arXiv:1912.00998).

Where batches grow as clips shrink, statistics over all clips would become better than at the full shape. A batch of N
clips is split into p parts, p the largest divisor of N up to `num_splits`; part r holds the clips r, r + p, r + 2p, ...
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SplitBatchNorm3d(nn.BatchNorm3d):
    """`BatchNorm3d` that in training normalises each of up to `num_splits` parts of a batch by itself.

    Parameters and buffers have the names and shapes of BatchNorm3d's, and with one part its values to the last bit. A
    step gives the running mean the mean of the parts' means, and the running variance the mean of their variances plus
    the variance of their means.
    """

    num_splits = 1

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, T, H, W) to its shape."""
        num = next(p for p in range(min(self.num_splits, len(x)), 0, -1) if len(x) % p == 0)
        if num == 1 or not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        parts = x.reshape(len(x) // num, num * x.shape[1], *x.shape[2:])  # (N/p, pC, T, H, W)
        weight, bias = (None if value is None else value.repeat(num) for value in (self.weight, self.bias))
        mean, variance = torch.zeros(2, parts.shape[1], dtype=_dtype(self, x), device=x.device)
        y = F.batch_norm(parts, mean, variance, weight, bias, training=True, momentum=1.0, eps=self.eps)
        if self.running_mean is not None and self.running_var is not None:
            self._follow(mean.view(num, -1), variance.view(num, -1))
        # Back in the layout of x: to the layers that follow, another one costs more than this copy.
        is_last = x.is_contiguous(memory_format=torch.channels_last_3d)
        return y.reshape(x.shape).contiguous(
            memory_format=torch.channels_last_3d if is_last else torch.contiguous_format
        )

    @torch.no_grad()
    def _follow(self, means: Tensor, variances: Tensor) -> None:
        """Let the running statistics follow those of the parts (p, C)."""
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(means.mean(0), share)
        self.running_var.lerp_(variances.mean(0) + means.var(0, correction=0), share)


def split_norms(network: nn.Module) -> nn.Module:
    """Let all `BatchNorm3d` of a network be `SplitBatchNorm3d`, in place, with the same parameters and buffers. Names
    do not change. Returns the network."""
    for path, norm in list(network.named_modules()):
        if type(norm) is nn.BatchNorm3d:
            split = SplitBatchNorm3d(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
            split.weight, split.bias = norm.weight, norm.bias
            split.running_mean, split.running_var = norm.running_mean, norm.running_var
            split.num_batches_tracked = norm.num_batches_tracked
            network.set_submodule(path, split.train(norm.training))
    return network


def set_splits(network: nn.Module, num: int) -> None:
    """Say into how many parts the norms of a network split batches. Raises ValueError unless it is at least 1."""
    if num < 1:
        raise ValueError(f"splits: must be at least 1, found {num}")
    for module in network.modules():
        if isinstance(module, SplitBatchNorm3d):
            module.num_splits = num


def _dtype(norm: nn.BatchNorm3d, x: Tensor) -> torch.dtype:
    """In which statistics are kept, also where the input has half precision."""
    return x.dtype if norm.running_mean is None else norm.running_mean.dtype
