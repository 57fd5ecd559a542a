"""The novelty filter against its equation, one frame after the other in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from models import CONFIGS, build_model
from models.mixer import Mixer
from models.novelty_filter import NoveltyFilter
from models.recogniser import Layout

B, T, M = 2, 163, 12  # T is odd and spans two chunks
VARIANTS = [{}, {"n_heads": 3, "d_key": 5}, {"d_key": 20, "tie_qk": False}, {"n_heads": 2, "tie_qk": False}]

over_variants = pytest.mark.parametrize("settings", VARIANTS, ids=str)


def build(**settings: object) -> NoveltyFilter:
    """A layer in float64 whose weights are not those it starts with."""
    torch.manual_seed(0)
    layer = NoveltyFilter(NoveltyFilter.Config(**{"d_embed": M, **settings})).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def frame_by_frame(layer: NoveltyFilter, x: Tensor) -> Tensor:
    """The equation of the docstring: x (B, T, M) to (B, T, M)."""
    heads, width = layer.num_heads, layer.d_key
    ridge = 0.03 + layer.log_ridge.exp()
    of_keys = layer.key.weight.unflatten(0, (heads, width))
    of_queries = of_keys if layer.query is None else layer.query.weight.unflatten(0, (heads, width))
    outputs = []
    for episode in x:
        gram = x.new_zeros(heads, width, width)
        for num_before, frame in enumerate(episode):
            k, q = (F.normalize(weight @ frame, dim=1) for weight in (of_keys, of_queries))
            told = [
                ridge[h] * q[h] @ torch.linalg.inv(gram[h] + ridge[h] * torch.eye(width, dtype=x.dtype)) @ q[h]
                for h in range(heads)
            ]
            told += [novelty.log() for novelty in told] + [torch.tensor(math.log(1 + num_before), dtype=x.dtype)]
            outputs.append(layer.output(torch.stack(told)))
            gram = gram + k[:, :, None] * k[:, None]
    return torch.stack(outputs).view(x.shape)


def with_gradients(layer: Mixer, x: Tensor, y: Tensor) -> list[Tensor]:
    """Outputs, and gradients of a random sum of them."""
    return [y, *torch.autograd.grad((y * draw(*y.shape, seed=2)).sum(), [x, *layer.parameters()])]


@over_variants
def test_outputs_and_gradients_equal_one_frame_after_the_other(settings):
    layer, x = build(**settings), draw(B, T, M).requires_grad_()
    actual, expected = (with_gradients(layer, x, y) for y in (layer(x), frame_by_frame(layer, x)))
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("chunk", [1, 20, 163, 500])
@pytest.mark.parametrize("num_last", [None, 1, 20, 60])
def test_chunks_change_neither_outputs_nor_gradients(chunk, num_last):
    layer, x = build(n_heads=2, tie_qk=False), draw(B, T, M).requires_grad_()
    results = []
    for layer.chunk in (128, chunk):
        results.append(with_gradients(layer, x, layer(x, num_last)))
    torch.testing.assert_close(*results, rtol=1e-8, atol=1e-8)


@over_variants
def test_probes_that_do_not_write_equal_each_probe_alone_after_all_frames_before(settings):
    layer, x, probes = build(**settings), draw(B, 61, M).requires_grad_(), draw(B, 4, M, seed=3)
    ends = [0, 7, 7, 60]
    results = []
    for kind in (NoveltyFilter, Mixer):
        said, states = kind.study(layer, x, ends)
        read = [kind.read(layer, probes, state) for state in states]
        results.append(with_gradients(layer, x, torch.cat([said, *read], 1)))
    torch.testing.assert_close(*results, rtol=1e-8, atol=1e-8)


def test_study_that_nobody_reads_leaves_the_same_state_and_says_nothing():
    layer, x = build(), draw(B, 61, M)
    nothing, states = layer.study(x, [5, 61], is_read=False)
    assert nothing is None
    torch.testing.assert_close(states, layer.study(x, [5, 61])[1], rtol=0, atol=0)


def test_order_of_study_frames_does_not_matter():
    layer, x, probes = build(), draw(B, 61, M), draw(B, 4, M, seed=3)
    read = [layer.read(probes, layer.study(frames, [61])[1][0]) for frames in (x, x.flip(1))]
    torch.testing.assert_close(*read)


def told(layer: NoveltyFilter, study: Tensor, probes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Novelty, its logarithm and the load, (B, Q) each, of a layer with one head."""
    layer.output = nn.Identity()
    numbers = layer.read(probes, layer.study(study, [study.shape[1]])[1][0])
    return numbers[..., 0], numbers[..., 1], numbers[..., 2]


