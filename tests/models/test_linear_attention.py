"""Chunked linear attention against the recurrence it stands for, one frame at a time in float64."""

import logging

import pytest
import torch
from torch import Tensor

from models import gpu_paths, linear_attention
from models.linear_attention import causal_conv1d, gated_linear_attention
from models.mamba2 import Mamba2
from models.mlstm import MLSTM

B, H, K, V = 2, 3, 4, 5


def draw(num_frames: int, spread: float, num_key_heads: int = H) -> list[Tensor]:
    """q, k, v, log_decay and log_input in float64; input weights are exponentials of up to +-`spread`."""
    generator = torch.Generator().manual_seed(num_frames)
    q, k = (torch.randn(B, num_key_heads, num_frames, K, generator=generator, dtype=torch.float64) for _ in range(2))
    v = torch.randn(B, H, num_frames, V, generator=generator, dtype=torch.float64)
    log_decay = torch.randn(B, H, num_frames, generator=generator, dtype=torch.float64).exp().neg()
    uniform = torch.rand(B, H, num_frames, generator=generator, dtype=torch.float64)
    return [q, k, v, log_decay, spread * (2 * uniform - 1)]


def step_by_step(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, log_input: Tensor) -> Tensor:
    state, outputs = torch.zeros(B, H, K, V, dtype=torch.float64), []
    for t in range(v.shape[2]):
        weight = log_input[:, :, t, None, None].exp()
        state = log_decay[:, :, t, None, None].exp() * state + weight * k[:, :, t, :, None] * v[:, :, t, None]
        outputs.append((q[:, :, t, None] @ state)[:, :, 0])
    return torch.stack(outputs, 2)


def with_gradients(inputs: list[Tensor], y: Tensor) -> list[Tensor]:
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y, *torch.autograd.grad((weights * y).sum(), inputs)]


