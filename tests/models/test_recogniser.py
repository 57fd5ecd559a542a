"""The shell around the layers: which frames are read, which features they see, what the state is."""

import copy

import pytest
import torch
from torch import Tensor, nn

from models import CONFIGS, build_model
from models.mixer import Mixer
from models.recogniser import Layout, Recogniser

B, S, P, D, M = 2, 21, 5, 12, 16


class Pointwise(Mixer):
    """A layer without memory."""

    def __init__(self, num_floats: int = 0):
        super().__init__()
        self.linear, self.num_floats = nn.Linear(M, M), num_floats

    def forward(self, x: Tensor, num_last: int | None = None) -> Tensor:
        x = torch.tanh(self.linear(x))
        return x if num_last is None else x[:, -num_last:]

    def state_size(self, num_frames: int) -> int:
        return self.num_floats * num_frames


def build(repeat_test: int = 1, num_probes: int = P, num_layers: int = 2, residual: bool = True) -> Recogniser:
    torch.manual_seed(0)
    layers = [Pointwise() for _ in range(num_layers)]
    return Recogniser(layers, Layout(D, num_probes, repeat_test), M, [residual] * num_layers)


def draw(num_frames: int) -> Tensor:
    return torch.randn(B, num_frames, D, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("repeat_test", [1, 2, 3])
def test_each_logit_belongs_to_the_last_showing_of_one_probe(repeat_test, residual):
    model, features = build(repeat_test, residual=residual), draw(S + P * repeat_test)
    before = model(features)
    assert before.shape == (B, P)
    for frame in range(features.shape[1]):
        changed = features.clone()
        changed[0, frame] += 1
        moved = (model(changed) != before).nonzero().tolist()
        probe, showing = divmod(frame - S, repeat_test)
        assert moved == ([[0, probe]] if frame >= S and showing == repeat_test - 1 else [])


@pytest.mark.parametrize("name", ["transformer", "lstm"])
def test_repeated_probes_are_read_as_if_each_showing_were_a_probe(name):
    def logits(num_probes: int, repeat_test: int) -> Tensor:
        torch.manual_seed(0)
        return build_model(name, CONFIGS[name](d_embed=M), Layout(D, num_probes, repeat_test))(features)

    features = draw(S + P * 3)
    torch.testing.assert_close(logits(P, 3), logits(P * 3, 1)[:, 2::3], rtol=0, atol=0)


def test_standardising_equals_doing_it_by_hand():
    plain, model, features = build(), build(), 3 + 4 * draw(S + P)
    mean, deviation = 0.1 * features[0, 0], 0.5 + features[0, 1].abs()
    model.standardise(mean, deviation)
    by_hand = (features / features.norm(dim=2, keepdim=True) - mean) / deviation
    torch.testing.assert_close(model(features), plain(by_hand))
    torch.testing.assert_close(model(100 * features), model(features))


def test_feature_that_never_varied_does_not_become_infinite():
    model = build()
    model.standardise(torch.zeros(D), torch.zeros(D))
    assert model(draw(S + P)).isfinite().all()


def test_whitening_equals_doing_it_by_hand_and_signs_turn_its_axes():
    torch.manual_seed(0)
    plain, features, axes = build(), 3 + 4 * draw(S + P), torch.randn(D, D)
    model = copy.deepcopy(plain)
    mean = 0.1 * features[0, 0]
    model.whiten(mean, axes)
    by_hand = (features / features.norm(dim=2, keepdim=True) - mean) @ axes
    by_hand = by_hand / by_hand.norm(dim=2, keepdim=True) * D**0.5  # a mean square of 1
    torch.testing.assert_close(model(features), plain(by_hand))
    signs = 2 * (torch.rand(B, S + P, D) > 0.5).to(torch.int8) - 1
    torch.testing.assert_close(model(features, None, signs), plain(by_hand * signs))
    other = build()
    other.whiten(torch.zeros(D), torch.zeros(D, D))
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(features), model(features), rtol=0, atol=0)


def test_statistics_are_saved_with_the_weights():
    model, other, features = build(), build(), draw(S + P)
    model.standardise(torch.full((D,), 0.1), torch.full((D,), 0.3))
    other.standardise(torch.zeros(D), torch.ones(D))
    assert not torch.allclose(other(features), model(features))
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(features), model(features), rtol=0, atol=0)
    assert {"feature_mean", "feature_deviation"} <= set(model.state_dict()) - set(build().state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_of_any_floating_type_are_read_as_float32(dtype):
    model, features = build(), draw(S + P).to(dtype)
    torch.testing.assert_close(model(features), model(features.float()), rtol=0, atol=0)


def test_residual_layers_add_to_what_passes_and_bare_ones_replace_it():
    features = draw(P)
    for residual in (True, False):
        model = build(residual=residual)
        x = model.embed(features)
        for block in model.blocks:
            x = x + block.mixer(nn.functional.layer_norm(x, (M,))) if residual else block(x)
        x = nn.functional.layer_norm(x, (M,)) if residual else x
        torch.testing.assert_close(model(features), model.read_out(x)[..., 0])


@pytest.mark.parametrize("residual", [(True, False, True), (True, False), (False, True)])
def test_each_layer_is_residual_or_bare_by_itself(residual):
    torch.manual_seed(0)
    model, features = Recogniser([Pointwise() for _ in residual], Layout(D, P), M, residual), draw(P)
    x = model.embed(features)
    for block, is_residual in zip(model.blocks, residual, strict=True):
        x = x + block.mixer(nn.functional.layer_norm(x, (M,))) if is_residual else block(x)
    x = nn.functional.layer_norm(x, (M,)) if residual[-1] else x
    torch.testing.assert_close(model(features), model.read_out(x)[..., 0])


class Listener(Pointwise):
    """A layer that keeps what it is told."""

    def place(self, num_probes: int, clip_frames: int | None) -> None:
        self.told = num_probes, clip_frames


def test_layers_are_told_which_frames_are_probes_and_how_long_clips_are():
    listeners = [Listener(), Listener(), Listener()]
    Recogniser(listeners, Layout(D, P, repeat_test=3, clip_frames=7), M, [True, False, True])
    assert [mixer.told for mixer in listeners] == [(3 * P, 7)] * 3


def test_layers_stay_those_of_the_stack_when_a_model_is_copied():
    model = copy.deepcopy(Recogniser([Pointwise(), Listener()], Layout(D, P), M, [True, False]))
    assert model.mixers == (model.blocks[0].mixer, model.blocks[1])
    assert not [key for key in model.state_dict() if "mixers" in key]


@pytest.mark.parametrize("residual", [True, False])
def test_state_size_is_the_sum_over_layers(residual):
    model = Recogniser([Pointwise(3), Pointwise(0), Pointwise(40)], Layout(D, P), M, [residual] * 3)
    assert model.state_size(7) == 43 * 7