def test_novelty_of_a_frame_seen_n_times_is_hand_worked():
    """C + r is n + r along the frame, so r q' (C + r)^-1 q = r / (n + r); and 1 across it."""
    torch.manual_seed(0)
    layer = NoveltyFilter(NoveltyFilter.Config(d_embed=4, ridge=0.5, match_init=True))
    study, probes = torch.eye(4)[:1].expand(1, 3, 4), 7 * torch.eye(4)[:2][None]
    novelty, logarithm, load = told(layer, study, probes)
    torch.testing.assert_close(novelty, torch.tensor([[0.5 / 3.5, 1.0]]))
    torch.testing.assert_close(logarithm, novelty.log())
    torch.testing.assert_close(load, torch.full((1, 2), math.log(4)))


@pytest.mark.parametrize("log_ridge", [-30.0, math.log(0.07), 5.0])
@pytest.mark.parametrize("num_frames", [0, 1, 9000])
@pytest.mark.parametrize("is_same", [True, False])
def test_as_many_frames_as_are_published_stay_finite_in_float32(num_frames, is_same, log_ridge):
    layer = build(tie_qk=False).float()
    nn.init.constant_(layer.log_ridge, log_ridge)
    study = draw(1, 1, M).expand(1, num_frames, M) if is_same else draw(1, num_frames, M)
    study, probes = study.float().requires_grad_(), torch.cat([study[:, :1], draw(1, 2, M, seed=3)], 1).float()
    writing = layer(torch.cat([study, probes], 1), len(probes[0]))
    y = torch.cat([layer.read(probes, layer.study(study, [num_frames], is_read=False)[1][0]), writing], 1)
    gradients = torch.autograd.grad(y.square().sum(), [study, *layer.parameters()])
    assert all(x.isfinite().all() for x in (y, *gradients))


@torch.no_grad()
def test_feature_that_is_not_finite_spoils_its_own_episode_and_raises_nothing():
    layer, x = build(), draw(B, T, M)
    clean = layer(x)
    x[0, 5, 3] = torch.nan
    for y in (layer(x)[:, 6:], layer.read(x[:, 6:], layer.study(x, [T], is_read=False)[1][0])):
        assert y[0].isnan().all()
        assert y[1].isfinite().all()
    torch.testing.assert_close(layer(x)[1], clean[1])


def test_bfloat16_autocast_computes_in_float32():
    layer, x = build().float(), draw(B, T, M).float()
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        read = layer.read(x, layer.study(x, [T], is_read=False)[1][0])
    assert y.dtype == read.dtype == torch.float32
    torch.testing.assert_close(y, exact, rtol=0, atol=0)


def test_queries_of_their_own_start_equal_to_keys():
    torch.manual_seed(0)
    layer = NoveltyFilter(NoveltyFilter.Config(d_embed=M, tie_qk=False))
    assert layer.query is not None
    assert torch.equal(layer.query.weight, layer.key.weight)


@pytest.mark.parametrize(("width", "is_identity"), [(M, True), (5, True), (20, False)])
def test_matching_start_compares_frames_as_they_are_where_there_is_room(width, is_identity):
    layer = NoveltyFilter(NoveltyFilter.Config(d_embed=M, d_key=width, match_init=True))
    assert torch.equal(layer.key.weight, torch.eye(width, M)) == is_identity
    gram = layer.key.weight @ layer.key.weight.T if width <= M else layer.key.weight.T @ layer.key.weight
    torch.testing.assert_close(gram, torch.eye(min(width, M)))


def test_state_size_counts_half_of_each_symmetric_matrix_and_the_number_of_frames():
    layer = build(n_heads=3, d_key=5)
    [(gram, num_frames)] = layer.study(draw(1, 9, M), [9])[1]
    assert layer.state_size(9) == len(gram[0]) * (5 * 6 // 2) + 1
    assert num_frames == 9


@pytest.mark.parametrize(("field", "value"), [("ridge", 0.0), ("ridge", 0.03), ("d_key", 0), ("n_heads", 0)])
def test_setting_that_makes_no_filter_is_refused(field, value):
    with pytest.raises(ValidationError, match=field):
        NoveltyFilter.Config(**{field: value})


@pytest.mark.parametrize("residual", [True, False])
def test_stack_whose_probes_do_not_write_answers_each_probe_alone(residual):
    torch.manual_seed(0)
    config = CONFIGS["novelty_filter"](d_embed=M, n_layers=2, residual=residual)
    model = build_model("novelty_filter", config, Layout(M, 4, probes_write=False)).double()
    features = draw(B, 61, M)
    alone = torch.cat([model(torch.cat([features[:, :57], features[:, [k]]], 1), [(57, 1)]) for k in range(57, 61)], 1)
    torch.testing.assert_close(model(features), alone)
