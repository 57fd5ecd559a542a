"""The delta rule by chunks against its equations, one frame at a time in float64."""

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from models.delta import Delta, delta_rule
from models.mixer import Mixer

B, H, K, V, M = 2, 3, 8, 5, 16
ENDS = [0, 17, 17, 64, 130]
VARIANTS = [
    {},
    {"gate": True, "forget_bias_range": (1.0, 4.0), "tie_qk": False},
    {"familiarity": False, "gate": True},
    {"num_heads": 1, "match_init": True},
]


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw_frames(num_frames: int) -> list[Tensor]:
    """k, v, rate, log_decay and q, which ask for gradients."""
    k, q = (F.normalize(draw(B, H, num_frames, K, seed=seed), dim=3) for seed in (1, 2))
    rate, decay = (torch.sigmoid(draw(B, H, num_frames, seed=seed)) for seed in (3, 4))
    return [x.requires_grad_() for x in (k, draw(B, H, num_frames, V, seed=5), rate, decay.log(), q)]


def step_by_step(
    k: Tensor, v: Tensor, rate: Tensor, log_decay: Tensor | None, q: Tensor, ends: list[int]
) -> tuple[Tensor, list[Tensor]]:
    """What each frame reads, and S after each of `ends`."""
    state, read = k.new_zeros(*k.shape[:2], k.shape[3], v.shape[3]), []
    after = {0: state}
    for t in range(k.shape[2]):
        read.append((q[:, :, t, None] @ state)[:, :, 0])
        if log_decay is not None:
            state = torch.exp(log_decay[:, :, t, None, None]) * state
        error = v[:, :, t] - (k[:, :, t, None] @ state)[:, :, 0]
        state = state + (rate[:, :, t, None] * k[:, :, t])[..., None] * error[:, :, None]
        after[t + 1] = state
    return torch.stack(read, 2), [after[end] for end in ends]


def with_gradients(inputs: list[Tensor], outputs: list[Tensor]) -> list[Tensor]:
    """Outputs, and gradients of a random sum of them."""
    total = sum((draw(*y.shape, seed=seed).to(y.dtype) * y).sum() for seed, y in enumerate(outputs))
    return [*outputs, *torch.autograd.grad(total, inputs, allow_unused=True)]


@pytest.mark.parametrize("is_gated", [False, True])
@pytest.mark.parametrize("chunk_size", [1, 16, 64, 1000])
@pytest.mark.parametrize("num_frames", [130, 163])
def test_outputs_states_and_gradients_equal_the_recurrence(num_frames, chunk_size, is_gated):
    k, v, rate, log_decay, q = draw_frames(num_frames)
    inputs, log_decay = ([k, v, rate, q, log_decay], log_decay) if is_gated else ([k, v, rate, q], None)
    y, states = delta_rule(k, v, rate, log_decay, q, None, ENDS, chunk_size)
    expected, after = step_by_step(k, v, rate, log_decay, q, ENDS)
    torch.testing.assert_close(
        with_gradients(inputs, [y, *states]), with_gradients(inputs, [expected, *after]), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("ends", [[0], [1], [63], [30, 60, 90], [7, 8, 100]])
def test_states_are_the_same_whether_or_not_frames_are_read(ends):
    k, v, rate, log_decay, q = draw_frames(100)
    nothing, states = delta_rule(k, v, rate, log_decay, None, None, ends, 16)
    _, expected = step_by_step(k, v, rate, log_decay, q, ends)
    assert nothing is None
    torch.testing.assert_close(states, expected, rtol=1e-9, atol=1e-9)


def test_state_carries_on_where_earlier_frames_ended():
    *inputs, q = draw_frames(150)
    whole, [after] = delta_rule(*inputs, q, None, [150], 16)
    early, late = zip(*(x.split([97, 53], 2) for x in [*inputs, q]), strict=True)
    read_early, [between] = delta_rule(*early, None, [97], 16)
    read_late, [last] = delta_rule(*late, between, [53], 16)
    torch.testing.assert_close((torch.cat([read_early, read_late], 2), last), (whole, after), rtol=1e-9, atol=1e-9)


def test_frames_that_are_all_alike_lose_nothing_in_float32():
    """As in a still scene: the triangular system is then as far from the identity as it can be."""
    k, v, rate, log_decay, q = (x.detach() for x in draw_frames(300))
    k, rate = k[:, :, :1].expand_as(k), torch.full_like(rate, 0.95)
    expected, _ = step_by_step(k, v, rate, log_decay, q, [])
    y, _ = delta_rule(*(x.float() for x in (k, v, rate, log_decay, q)), None, [], 64)
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-5)


def test_gates_that_shut_leave_gradients_finite():
    k, v, rate, _, q = draw_frames(100)
    log_decay = torch.full_like(rate, -300.0).requires_grad_()
    y, _ = delta_rule(k, v, rate, log_decay, q, None, [], 64)
    assert all(x.isfinite().all() for x in with_gradients([k, v, rate, log_decay, q], [y]))