def require_gradients(inputs: list[Tensor], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [x.to(dtype).requires_grad_() for x in inputs]


@pytest.mark.parametrize(("spread", "is_stabilised"), [(1.0, False), (1.0, True), (50.0, True), (300.0, True)])
@pytest.mark.parametrize("chunk_size", [1, 16, 128])
@pytest.mark.parametrize(("num_frames", "num_last"), [(63, None), (129, 1), (129, 17), (150, 40), (1, None)])
def test_outputs_and_gradients_equal_the_recurrence(num_frames, num_last, chunk_size, spread, is_stabilised):
    inputs = require_gradients(draw(num_frames, spread))
    y, m, _ = gated_linear_attention(*inputs, num_last, None, chunk_size, is_stabilised)
    expected = step_by_step(*inputs)[:, :, num_frames - y.shape[2] :] * torch.exp(-m[..., None])
    assert not m.requires_grad
    torch.testing.assert_close(with_gradients(inputs, y), with_gradients(inputs, expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("chunk_size", [1, 16, 128])
def test_one_head_of_keys_and_queries_is_shared_by_all(chunk_size):
    inputs = require_gradients(draw(63, 1.0, num_key_heads=1))
    y, m, _ = gated_linear_attention(*inputs, chunk_size=chunk_size)
    expected = step_by_step(*inputs) * torch.exp(-m[..., None])
    torch.testing.assert_close(with_gradients(inputs, y), with_gradients(inputs, expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("spread", "is_stabilised"), [(1.0, False), (1.0, True), (300.0, True)])
@pytest.mark.parametrize("num_last", [0, 1, 40])
def test_state_carries_on_where_earlier_frames_ended(num_last, spread, is_stabilised):
    inputs = require_gradients(draw(150, spread))
    y, m, _ = gated_linear_attention(*inputs, num_last + 30, None, 16, is_stabilised)
    early, late = zip(*(x.split([120, 30], 2) for x in inputs), strict=True)
    early_y, early_m, state = gated_linear_attention(*early, num_last, None, 16, is_stabilised)
    late_y, late_m, _ = gated_linear_attention(*late, None, state, 16, is_stabilised)
    torch.testing.assert_close(torch.cat([early_m, late_m], 2), m, rtol=1e-9, atol=1e-9)
    in_two = with_gradients(inputs, torch.cat([early_y, late_y], 2))
    torch.testing.assert_close(in_two, with_gradients(inputs, y), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("spread", "is_stabilised"), [(1.0, False), (1.0, True), (50.0, True)])
def test_float32_loses_little(spread, is_stabilised):
    exact = require_gradients(draw(263, spread))
    inputs = require_gradients(exact, torch.float32)
    y, m, _ = gated_linear_attention(*inputs, is_stabilised=is_stabilised)
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


def test_unless_stabilised_nothing_is_scaled():
    inputs = draw(63, 1.0)
    y, m, _ = gated_linear_attention(*inputs, chunk_size=16, is_stabilised=False)
    assert not m.any()
    scaled, m, _ = gated_linear_attention(*inputs, chunk_size=16)
    torch.testing.assert_close(scaled * torch.exp(m[..., None]), y, rtol=1e-9, atol=1e-9)


def test_memory_without_decay_keeps_the_first_frame():
    q, k, v, log_decay, _ = draw(300, 1.0)
    v[:, :, 1:] = 0
    y, m, _ = gated_linear_attention(q, k, v, torch.zeros_like(log_decay), torch.zeros_like(log_decay))
    expected = (q[:, :, -1] * k[:, :, 0]).sum(-1, keepdim=True) * v[:, :, 0]
    torch.testing.assert_close(y[:, :, -1] * torch.exp(m[:, :, -1:]), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("num_taps", [1, 2, 5])
@pytest.mark.parametrize("num_frames", [1, 63])
def test_convolution_and_its_gradients_are_torchs_own(num_taps, num_frames):
    generator = torch.Generator().manual_seed(num_taps)
    x, weight, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((B, num_frames, K), (K, 1, num_taps), (K,))
    )
    padded = torch.nn.functional.pad(x.transpose(1, 2), (num_taps - 1, 0))
    expected = torch.nn.functional.conv1d(padded, weight, bias, groups=K).transpose(1, 2)
    y, past = causal_conv1d(x, weight, bias, None)
    results = [with_gradients([x, weight, bias], z) for z in (y, expected)]
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(past, padded[..., num_frames:].transpose(1, 2), rtol=0, atol=0)


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_convolution_carries_on_where_earlier_frames_ended(cut):
    generator = torch.Generator().manual_seed(cut)
    x, weight, bias = (
        torch.randn(shape, generator=generator).requires_grad_() for shape in ((B, 63, K), (K, 1, 4), (K,))
    )
    whole, last = causal_conv1d(x, weight, bias, None)
    early, past = causal_conv1d(x[:, :cut], weight, bias, None)
    late, end = causal_conv1d(x[:, cut:], weight, bias, past)
    in_two = with_gradients([x, weight, bias], torch.cat([early, late], 1))
    torch.testing.assert_close(in_two, with_gradients([x, weight, bias], whole))
    torch.testing.assert_close(end, last)


class CountedCompiler:
    """Compiles to torch's own operations, those of the backward pass included, and counts how often."""

    def __init__(self):
        self.num_compilations = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]):
        from torch._dynamo.backends.debugging import aot_eager

        self.num_compilations += 1
        return aot_eager(graph, inputs)


@pytest.fixture
def compiler(monkeypatch) -> CountedCompiler:
    """Has the CPU take the path of a GPU."""
    compiler = CountedCompiler()
    monkeypatch.setattr(gpu_paths, "DEVICE_TYPE", "cpu")
    monkeypatch.setattr(linear_attention, "BACKEND", compiler)
    monkeypatch.setattr(linear_attention._path, "is_good", {})
    torch._dynamo.reset()
    return compiler


def outputs_and_gradients(layer: torch.nn.Module, x: Tensor, num_last: int | None) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x, num_last)
    weights = torch.arange(y.numel(), device=y.device).cos().view(y.shape)
    return [y, *torch.autograd.grad((y * weights).sum(), [x, *layer.parameters()])]


def build(family: type) -> torch.nn.Module:
    """With segments of 64 frames and chunks of 32."""
    torch.manual_seed(0)
    layer = family(family.Config(d_embed=64))
    layer.segment, layer.chunk = 64, 32
    return layer


@pytest.mark.parametrize(("family", "num_last"), [(MLSTM, 20), (Mamba2, None)])  # each compilation takes a second
def test_compiled_layer_gives_what_the_plain_one_gives_and_compiles_once_for_each_kind_of_segment(
    compiler, caplog, family, num_last
):
    layer, x = build(family), torch.randn(2, 90, 64, generator=torch.Generator().manual_seed(0))
    with gpu_paths.using("all"), caplog.at_level(logging.WARNING):
        actual = [outputs_and_gradients(layer, x, num_last) for _ in range(3)]  # segments are computed again, too
    assert caplog.text == ""
    # The first segment, and the shorter one that follows; where 20 frames are read, the second alone.
    assert compiler.num_compilations == len(linear_attention._path.is_good) == (1 if num_last else 2)
    expected = outputs_and_gradients(layer, x, num_last)
    assert compiler.num_compilations == len(linear_attention._path.is_good)
    torch.testing.assert_close(actual, [expected] * 3, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("family", [MLSTM, Mamba2])
def test_compiled_layer_gives_on_a_gpu_what_the_plain_one_gives_and_warns_of_nothing(caplog, family):
    layer, x = build(family).cuda(), torch.randn(2, 150, 64, generator=torch.Generator().manual_seed(0)).cuda()
    with gpu_paths.using("all"), caplog.at_level(logging.WARNING):
        actual = outputs_and_gradients(layer, x, None)
    assert caplog.text == ""
    expected = outputs_and_gradients(layer, x, None)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3 * theirs.abs().max().item())
