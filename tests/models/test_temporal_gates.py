"""Temporal gates: the paper's equations, gates that open and shut where they should, and what holds them: networks
for clips, and layers of a stack."""

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

from models.recogniser import Layout, Recogniser
from models.temporal_gates import (
    SqueezeRecursion,
    TemporalGate,
    insert_temporal_gates,
    is_cycle_consistent,
    openness,
    return_probability,
    soft_neighbours,
)
from models.vision import torchvision

B, C, T = 3, 6, 7
PLACES = ("start", "top", "mid", "end", "skip", "final")


def build(seed: int = 0, **settings: object) -> SqueezeRecursion:
    torch.manual_seed(seed)
    return SqueezeRecursion(C, **settings).double()


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_lstm(lstm: nn.LSTM, frames: Tensor) -> Tensor:
    """The LSTM's equations for one clip, frame by frame: (T, C) to (T, H)."""
    for layer in range(lstm.num_layers):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        w, u, b, d = (getattr(lstm, f"{name}_l{layer}") for name in names)
        h = cell = frames.new_zeros(lstm.hidden_size)
        outputs = []
        for frame in frames:
            i, f, g, o = (w @ frame + b + u @ h + d).chunk(4)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            h = o.sigmoid() * cell.tanh()
            outputs.append(h)
        frames = torch.stack(outputs)
    return frames


def plain_neighbours(a: Tensor, b: Tensor, tau: float) -> Tensor:
    """Shares of the frames of b for each of a, one pair at a time: (T, C) and (U, C) to (T, U)."""
    return torch.stack([torch.softmax(torch.stack([-((x - y) ** 2).sum() / tau for y in b]), 0) for x in a])


def returns(a: Tensor, b: Tensor, tau: float) -> bool:
    """Cycle consistency from a to b and back as the paper writes it, for one clip: (T, C) and (U, C)."""
    there = plain_neighbours(a, b, tau) @ b
    back = plain_neighbours(there, a, tau) @ a
    return [int(((x - a) ** 2).sum(1).argmin()) for x in back] == list(range(len(a)))


@pytest.mark.parametrize("size", [(5, 4), (1, 1), (1, 5)])
@pytest.mark.parametrize("fuse", ["product", "sigmoid", "residual"])
@pytest.mark.parametrize("hidden", [None, 4])
def test_recursion_equals_the_equations_and_leaves_its_input_alone(size, fuse, hidden):
    layer, x = build(fuse=fuse, hidden=hidden), draw(B, C, T, *size)
    if fuse == "residual":
        nn.init.normal_(layer.scale.weight)
    before = x.clone()
    y, found = layer(x, details=True)
    for k in range(B):
        a = torch.stack([torch.stack([x[k, c, t].mean() for c in range(C)]) for t in range(T)])
        s = plain_lstm(layer.lstm, a)
        if hidden:
            s = s @ layer.project.weight.T + layer.project.bias
        weight = {"product": s, "sigmoid": 1 / (1 + torch.exp(-s))}.get(fuse)
        if fuse == "residual":
            weight = 1 + s @ layer.scale.weight.T
        torch.testing.assert_close(y[k], x[k] * weight.T[:, :, None, None], rtol=0, atol=1e-9)
        torch.testing.assert_close(found.s[k], s.T, rtol=0, atol=1e-9)
        torch.testing.assert_close(found.alpha[k], plain_neighbours(a, s, 1.0), rtol=0, atol=1e-9)
    assert torch.equal(x, before)
    assert found.openness.tolist() == [1] * B


def test_sequence_is_a_clip_of_one_place():
    layer, x = build(gate="soft"), draw(B, T, C)
    clip = layer(x.transpose(1, 2)[..., None, None])
    torch.testing.assert_close(layer(x), clip[..., 0, 0].transpose(1, 2), rtol=0, atol=0)


def test_clips_of_a_batch_do_not_influence_each_other():
    layer, x = build(gate="soft", fuse="sigmoid"), draw(B, C, T, 2, 3)
    torch.testing.assert_close(layer(x), torch.cat([layer(clip[None]) for clip in x]), rtol=0, atol=1e-12)


def test_published_size_of_the_lstm():
    assert sum(p.numel() for p in SqueezeRecursion(512).parameters()) == 16 * 512**2 + 16 * 512


