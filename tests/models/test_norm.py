"""The layer norm is torch's, and adds up its gradients in float32 under autocast too."""

import pytest
import torch
from torch import Tensor, nn

from models.norm import LayerNorm

NUM_FRAMES, WIDTH = 2340, 16


def with_gradients(norm: nn.LayerNorm, x: Tensor, d_y: Tensor, precision: torch.dtype) -> list[Tensor]:
    """Outputs, and gradients of x, the weight and the bias."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", precision, enabled=precision.itemsize < 4):
        y = norm(x)
    return [y, *torch.autograd.grad(y, [x, norm.weight, norm.bias], d_y.to(y.dtype))]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_over_many_frames_are_added_up_in_float32(precision):
    """In bfloat16 a sum of this many grows no more long before its end."""
    draw = torch.Generator().manual_seed(0)
    x, d_y = (torch.randn(NUM_FRAMES, WIDTH, generator=draw).to(precision) for _ in range(2))
    norm = LayerNorm(WIDTH)
    nn.init.normal_(norm.weight, generator=draw)
    plain = nn.LayerNorm(WIDTH).double()
    plain.load_state_dict(norm.state_dict())
    actual = with_gradients(norm, x, 1 + d_y / 4, precision)
    expected = with_gradients(plain, x.double(), 1 + d_y / 4, torch.float64)
    errors = [((ours - exact).norm() / exact.norm()).item() for ours, exact in zip(actual, expected, strict=True)]
    errors.pop(1)  # the gradient of x is of its type
    assert max(errors) < 1e-5
