"""The mLSTM layer against its equations, one frame at a time in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.mlstm import MLSTM

B, T, M = 2, 163, 16  # T is odd and spans two chunks
SMALL = {"num_heads": 2, "proj_factor": 2.0, "conv1d_kernel_size": 3}


def build(**settings: object) -> MLSTM:
    torch.manual_seed(0)
    return MLSTM(MLSTM.Config(**{"d_embed": M, **settings}))


def open_gates(layer: MLSTM, spread: float) -> None:
    """Let the gates depend on what they read: exponents of the input gates vary by a few times `spread`."""
    nn.init.normal_(layer.input_gate.weight, std=10 * spread / layer.input_gate.in_features**0.5)
    nn.init.normal_(layer.forget_gate.weight, std=20 / layer.forget_gate.in_features**0.5)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def step_by_step(layer: MLSTM, weights: dict[str, Tensor], x: Tensor, is_stabilised: bool) -> tuple[Tensor, list]:
    """The equations of the docstring, and the state after the last frame: memory, normaliser, scale and inputs.

    Stabilised, C and n are kept divided by exp(m), as in equations 24 to 27 of the paper.
    """
    heads, size = layer.num_heads, layer.d_inner // layer.num_heads
    blocks = {name: torch.block_diag(*weights[name]) for name in ("q_proj", "k_proj", "v_proj")}
    kernel = weights["conv1d.weight"][:, 0]  # (I, kernel size)
    past = [x.new_zeros(B, layer.d_inner)] * (kernel.shape[1] - 1)
    C, n, m = x.new_zeros(B, heads, size, size), x.new_zeros(B, heads, size), x.new_zeros(B, heads)
    outputs = []
    for x_t in x.unbind(1):
        inner, gate = (weights["proj_up.weight"] @ x_t.T).T.chunk(2, 1)
        window = torch.stack([*past, inner], 2)
        convolved = F.silu((window * kernel).sum(2) + weights["conv1d.bias"])
        past = [*past, inner][1:]
        q, k, v = (
            read @ blocks[name].T for read, name in ((convolved, "q_proj"), (convolved, "k_proj"), (inner, "v_proj"))
        )
        i, f = (
            torch.cat([q, k, v], 1) @ weights[f"{gate}.weight"].T + weights[f"{gate}.bias"]
            for gate in ("input_gate", "forget_gate")
        )
        q, k, v = (head.unflatten(1, (heads, size)) for head in (q, k, v))
        log_forget = torch.log(torch.sigmoid(f))
        m_before, m = m, torch.maximum(log_forget + m, i).detach() if is_stabilised else m
        keep, add = torch.exp(log_forget + m_before - m)[..., None], torch.exp(i - m)[..., None] / size**0.5
        C = keep[..., None] * C + add[..., None] * v[..., :, None] * k[..., None, :]
        n = keep * n + add * k
        h = (C @ q[..., None])[..., 0] / torch.maximum((n * q).sum(2).abs(), torch.exp(-m))[..., None]
        h = (h - h.mean(2, keepdim=True)) / (h.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
        mixed = h.flatten(1) * weights["norm_weight"] + weights["skip"] * convolved
        outputs.append((mixed * F.silu(gate)) @ weights["proj_down.weight"].T)
    return torch.stack(outputs, 1), [C, n, m, *past]


def relative_errors(names: list[str], actual: list[Tensor], expected: list[Tensor]) -> dict[str, float]:
    return {name: ((a - b).norm() / b.norm()).item() for name, a, b in zip(names, actual, expected, strict=True)}


def with_gradients(inputs: list[Tensor], y: Tensor) -> list[Tensor]:
    """Outputs, and gradients of a random sum of them."""
    return [y, *torch.autograd.grad((y * draw(*y.shape)).sum(), inputs)]


def exact_weights(layer: MLSTM) -> dict[str, Tensor]:
    return {name: parameter.detach().double().requires_grad_() for name, parameter in layer.named_parameters()}


@pytest.mark.parametrize("is_stabilised", [False, True])
@pytest.mark.parametrize("spread", [1.0, 20.0])
@pytest.mark.parametrize("settings", [SMALL, {}], ids=["small", "default"])
def test_outputs_and_gradients_equal_the_recurrence(settings, spread, is_stabilised):
    layer, x = build(**settings), draw(B, T, M).requires_grad_()
    open_gates(layer, spread)
    weights, exact_x = exact_weights(layer), x.detach().double().requires_grad_()
    actual = with_gradients([x, *layer.parameters()], layer(x))
    expected = with_gradients([exact_x, *weights.values()], step_by_step(layer, weights, exact_x, is_stabilised)[0])
    errors = relative_errors(["y", "x", *weights], actual, expected)
    assert errors.pop("y") < 1e-5
    # Looser: the norm after the cell cancels most of what the gates' gradients are sums of.
    assert {name: error for name, error in errors.items() if not error < 2e-4} == {}


@pytest.mark.parametrize("num_last", [None, 1, 20, 60])
@pytest.mark.parametrize("segment", [1, 20, 100])
def test_segments_change_neither_outputs_nor_gradients(segment, num_last):
    layer, x = build(**SMALL), draw(B, T, M).requires_grad_()
    open_gates(layer, 1.0)
    results = []
    for layer.segment in (T, segment):
        results.append(with_gradients([x, *layer.parameters()], layer(x, num_last)))
    errors = relative_errors(["y", "x", *dict(layer.named_parameters())], *reversed(results))
    assert errors.pop("y") < 1e-5
    # Looser: as above, and fewer outputs leave less of the gates' gradients.
    assert {name: error for name, error in errors.items() if not error < 2e-3} == {}
    with torch.no_grad():
        torch.testing.assert_close(layer(x, num_last), results[1][0])


def test_input_gates_beyond_floating_point_equal_the_stabilised_recurrence():
    layer, x = build(**SMALL), draw(B, T, M)
    open_gates(layer, 1000.0)
    y = layer(x)
    expected, _ = step_by_step(layer, exact_weights(layer), x.double(), is_stabilised=True)
    assert relative_errors(["y"], [y], [expected])["y"] < 1e-5
    y.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


@pytest.mark.parametrize("bias_range", [(3.0, 6.0), (0.0, 9.0), (5.0, 5.0)])
def test_forget_bias_range_sets_the_retention_whatever_is_read(bias_range):
    layer = build(num_heads=4, forget_bias_range=bias_range)
    retention = torch.sigmoid(layer.forget_gate(draw(B, T, 3 * layer.d_inner)))
    torch.testing.assert_close(retention, torch.sigmoid(torch.linspace(*bias_range, 4)).expand(B, T, 4))


def test_defaults_are_the_published_ones():
    config = MLSTM.Config()
    assert (config.n_layers, config.d_embed, config.d_inner, config.residual) == (1, 512, 512, True)
    assert (config.num_heads, config.conv1d_kernel_size, config.forget_bias_range) == (1, 2, (3.0, 6.0))


@pytest.mark.parametrize(("width", "factor", "inner"), [(64, 1.0, 64), (64, 1.1, 128), (48, 1.0, 64), (512, 1.3, 704)])
def test_inner_width_is_rounded_up_to_a_multiple_of_64(width, factor, inner):
    assert build(d_embed=width, proj_factor=factor).proj_down.in_features == inner


@pytest.mark.parametrize("settings", [SMALL, {}], ids=["small", "default"])
def test_state_size_counts_the_state_of_the_recurrence(settings):
    layer = build(**settings)
    _, state = step_by_step(layer, exact_weights(layer), draw(B, 5, M).double(), is_stabilised=True)
    assert layer.state_size(T) == sum(x[0].numel() for x in state)