@pytest.mark.parametrize("tau", [0.3, 1.0, 4.0])
def test_cycle_consistency_equals_the_paper_clip_by_clip(tau):
    a = draw(40, T, C)
    b = a + torch.linspace(0, 1.5, 40)[:, None, None] * draw(40, T, C, seed=2)
    expected = [returns(x, y, tau) for x, y in zip(a, b, strict=True)]
    assert is_cycle_consistent(a, b, tau).tolist() == expected
    assert tau > 1 or {*expected} == {True, False}


def test_gate_opens_for_equal_and_for_reversed_sequences_and_not_for_noise():
    a = 3 * draw(B, T, C)
    assert is_cycle_consistent(a, a).all()
    assert is_cycle_consistent(a, a.flip(1)).all()  # consistency asks for no order
    assert not is_cycle_consistent(a, 3 * draw(B, T, C, seed=2)).any()
    assert not is_cycle_consistent(a, torch.zeros(B, T, C, dtype=a.dtype)).any()


def test_frames_that_stand_still_find_back():
    still = torch.ones(1, T, C, dtype=torch.float64)
    assert is_cycle_consistent(still, still).all()


def test_frames_nearer_than_the_temperature_are_not_told_apart():
    a = 3 * draw(1, T, C)
    assert is_cycle_consistent(a, a, tau=1.0).all()
    assert not is_cycle_consistent(a, a, tau=1e4).any()


def test_return_probability_is_that_of_the_walks():
    a, b = draw(B, T, C), draw(B, T, C, seed=2)
    found = return_probability(a, b, tau=2.0)
    for k in range(B):
        there, back = plain_neighbours(a[k], b[k], 2.0), plain_neighbours(b[k], a[k], 2.0)
        torch.testing.assert_close(found[k], (there @ back).trace() / T)
    torch.testing.assert_close(found, return_probability(b, a, tau=2.0))
    torch.testing.assert_close(soft_neighbours(a, b, 2.0)[0], plain_neighbours(a[0], b[0], 2.0))


def copier(**settings: object) -> SqueezeRecursion:
    """A layer whose LSTM gives its input back as it is, nearly, where this is -1, 0 or 1, and forgets at once."""
    layer = build(layers=1, tau=0.02, **settings)
    with torch.no_grad():
        for parameter in layer.lstm.parameters():
            parameter.zero_()
        layer.lstm.weight_ih_l0[2 * C : 3 * C] = 9 * torch.eye(C)  # the cell's input; tanh(1) of it comes out
        layer.lstm.bias_ih_l0.copy_(torch.tensor([9.0, -9.0, 0.0, 9.0]).repeat_interleave(C))
    return layer


# One frame after the other stands out in its own channel; in the second clip all are alike but for a little noise.
CLIPS = torch.stack([torch.eye(C, dtype=torch.float64), 1 + 0.01 * draw(C, C), -torch.eye(C, dtype=torch.float64)])


@pytest.mark.parametrize("direction", ["both", "either"])
def test_cycle_gate_is_open_for_some_clips_of_a_batch_and_shut_for_others(direction):
    layer = copier(gate="cycle", direction=direction)
    y, found = layer(CLIPS, details=True)
    assert found.openness.tolist() == layer.openness.tolist() == [1, 0, 1]
    assert torch.equal(y[1], CLIPS[1])
    torch.testing.assert_close(y, torch.where(found.openness[:, None, None] == 1, copier()(CLIPS), CLIPS))
    assert (y[0] - CLIPS[0]).abs().max() > 0.1


def test_either_direction_is_enough_only_where_asked_for():
    a = torch.cat([draw(40, T, C), draw(20, T, C, seed=3)])
    b = draw(60, T, C, seed=2) + a
    layers = {direction: build(gate="cycle", direction=direction) for direction in ("both", "either")}
    found = {direction: layer._openness(a, b).bool() for direction, layer in layers.items()}
    there, back = is_cycle_consistent(a, b), is_cycle_consistent(b, a)
    assert torch.equal(found["both"], there & back)
    assert torch.equal(found["either"], there | back)
    assert (there != back).any()


def test_lstm_learns_from_open_clips_alone():
    for clip, is_open in zip(CLIPS, (True, False, True), strict=True):
        layer = copier(gate="cycle")
        x = clip[None].clone().requires_grad_()
        layer(x).square().sum().backward()
        assert (layer.lstm.weight_ih_l0.grad.abs().max() > 0) == is_open
        assert is_open or torch.equal(x.grad, 2 * x)


