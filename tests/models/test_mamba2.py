"""The Mamba2 layer against its recurrence, one frame at a time in float64, and against its source's names."""

import importlib
import logging
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.mamba2 import Mamba2, _kernel
from models.optional import MAMBA2, Found, find_module, load

B, T, M = 2, 163, 32  # T is odd and spans two chunks
SMALL = {"headdim": 16, "d_state": 5, "d_conv": 3}
FAST = {"A_init_range": [1.0, 400.0], "dt_min": 0.01, "dt_max": 1.0}


def build(**settings: object) -> Mamba2:
    torch.manual_seed(0)
    return Mamba2(Mamba2.Config(**{"d_embed": M, **settings}))


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def step_by_step(layer: Mamba2, weights: dict[str, Tensor], x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The equations of the docstring, and the state after the last frame: each head's memory and the past inputs."""
    inner, size, heads = layer.d_inner, layer.d_state, len(layer.D)
    kernel = weights["conv1d.weight"][:, 0]  # (inner + 2 size, kernel size)
    past = [x.new_zeros(B, len(kernel))] * (kernel.shape[1] - 1)
    state, outputs = x.new_zeros(B, heads, layer.headdim, size), []
    for x_t in x.unbind(1):
        z, mixed, dt = (x_t @ weights["in_proj.weight"].T).split([inner, len(kernel), heads], 1)
        window = torch.stack([*past, mixed], 2)
        past = [*past, mixed][1:]
        value, b, c = F.silu((window * kernel).sum(2) + weights["conv1d.bias"]).split([inner, size, size], 1)
        value, dt = value.unflatten(1, (heads, -1)), torch.log1p(torch.exp(dt + weights["dt_bias"]))
        decay = torch.exp(-dt * torch.exp(weights["A_log"]))
        state = decay[..., None, None] * state + (dt[..., None] * value)[..., None] * b[:, None, None]
        y = (state * c[:, None, None]).sum(3) + weights["D"][:, None] * value
        y = y.flatten(1) * F.silu(z)
        y = y / (y.square().mean(1, keepdim=True) + 1e-5).sqrt() * weights["norm.weight"]
        outputs.append(y @ weights["out_proj.weight"].T)
    return torch.stack(outputs, 1), [state, *past]


def relative_errors(names: list[str], actual: list[Tensor], expected: list[Tensor]) -> dict[str, float]:
    return {name: ((a - b).norm() / b.norm()).item() for name, a, b in zip(names, actual, expected, strict=True)}


def with_gradients(inputs: list[Tensor], y: Tensor) -> list[Tensor]:
    """Outputs, and gradients of a random sum of them."""
    return [y, *torch.autograd.grad((y * draw(*y.shape)).sum(), inputs)]


def exact_weights(layer: Mamba2) -> dict[str, Tensor]:
    return {name: parameter.detach().double().requires_grad_() for name, parameter in layer.named_parameters()}


@pytest.mark.parametrize("settings", [SMALL, SMALL | FAST, {}], ids=["small", "fast", "default"])
def test_outputs_and_gradients_equal_the_recurrence(settings):
    layer, x = build(**settings), draw(B, T, M).requires_grad_()
    weights, exact_x = exact_weights(layer), x.detach().double().requires_grad_()
    actual = with_gradients([x, *layer.parameters()], layer(x))
    expected = with_gradients([exact_x, *weights.values()], step_by_step(layer, weights, exact_x)[0])
    errors = relative_errors(["y", "x", *weights], actual, expected)
    # Looser: gradients of A and dt are small differences of large sums where memory is short.
    assert errors.pop("A_log") < 2e-4
    assert errors.pop("dt_bias") < 1e-4
    assert {name: error for name, error in errors.items() if not error < 2e-5} == {}


@pytest.mark.parametrize("num_last", [None, 1, 20, 60])
@pytest.mark.parametrize("segment", [1, 20, 100])
def test_segments_change_neither_outputs_nor_gradients(segment, num_last):
    layer, x = build(**SMALL), draw(B, T, M).requires_grad_()
    results = []
    for layer.segment in (T, segment):
        results.append(with_gradients([x, *layer.parameters()], layer(x, num_last)))
    errors = relative_errors(["y", "x", *dict(layer.named_parameters())], *reversed(results))
    # Rounding alone; A's gradient is a small difference of large sums.
    assert {name: error for name, error in errors.items() if not error < 2e-4} == {}
    with torch.no_grad():
        torch.testing.assert_close(layer(x, num_last), results[1][0])


def test_names_and_shapes_are_those_of_the_source():
    shapes = {name: tuple(parameter.shape) for name, parameter in build(d_embed=64).named_parameters()}
    assert shapes == {
        "in_proj.weight": (128 + 128 + 64 + 64 + 2, 64),  # z, x, B, C, dt
        "conv1d.weight": (128 + 64 + 64, 1, 4),
        "conv1d.bias": (128 + 64 + 64,),
        "dt_bias": (2,),
        "A_log": (2,),
        "D": (2,),
        "norm.weight": (128,),
        "out_proj.weight": (64, 128),
    }
    assert set(build(d_embed=64).state_dict()) == set(shapes)


@pytest.mark.parametrize(
    ("A", "dt"), [((1.0, 16.0), (0.001, 0.1)), ((0.01, 0.02), (0.001, 0.002)), ((1.0, 1.0), (1.0, 1.0))]
)
def test_ranges_bound_and_fill_the_decays_at_the_start(A, dt):
    layer = build(d_embed=512, headdim=1, d_state=1, A_init_range=A, dt_min=dt[0], dt_max=dt[1])
    step, rate = F.softplus(layer.dt_bias), torch.exp(layer.A_log)
    for drawn, (low, high) in ((rate, A), (step.log(), torch.tensor(dt).log().tolist())):
        assert low - 1e-4 <= drawn.min() <= drawn.max() <= high + 1e-4
        torch.testing.assert_close(drawn.mean().item(), (low + high) / 2, rtol=0, atol=0.05 * (high - low) + 1e-4)
    decay = torch.exp(-step * rate)
    assert torch.e ** -(dt[1] * A[1]) - 1e-4 <= decay.min() <= decay.max() <= torch.e ** -(dt[0] * A[0]) + 1e-6


def test_steps_are_not_shorter_than_the_floor():
    steps = F.softplus(build(d_embed=512, headdim=1, dt_min=1e-5, dt_init_floor=0.01).dt_bias)
    torch.testing.assert_close(steps.min().item(), 0.01)


@pytest.mark.parametrize("settings", [SMALL, {}], ids=["small", "default"])
def test_state_size_counts_the_state_of_the_recurrence(settings):
    layer = build(**settings)
    _, state = step_by_step(layer, exact_weights(layer), draw(B, 5, M).double())
    assert layer.state_size(T) == sum(x[0].numel() for x in state)


def scan_as_the_source_defines_it(
    x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, initial_states=None, seq_idx=None, cu_seqlens=None,
    dt_softplus=False, dt_limit=(0.0, float("inf")), return_final_states=False, return_varlen_states=False,
):  # fmt: skip
    """The arguments of mamba-ssm 2.2 and 2.3, ops/triton/ssd_combined.py, and what it asserts of them."""
    batch, num_frames, heads, _ = x.shape
    groups, size = B.shape[2:]
    assert B.shape == C.shape == (batch, num_frames, groups, size)
    assert dt.shape == (batch, num_frames, heads)
    assert A.shape == D.shape == dt_bias.shape == (heads,)
    assert dt_softplus
    assert chunk_size & (chunk_size - 1) == 0  # a block of Triton's
    assert {y.dtype for y in (x, A, B, C, D, dt_bias)} == {torch.float32}
    step, state, outputs = F.softplus(dt.float() + dt_bias), 0.0, []
    for t in range(num_frames):
        gain = (step[:, t, :, None] * x[:, t])[..., None] * B[:, t].repeat_interleave(heads // groups, 1)[:, :, None]
        state = torch.exp(step[:, t] * A)[..., None, None] * state + gain
        read = (state * C[:, t].repeat_interleave(heads // groups, 1)[:, :, None]).sum(3)
        outputs.append(read + D[:, None] * x[:, t])
    return torch.stack(outputs, 1)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_last", [None, 7])
def test_kernel_is_called_as_its_source_defines_it(num_last, precision, monkeypatch):
    layer, x, results = build(**SMALL), draw(B, T, M).requires_grad_(), []
    for kernel in (None, scan_as_the_source_defines_it):
        monkeypatch.setattr("models.mamba2._kernel", lambda x, kernel=kernel: kernel)
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            y = layer(x, num_last)
        results.append(with_gradients([x, *layer.parameters()], y.float()))
    names = ["y", "x", *dict(layer.named_parameters())]
    errors = relative_errors(names, *reversed(results))
    # Looser: A's gradient is a small difference of large sums.
    allowed = 2e-4 if precision == torch.float32 else 2e-2
    assert {name: error for name, error in errors.items() if not error < allowed} == {}


@pytest.mark.parametrize("found", [Found(None), Found(None, "ImportError: undefined symbol: _ZN3c104cuda")])
def test_gpu_without_the_kernel_is_told_of_once(found, monkeypatch, caplog):
    monkeypatch.setattr("models.optional.find_module", lambda name: found)
    load.cache_clear()
    assert [_kernel(SimpleNamespace(is_cuda=is_cuda)) for is_cuda in (False, True, True)] == [None] * 3
    load.cache_clear()
    [line] = caplog.messages
    assert "Mamba2 on a GPU runs as our chunked form in plain torch" in line
    assert found.error in line


def test_cpu_neither_imports_the_kernel_nor_speaks_of_it(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr("models.optional.find_module", lambda name: pytest.fail("the kernel is for GPUs"))
    build(**SMALL)(draw(B, 5, M))
    assert caplog.messages == []


@pytest.fixture
def kernel():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if find_module(MAMBA2.module).module is None:
        pytest.skip(f"no mamba-ssm: {find_module(MAMBA2.module).error or 'not installed'}")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_last", [None, 7])
def test_kernel_gives_the_outputs_and_gradients_of_our_form(num_last, precision, kernel):
    layer, x = build(d_embed=128), draw(B, 300, 128)
    expected = with_gradients([exact := x.clone().requires_grad_(), *layer.parameters()], layer(exact, num_last))
    layer, x = layer.cuda(), x.cuda().requires_grad_()
    assert _kernel(x) is not None
    with torch.autocast("cuda", precision, enabled=precision != torch.float32):
        y = layer(x, num_last)
    y = y.float()
    gradients = torch.autograd.grad((y * draw(*y.shape).cuda()).sum(), [x, *layer.parameters()])
    names = ["y", "x", *dict(layer.named_parameters())]
    errors = relative_errors(names, [z.cpu() for z in (y, *gradients)], expected)
    # In float32 too the kernel multiplies in TF32: 10 bits. A's gradient is a small difference of large sums.
    allowed = 5e-3 if precision == torch.float32 else 32 * torch.finfo(precision).eps
    assert {name: error for name, error in errors.items() if not error < allowed} == {}


@pytest.mark.gpu
def test_source_itself_gives_the_same(kernel):
    try:
        source = importlib.import_module("mamba_ssm").Mamba2(128, d_state=64).cuda()
    except ImportError as error:  # its kernel alone does without what the rest of it needs
        pytest.skip(f"mamba-ssm has its kernel alone: {error}")
    layer, x = build(d_embed=128), draw(B, 300, 128)
    source.load_state_dict(layer.state_dict())
    assert relative_errors(["source"], [source(x.cuda()).cpu()], [layer(x)])["source"] < 5e-3
