"""Matching a frame with what is remembered: how familiar it is, and weights that start as a plain comparison.

Shapes: B episodes, Q probes, H heads, V value width, N further numbers, M model width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Familiarity(nn.Module):
    """Adds to a layer's output, for each head, the cosine of what is read with what the frame itself would write.

    An associative memory that holds the frame gives back what was written with it; one that does not gives noise. A
    layer could learn this product of two of its own vectors only slowly.

    Args:
        heads, width: H and M.
        num_further: N, for each head.
        scale: what cosines are multiplied by, so that tenths are seen at once beside what else passes.
    """

    def __init__(self, heads: int, width: int, num_further: int = 0, scale: float = 10.0):
        super().__init__()
        self.scale = scale
        self.output = nn.Linear(heads * (1 + num_further), width)

    def forward(self, read: Tensor, written: Tensor, *further: Tensor) -> Tensor:
        """read and written (B, H, Q, V), and N further numbers (B, H, Q) each, to (B, Q, M)."""
        cosine = self.scale * F.cosine_similarity(read, written, dim=3)
        return self.output(torch.cat([cosine, *further], 1).transpose(1, 2))


def match(weight: Tensor, scale: float = 1.0) -> None:
    """Fill a matrix so that it maps frames without loss, as far as it has room: the identity where it has rows enough,
    else orthonormal rows, drawn by torch's generator; times `scale`."""
    start = nn.init.eye_ if weight.shape[0] >= weight.shape[1] else nn.init.orthogonal_
    with torch.no_grad():
        weight.copy_(scale * start(torch.empty_like(weight)))


def match_signed(weight: Tensor, scale: float = 1.0) -> None:
    """As `match`, for a matrix before a SiLU, which shuts negative numbers out: one half of the rows is the other one
    with its sign turned."""
    half = weight.shape[0] // 2
    match(weight[:half], scale)
    with torch.no_grad():
        weight[half : 2 * half] = -weight[:half]


def pass_on(conv: nn.Conv1d) -> None:
    """Make a causal convolution of each channel by itself start as one that gives what comes in."""
    assert conv.bias is not None
    nn.init.zeros_(conv.weight[..., :-1])
    nn.init.ones_(conv.weight[..., -1])
    nn.init.zeros_(conv.bias)