def test_frame_that_comes_again_corrects_what_it_wrote():
    k = torch.eye(K, dtype=torch.float64)[None, None, [0, 1, 0]]
    v = draw(1, 1, 3, V)
    ones = torch.ones(1, 1, 3, dtype=torch.float64)
    _, [state] = delta_rule(k, v, ones, None, None, None, [3], 64)
    torch.testing.assert_close(k[:, :, [0, 1]] @ state, v[:, :, [2, 1]])


def build(**settings: object) -> Delta:
    """A layer of small width whose rates and gates depend on what they read, in float64."""
    torch.manual_seed(0)
    layer = Delta(Delta.Config(**{"d_embed": M, "num_heads": H, "d_key": K, "d_value": K, **settings})).double()
    for linear in (layer.rate, layer.gate):
        if linear is not None:
            nn.init.normal_(linear.weight, std=0.3)
    return layer


def equations(layer: Delta, x: Tensor) -> Tensor:
    """What the layer says of every frame, from its equations."""

    def heads(linear: nn.Linear) -> Tensor:  # (B, H, T, K or V)
        y = (x @ linear.weight.T).unflatten(2, (layer.num_heads, -1)).transpose(1, 2)
        return y / y.norm(dim=3, keepdim=True)

    k, v, q = heads(layer.key), heads(layer.value), heads(layer.query or layer.key)
    log_decay = None if layer.gate is None else torch.sigmoid(layer.gate(x)).log().transpose(1, 2)
    read, _ = step_by_step(k, v, torch.sigmoid(layer.rate(x)).transpose(1, 2), log_decay, q, [])
    y = read.transpose(1, 2).flatten(2) @ layer.output.weight.T
    if layer.familiarity is not None:
        error = (v - read).norm(dim=3)
        y = y + layer.familiarity(read, v, error, torch.log(error + 1e-6))
    return y


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_layer_and_its_gradients_equal_the_equations(settings):
    layer, x = build(**settings), draw(B, 163, M).requires_grad_()
    inputs = [x, *layer.parameters()]
    torch.testing.assert_close(
        with_gradients(inputs, [layer(x)]), with_gradients(inputs, [equations(layer, x)]), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("is_read", [False, True])
@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_probes_that_do_not_write_are_told_what_a_last_frame_would_be(settings, is_read):
    layer, x, queries = build(**settings), draw(B, 130, M), draw(B, 4, M, seed=2)
    said, states = layer.study(x, ENDS[1:], is_read)
    plainly, frames = Mixer.study(layer, x, ENDS[1:], is_read)
    torch.testing.assert_close(said, plainly, rtol=1e-9, atol=1e-9)
    for state, seen in zip(states, frames, strict=True):
        before = state.clone()
        expected = Mixer.read(layer, queries, seen)
        torch.testing.assert_close(layer.read(queries, state), expected, rtol=1e-9, atol=1e-9)
        assert torch.equal(state, before)


@torch.no_grad()
def test_float32_loses_little():
    layer = build(gate=True)
    x = draw(B, 500, M)
    expected = equations(layer, x)
    assert ((layer.float()(x.float()) - expected).norm() / expected.norm()).item() < 1e-5


def test_state_size_is_that_of_the_state():
    layer = build(d_key=7, d_value=9)
    [state] = layer.study(draw(1, 20, M), [20])[1]
    assert layer.state_size(20) == state.numel() == H * 7 * 9


def test_rates_and_gates_start_where_the_settings_say():
    layer, x = Delta(Delta.Config(d_embed=M, num_heads=3, rate=0.2, gate=True, forget_bias_range=(3, 5))), draw(1, 9, M)
    torch.testing.assert_close(torch.sigmoid(layer.rate(x.float())), torch.full((1, 9, 3), 0.2))
    torch.testing.assert_close(layer.gate(x.float()), torch.tensor([3.0, 4.0, 5.0]).expand(1, 9, 3))


@pytest.mark.parametrize(("num_heads", "d_key"), [(1, M), (2, M), (1, 2 * M)])
def test_start_from_matching_compares_frames_as_they_are(num_heads, d_key):
    layer = build(num_heads=num_heads, d_key=d_key, d_value=d_key, match_init=True, tie_qk=False)
    assert torch.equal(layer.key.weight, layer.value.weight)
    assert torch.equal(layer.key.weight, layer.query.weight)
    frames = F.normalize(draw(6, M), dim=1)
    keys = F.normalize(layer.key(frames), dim=1)
    torch.testing.assert_close(keys @ keys.T, frames @ frames.T, rtol=1e-5, atol=1e-5)  # weights are drawn in float32


@pytest.mark.parametrize("setting", [{"rate": 0.0}, {"rate": 1.0}, {"d_key": 0}, {"num_heads": 0}, {"gate": 1}])
def test_settings_that_make_no_memory_are_refused(setting):
    with pytest.raises(ValidationError, match=next(iter(setting))):
        Delta.Config(**setting)
