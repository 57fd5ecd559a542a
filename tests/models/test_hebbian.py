"""HebbFF by chunks against its equations, one frame at a time in float64."""

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from models.hebbian import Hebbian, units
from models.mixer import Mixer

B, K, N, M = 3, 8, 12, 16
ENDS = [0, 17, 17, 64, 70]


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(**settings: object) -> Hebbian:
    torch.manual_seed(0)
    return Hebbian(Hebbian.Config(**{"d_embed": M, "d_key": K, "d_hidden": N, **settings})).double()


def equations(layer: Hebbian, x: Tensor, ends: list[int]) -> tuple[Tensor, list[Tensor]]:
    """What the layer says of every frame, and A after each of `ends`, from its equations."""
    x = x @ layer.key.weight.T
    x = x / x.norm(dim=2, keepdim=True)
    plastic, hidden = x.new_zeros(len(x), *layer.fixed.weight.shape), []
    after = {0: plastic}
    for t in range(x.shape[1]):
        received = ((layer.fixed.weight + plastic) @ x[:, t, :, None])[..., 0] + layer.fixed.bias
        hidden.append(torch.sigmoid(received))
        written = hidden[-1][:, :, None] * x[:, t, None]
        plastic = torch.sigmoid(layer.forget_bias) * plastic + layer.rate * written
        after[t + 1] = plastic
    return layer.output(torch.stack(hidden, 1)), [after[end] for end in ends]


def with_gradients(inputs: list[Tensor], outputs: list[Tensor]) -> list[Tensor]:
    """Outputs, and gradients of a random sum of them."""
    total = sum((draw(*y.shape, seed=seed) * y).sum() for seed, y in enumerate(outputs))
    return [*outputs, *torch.autograd.grad(total, inputs)]


@pytest.mark.parametrize("chunk", [1, 16, 32, 1000])
@pytest.mark.parametrize("settings", [{}, {"forget_bias": 1.0, "rate": 0.7}], ids=str)
def test_outputs_states_and_gradients_equal_the_equations(settings, chunk):
    layer, x = build(**settings), draw(B, 75, M).requires_grad_()
    layer.chunk, inputs = chunk, [x, *layer.parameters()]
    y, states = layer.study(x, ENDS)
    expected, after = equations(layer, x, ENDS)
    torch.testing.assert_close(
        with_gradients(inputs, [y, *states]), with_gradients(inputs, [expected, *after]), rtol=1e-9, atol=1e-9
    )


def test_gradients_of_hidden_units_are_those_of_numerical_differences():
    given, within = (draw(2, 9, n, seed=n).requires_grad_() for n in (4, 9))
    assert torch.autograd.gradcheck(lambda given, within: units(given, within.tril(-1)), (given, within))


@pytest.mark.parametrize("is_read", [False, True])
def test_probes_that_do_not_write_are_told_what_a_last_frame_would_be(is_read):
    layer, x, queries = build(), draw(B, 90, M), draw(B, 4, M, seed=2)
    said, states = layer.study(x, ENDS[1:], is_read)
    plainly, frames = Mixer.study(layer, x, ENDS[1:], is_read)
    torch.testing.assert_close(said, plainly, rtol=1e-9, atol=1e-9)
    for state, seen in zip(states, frames, strict=True):
        before = state.clone()
        expected = Mixer.read(layer, queries, seen)
        torch.testing.assert_close(layer.read(queries, state), expected, rtol=1e-9, atol=1e-9)
        assert torch.equal(state, before)


@torch.no_grad()
def test_float32_loses_little_with_memory_as_short_as_it_may_get():
    for forget_bias in (-30.0, 0.0, 9.0):
        layer, x = build(forget_bias=forget_bias), draw(B, 300, M)
        expected, _ = equations(layer, x, [])
        assert ((layer.float()(x.float()) - expected).norm() / expected.norm()).item() < 1e-5


def test_state_size_is_that_of_the_state():
    layer = build(d_key=7, d_hidden=9)
    [state] = layer.study(draw(1, 20, M), [20])[1]
    assert layer.state_size(20) == state.numel() == 7 * 9


@torch.no_grad()
def test_frames_that_were_studied_find_units_less_active_before_anything_is_learned():
    layer = build(d_embed=64, d_key=64, d_hidden=128, match_init=True)
    layer.output = torch.nn.Identity()
    study, new = draw(20, 20, 64), draw(20, 20, 64, seed=2)
    [state] = layer.study(study, [20], False)[1]
    old, new = (layer.read(x, state).mean(2) for x in (study, new))
    assert (old[:, :, None] < new[:, None, :]).double().mean() > 0.9


def test_start_from_matching_compares_frames_as_they_are():
    layer, frames = build(d_key=M, match_init=True), F.normalize(draw(6, M), dim=1)
    keys = layer.key(frames)
    torch.testing.assert_close(keys @ keys.T, frames @ frames.T, rtol=1e-5, atol=1e-5)  # weights are drawn in float32


@pytest.mark.parametrize("setting", [{"d_key": 0}, {"d_hidden": 0}, {"rate": float("nan")}, {"forget_bias": "9"}])
def test_settings_that_make_no_memory_are_refused(setting):
    with pytest.raises(ValidationError, match=next(iter(setting))):
        Hebbian.Config(**setting)
