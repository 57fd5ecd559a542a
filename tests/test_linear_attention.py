"""Chunked linear attention against the recurrence it stands for, one frame at a time in float64."""

import pytest
import torch
from torch import Tensor

from models.linear_attention import gated_linear_attention

B, H, K, V = 2, 3, 4, 5


def draw(num_frames: int, spread: float | None, num_key_heads: int = H) -> list[Tensor | None]:
    """q, k, v, log_decay and log_input in float64; input weights are exponentials of up to +-`spread`."""
    generator = torch.Generator().manual_seed(num_frames)
    q, k = (torch.randn(B, num_key_heads, num_frames, K, generator=generator, dtype=torch.float64) for _ in range(2))
    v = torch.randn(B, H, num_frames, V, generator=generator, dtype=torch.float64)
    log_decay = torch.randn(B, H, num_frames, generator=generator, dtype=torch.float64).exp().neg()
    uniform = torch.rand(B, H, num_frames, generator=generator, dtype=torch.float64)
    return [q, k, v, log_decay, None if spread is None else spread * (2 * uniform - 1)]


def step_by_step(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, log_input: Tensor | None) -> Tensor:
    state, outputs = torch.zeros(B, H, K, V, dtype=torch.float64), []
    for t in range(v.shape[2]):
        weight = 1.0 if log_input is None else log_input[:, :, t, None, None].exp()
        state = log_decay[:, :, t, None, None].exp() * state + weight * k[:, :, t, :, None] * v[:, :, t, None]
        outputs.append((q[:, :, t, None] @ state)[:, :, 0])
    return torch.stack(outputs, 2)


def with_gradients(inputs: list[Tensor | None], y: Tensor) -> list[Tensor]:
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y, *torch.autograd.grad((weights * y).sum(), [x for x in inputs if x is not None])]


def require_gradients(inputs: list[Tensor | None], dtype: torch.dtype = torch.float64) -> list[Tensor | None]:
    return [x if x is None else x.to(dtype).requires_grad_() for x in inputs]


@pytest.mark.parametrize("spread", [None, 1.0, 50.0, 300.0])
@pytest.mark.parametrize("chunk_size", [1, 16, 128])
@pytest.mark.parametrize(("num_frames", "num_last"), [(63, None), (129, 1), (129, 17), (150, 40), (1, None)])
def test_outputs_and_gradients_equal_the_recurrence(num_frames, num_last, chunk_size, spread):
    inputs = require_gradients(draw(num_frames, spread))
    y, m, _ = gated_linear_attention(*inputs, num_last=num_last, chunk_size=chunk_size)
    expected = step_by_step(*inputs)[:, :, num_frames - y.shape[2] :] * torch.exp(-m[..., None])
    assert not m.requires_grad
    torch.testing.assert_close(with_gradients(inputs, y), with_gradients(inputs, expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("chunk_size", [1, 16, 128])
def test_one_head_of_keys_and_queries_is_shared_by_all(chunk_size):
    inputs = require_gradients(draw(63, 1.0, num_key_heads=1))
    y, m, _ = gated_linear_attention(*inputs, chunk_size=chunk_size)
    expected = step_by_step(*inputs) * torch.exp(-m[..., None])
    torch.testing.assert_close(with_gradients(inputs, y), with_gradients(inputs, expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spread", [None, 1.0, 300.0])
@pytest.mark.parametrize("num_last", [0, 1, 40])
def test_state_carries_on_where_earlier_frames_ended(num_last, spread):
    inputs = require_gradients(draw(150, spread))
    y, m, _ = gated_linear_attention(*inputs, num_last + 30, chunk_size=16)
    early, late = zip(*((x, x) if x is None else x.split([120, 30], 2) for x in inputs), strict=True)
    early_y, early_m, state = gated_linear_attention(*early, num_last, chunk_size=16)
    late_y, late_m, _ = gated_linear_attention(*late, state=state, chunk_size=16)
    torch.testing.assert_close(torch.cat([early_m, late_m], 2), m, rtol=1e-9, atol=1e-9)
    in_two = with_gradients(inputs, torch.cat([early_y, late_y], 2))
    torch.testing.assert_close(in_two, with_gradients(inputs, y), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spread", [None, 1.0, 50.0])
def test_float32_loses_little(spread):
    exact = require_gradients(draw(263, spread))
    inputs = require_gradients(exact, torch.float32)
    y, m, _ = gated_linear_attention(*inputs)
    expected = step_by_step(*exact) * torch.exp(-m[..., None].double())
    # Exponents are differences of sums near 200, where neighbours in float32 are 1.5e-5 apart.
    close = {"rtol": 1e-4, "atol": 1e-4, "check_dtype": False}
    torch.testing.assert_close(with_gradients(inputs, y), with_gradients(exact, expected), **close)


@pytest.mark.parametrize("level", [-1000.0, 1000.0])
def test_input_weights_beyond_floating_point_stay_finite(level):
    inputs = require_gradients(draw(63, 50.0), torch.float32)
    y, m, _ = gated_linear_attention(*inputs[:4], inputs[4] + level, chunk_size=16)
    assert all(x.isfinite().all() for x in [m, *with_gradients(inputs, y)])


def test_common_factor_of_the_input_weights_is_all_in_the_scale():
    *inputs, log_input = draw(63, 50.0)
    near, near_m, _ = gated_linear_attention(*inputs, log_input + 100, chunk_size=16)
    far, far_m, _ = gated_linear_attention(*inputs, log_input + 1000, chunk_size=16)
    torch.testing.assert_close((far, far_m), (near, near_m + 900), rtol=1e-9, atol=1e-9)


def test_without_input_weights_nothing_is_scaled():
    q, k, v, log_decay, _ = draw(63, None)
    y, m, _ = gated_linear_attention(q, k, v, log_decay, chunk_size=16)
    assert not m.any()
    scaled, m, _ = gated_linear_attention(q, k, v, log_decay, torch.zeros_like(log_decay), chunk_size=16)
    torch.testing.assert_close(scaled * torch.exp(m[..., None]), y, rtol=1e-9, atol=1e-9)


def test_memory_without_decay_keeps_the_first_frame():
    q, k, v, log_decay, _ = draw(300, None)
    v[:, :, 1:] = 0
    y, _, _ = gated_linear_attention(q, k, v, torch.zeros_like(log_decay))
    expected = (q[:, :, -1] * k[:, :, 0]).sum(-1, keepdim=True) * v[:, :, 0]
    torch.testing.assert_close(y[:, :, -1], expected, rtol=1e-9, atol=1e-9)