def test_soft_gate_lies_between_and_has_a_gradient():
    x = 2 * draw(B, T, C)
    layer = build(gate="soft")
    y, found = layer(x, details=True)
    p = return_probability(x, found.s.transpose(1, 2))
    torch.testing.assert_close(found.openness, p)
    torch.testing.assert_close(y, x * (1 + p[:, None, None] * (found.s.transpose(1, 2) - 1)))
    assert ((p > 0) & (p < 1)).all()
    p.sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in layer.parameters())
    small = SqueezeRecursion(2, layers=1, gate="soft").double()
    assert torch.autograd.gradcheck(small, draw(2, 3, 2).requires_grad_())


def test_cycle_gate_is_shut_until_the_lstm_has_learned_to_go_with_the_frames():
    def shuffled(seed: int) -> Tensor:
        """Clips that show the same frames, each in an order of its own."""
        order = torch.rand(32, C, generator=torch.Generator().manual_seed(seed)).argsort(1)
        return torch.eye(C, dtype=torch.float64)[order]

    free, gated = build(layers=1, tau=0.1), build(layers=1, tau=0.1, gate="cycle")
    gated(shuffled(0))
    assert gated.openness.sum() == 0
    optimiser = torch.optim.Adam(free.parameters(), lr=0.03)
    for seed in range(1, 151):
        optimiser.zero_grad()
        _, found = free(shuffled(seed), details=True)
        (found.s.transpose(1, 2) - 0.7 * shuffled(seed)).square().mean().backward()
        optimiser.step()
    gated.load_state_dict(free.state_dict())
    gated(shuffled(0))
    assert gated.openness.mean() > 0.9


def test_single_frame_opens_the_gate_with_a_warning():
    layer = build(gate="cycle")
    with pytest.warns(UserWarning, match="single frame"):
        layer(draw(B, C, 1, 2, 2))
    assert layer.openness.tolist() == [1] * B


def test_residual_fusion_starts_as_the_identity_and_then_learns():
    layer, x = build(fuse="residual"), draw(B, C, T, 2, 2)
    assert torch.equal(layer(x), x)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        (layer(x) - 1).square().sum().backward()
        optimiser.step()
    assert all(parameter.grad.abs().max() > 0 for parameter in layer.parameters())
    assert not torch.equal(layer(x), x)


def test_half_precision_maps_are_recursed_in_the_precision_of_the_weights():
    layer, x = SqueezeRecursion(C, gate="soft"), draw(B, C, T, 2, 2).float()
    with torch.autocast("cpu", torch.bfloat16):
        y, found = layer(x.bfloat16(), details=True)
    assert (y.dtype, found.s.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(y.float(), layer(x), rtol=0.02, atol=0.01)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"fuse": "sum"}, "fuse: must be one of product, sigmoid, residual, found 'sum'"),
        ({"gate": "hard"}, "gate: must be one of None, cycle, soft"),
        ({"direction": "back"}, "direction"),
        ({"layers": 0}, "layers: must be a whole number"),
        ({"hidden": 1.5}, "hidden: must be a whole number"),
        ({"tau": 0}, "tau: must be a number above 0"),
    ],
)
def test_wrong_settings_are_named(settings, named):
    with pytest.raises(ValueError, match=named):
        build(**settings)


@pytest.mark.parametrize("shape", [(B, C + 1, T, 2, 2), (B, T, C + 1), (C, T, 2, 2)])
def test_input_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"must be \(B, 6, T, H, W\)"):
        build()(draw(*shape))


def network(name: str = "r3d_18") -> nn.Module:
    """torchvision's own network with random weights."""
    torch.manual_seed(0)
    return torchvision.models.get_model(name, weights=None).eval()


def clip(num_frames: int = 8, size: int = 16) -> Tensor:
    """A clip small enough for a CPU; at the last stage one place and one frame of eight are left."""
    return draw(2, 3, num_frames, size, size).float()


def gates(model: nn.Module) -> dict[str, SqueezeRecursion]:
    return {name: module for name, module in model.named_modules() if isinstance(module, SqueezeRecursion)}


@pytest.mark.parametrize(
    ("name", "place"), [*(("r3d_18", place) for place in PLACES), ("mc3_18", "final"), ("r2plus1d_18", "start")]
)
@torch.no_grad()
def test_network_with_residual_gates_starts_as_torchvisions_and_no_parameter_changes_its_name(name, place):
    model, x = network(name), clip()
    expected, before = model(x), {key: value.clone() for key, value in model.state_dict().items()}
    gated = insert_temporal_gates(model, place=place, fuse="residual", hidden=5)
    assert torch.equal(gated(x), expected)
    assert len(gates(gated)) == len(openness(gated)) == 8  # they are there, and all of them were passed
    state = gated.state_dict()
    assert all(torch.equal(state[key], value) for key, value in before.items())
    assert {key for key in state if "gate" not in key} == before.keys()


@pytest.mark.parametrize("place", PLACES)
def test_every_gate_gets_a_gradient(place):
    model = insert_temporal_gates(network(), place=place).train()
    model(clip(num_frames=16)).square().sum().backward()  # of which the last stage has two
    for name, gate in gates(model).items():
        assert all(parameter.grad.abs().max() > 0 for parameter in gate.parameters()), name
    assert all(parameter.grad is not None for parameter in model.parameters())


@torch.no_grad()
def test_final_gates_reweigh_what_the_blocks_give():
    plain, x = network(), clip()
    gated = insert_temporal_gates(copy.deepcopy(plain), stages=(2, 4))
    assert list(gates(gated)) == ["layer2.0_gate", "layer2.1_gate", "layer4.0_gate", "layer4.1_gate"]
    maps = plain.layer1(plain.stem(x))
    for stage in (2, 3, 4):
        for key, block in getattr(plain, f"layer{stage}").named_children():
            maps = block(maps)
            if stage != 3:
                maps = gates(gated)[f"layer{stage}.{key}_gate"](maps)
    torch.testing.assert_close(gated(x), plain.fc(maps.mean((2, 3, 4))), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_gate_on_the_shortcut_reweighs_the_shortcut_alone():
    plain, x = network(), draw(2, 64, 4, 6, 6).float().relu()
    block = plain.layer1[1]
    gated = insert_temporal_gates(copy.deepcopy(plain), place="skip").layer1[1]
    expected = (block.conv2(block.conv1(x)) + gated.downsample.gate(x)).relu()
    torch.testing.assert_close(gated(x), expected, rtol=1e-5, atol=1e-6)


def test_number_of_parameters_of_the_published_network():
    model = network()
    before = sum(p.numel() for p in model.parameters())
    added = sum(p.numel() for p in insert_temporal_gates(model).parameters()) - before
    assert (round(before / 1e6, 1), round((before + added) / 1e6, 1)) == (33.4, 44.5)


def test_network_with_gates_is_copied_and_loaded_as_any_other():
    torch.manual_seed(1)
    model, other = (insert_temporal_gates(network(), hidden=5) for _ in range(2))
    other.load_state_dict(model.state_dict())
    copied = copy.deepcopy(model)
    for gate in gates(model).values():
        nn.init.zeros_(gate.project.bias)  # the copy has gates of its own
    x = clip()
    with torch.no_grad():
        assert torch.equal(other(x), copied(x))
        assert not torch.equal(model(x), copied(x))


@pytest.mark.parametrize(
    ("name", "settings", "named"),
    [
        ("resnet18", {}, "no such layer1"),
        ("r3d_18", {"stages": (0, 1)}, "stages: must be some of 1, 2, 3 and 4"),
        ("r3d_18", {"stages": ()}, "stages"),
        ("r3d_18", {"stages": [[1]]}, "stages"),
        ("r3d_18", {"fuze": "sigmoid"}, "fuze: no setting has this name; did you mean 'fuse'"),
        ("r3d_18", {"place": "middle"}, "place: must be one of start, top"),
        ("r3d_18", {"gate": "hard"}, "gate"),
    ],
)
def test_gates_that_cannot_be_inserted_are_refused(name, settings, named):
    with pytest.raises(ValueError, match=named):
        insert_temporal_gates(network(name), **settings)


def test_gates_are_inserted_once():
    with pytest.raises(ValueError, match="has temporal gates already"):
        insert_temporal_gates(insert_temporal_gates(network(), hidden=5), place="top")


S, P, F = 17, 3, 7  # two clips of seven study frames and one of three


def build_layer(**settings: object) -> TemporalGate:
    """A layer that is told of its probes and does not start as the identity."""
    torch.manual_seed(0)
    layer = TemporalGate(TemporalGate.Config(d_embed=C, clip_frames=F, **settings)).double()
    layer.num_probes = P
    if layer.recursion.fuse == "residual":
        nn.init.normal_(layer.recursion.scale.weight)
    return layer


@pytest.mark.parametrize("gate", [None, "soft", "cycle"])
@pytest.mark.parametrize("fuse", ["product", "sigmoid", "residual"])
@torch.no_grad()
def test_layer_is_the_recursion_on_each_clip_and_without_its_gate_on_each_probe(gate, fuse):
    layer, x = build_layer(gate=gate, fuse=fuse, hidden=4, tau=0.5), draw(B, S + P, C)
    layer.recursion.lstm.weight_ih_l0 *= 9
    clips = [layer.recursion(clip, details=True) for clip in (x[:, :7], x[:, 7:14], x[:, 14:S])]
    ungated = build_layer(fuse=fuse, hidden=4)
    ungated.load_state_dict(layer.state_dict())
    probes = [ungated.recursion(x[:, p : p + 1]) for p in range(S, S + P)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a clip of a single frame
        y = layer(x)
    torch.testing.assert_close(y, torch.cat([y for y, _ in clips] + probes, 1), rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.openness, torch.stack([found.openness for _, found in clips], 1))
    torch.testing.assert_close(layer(x, P), y[:, S:])
    torch.testing.assert_close(layer(x, P + 4), y[:, S - 4 :])


@pytest.mark.parametrize("gate", [None, "soft"])
@torch.no_grad()
def test_frames_reach_later_frames_of_their_clip_and_earlier_ones_only_through_a_gate(gate):
    layer, x = build_layer(gate=gate), draw(1, S + P, C)
    before = layer(x)[0]
    for frame in range(S + P):
        changed = x.clone()
        changed[0, frame] += 1
        moved = (layer(changed)[0] != before).any(1).nonzero().flatten().tolist()
        start, stop = (frame, frame + 1) if frame >= S else (frame // F * F, min(frame // F * F + F, S))
        assert moved == list(range(start if gate else frame, stop))


def test_layer_starts_as_the_identity_unless_told_otherwise():
    x = draw(B, S + P, C).float()
    assert torch.equal(TemporalGate(TemporalGate.Config(d_embed=C))(x), x)
    assert not torch.equal(TemporalGate(TemporalGate.Config(d_embed=C, fuse="product"))(x), x)


@torch.no_grad()
def test_layer_that_was_told_of_no_probes_takes_what_is_read_for_them():
    told, x = build_layer(), draw(B, S + P, C)
    layer = build_layer()
    layer.num_probes = None
    assert torch.equal(layer(x, P), told(x, P))
    assert layer.openness is None  # no study frame was read
    assert torch.equal(layer(x[:, :S]), told(x)[:, :S])
    assert layer.openness.tolist() == [[1, 1, 1]] * B
    assert layer.tell() == {}  # it has no gate


@torch.no_grad()
def test_gate_tells_of_the_clips_of_its_latest_call_alone():
    layer, x = build_layer(gate="soft"), draw(B, S + P, C)
    layer(x)
    assert torch.equal(layer.tell()["openness"], layer.openness)
    layer(x, P)  # reads no clip
    assert layer.tell() == {}


@torch.no_grad()
def test_stack_tells_its_gates_how_long_clips_are_unless_they_know():
    told, x = build_layer(), draw(1, S + P, C)
    stacked = TemporalGate(TemporalGate.Config(d_embed=C)).double()
    stacked.load_state_dict(told.state_dict())
    Recogniser([stacked], Layout(C, P, clip_frames=F), C, [False])
    assert torch.equal(stacked(x), told(x))
    Recogniser([told], Layout(C, P, clip_frames=F + 1), C, [False])
    assert torch.equal(stacked(x), told(x))


@torch.no_grad()
def test_probes_alone_and_study_alone_are_read_too():
    layer, x = build_layer(), draw(B, S + P, C)
    assert torch.equal(layer(x[:, S:]), layer(x)[:, S:])
    layer.num_probes = 0
    assert layer(x[:, :S]).shape == (B, S, C)
