"""The neural Bloom filter against its rule, one frame after the other in float64."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from models import CONFIGS, build_model
from models.bloom import Bloom
from models.mixer import Mixer
from models.recogniser import Layout

B, T, M = 2, 63, 12  # T is odd
CODES = ["hard", "soft"]

over_codes = pytest.mark.parametrize("code", CODES)


def build(**settings: object) -> Bloom:
    torch.manual_seed(0)
    return Bloom(Bloom.Config(**{"d_embed": M, "units": 40, "winners": 3, **settings})).double()


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def codes(layer: Bloom, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Of frames (T, M): which units win, by sorting, and the soft codes, (T, N) each."""
    drive = (frames / frames.norm(dim=1, keepdim=True)) @ layer.drive.weight.T
    order = drive.argsort(1, descending=True)
    wins = torch.zeros_like(drive).scatter(1, order[:, : layer.winners], 1.0)
    last_winner, first_loser = (
        drive.gather(1, order[:, [place]]).detach() for place in (layer.winners - 1, layer.winners)
    )
    return wins, torch.sigmoid((drive - (last_winner + first_loser) / 2) / layer.temperature)


def frame_by_frame(layer: Bloom, x: Tensor) -> Tensor:
    """The rule of the docstring: x (B, T, M) to (B, T, M). Hard codes have the values of wins, the gradient of soft."""
    outputs = []
    for episode in x:
        wins, soft = codes(layer, episode)
        is_on, soft_on = torch.zeros_like(wins[0]), torch.zeros_like(soft[0])
        for win, code in zip(wins, soft, strict=True):
            shown, on = code, soft_on
            if layer.is_hard:
                shown, on = win + code - code.detach(), is_on + soft_on - soft_on.detach()
            outputs.append(layer.output(torch.stack([(on * shown).sum() / shown.sum(), on.mean()])))
            is_on, soft_on = torch.maximum(is_on, win), torch.maximum(soft_on, code)
    return torch.stack(outputs).view(x.shape)


def with_gradients(layer: Mixer, x: Tensor, y: Tensor) -> list[Tensor]:
    """Outputs, and gradients of a random sum of them."""
    return [y, *torch.autograd.grad((y * draw(*y.shape, seed=2)).sum(), [x, *layer.parameters()])]


@over_codes
def test_outputs_and_gradients_equal_one_frame_after_the_other(code):
    layer, x = build(code=code), draw(B, T, M).requires_grad_()
    actual, expected = (with_gradients(layer, x, y) for y in (layer(x), frame_by_frame(layer, x)))
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@over_codes
@pytest.mark.parametrize("num_last", [None, 1, 20, 60])
@pytest.mark.parametrize("segment", [1, 20])
def test_segments_change_neither_outputs_nor_gradients(segment, num_last, code):
    layer, x = build(code=code), draw(B, T, M).requires_grad_()
    results = []
    for layer.segment in (T, segment):
        results.append(with_gradients(layer, x, layer(x, num_last)))
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


@over_codes
@pytest.mark.parametrize("segment", [10, 100])
def test_probes_that_do_not_write_equal_each_probe_alone_after_all_frames_before(code, segment):
    layer, x, probes = build(code=code), draw(B, T, M).requires_grad_(), draw(B, 4, M, seed=3)
    layer.segment, ends, results = segment, [0, 7, 7, 60], []
    for kind in (Bloom, Mixer):
        said, states = kind.study(layer, x, ends)
        read = [kind.read(layer, probes, state) for state in states]
        results.append(with_gradients(layer, x, torch.cat([said, *read], 1)))
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


def test_study_that_nobody_reads_leaves_the_same_state_and_says_nothing():
    layer, x = build(), draw(B, T, M)
    nothing, states = layer.study(x, [5, T], is_read=False)
    assert nothing is None
    torch.testing.assert_close(states, layer.study(x, [5, T])[1], rtol=0, atol=0)


def told(layer: Bloom, study: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
    """Answer and load, (B, Q) each."""
    layer.output = nn.Identity()
    numbers = layer.read(probes, layer.study(study, [study.shape[1]])[1][0])
    return numbers[..., 0], numbers[..., 1]


def test_hard_codes_answer_one_for_all_that_was_seen_whatever_else_was():
    study, new = draw(B, 30, M), draw(B, 30, M, seed=3)
    answer, load = told(build(code="hard", units=400), study, torch.cat([5 * study, new], 1))
    assert torch.equal(answer[:, :30], torch.ones(B, 30, dtype=torch.float64))
    assert answer[:, 30:].mean() < 0.7
    assert (load <= 30 * 3 / 400).all()
    assert (load > 3 / 400).all()


@over_codes
def test_nothing_seen_answers_zero(code):
    answer, load = told(build(code=code), draw(B, 0, M), draw(B, 4, M))
    assert (answer == 0).all()
    assert (load == 0).all()


@over_codes
def test_order_and_number_of_showings_do_not_matter(code):
    layer, x, probes = build(code=code), draw(B, T, M), draw(B, 4, M, seed=3)
    read = [
        layer.read(probes, layer.study(frames, [frames.shape[1]])[1][0]) for frames in (x, x.flip(1).repeat(1, 2, 1))
    ]
    torch.testing.assert_close(*read)


@over_codes
def test_bfloat16_autocast_computes_in_float32(code):
    layer, x = build(code=code).float(), draw(B, T, M).float()
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        read = layer.read(x, layer.study(x, [T], is_read=False)[1][0])
    assert y.dtype == read.dtype == torch.float32
    torch.testing.assert_close(y, exact, rtol=0, atol=0)


def test_state_size_counts_the_state():
    layer = build(units=37)
    assert layer.state_size(T) == layer.study(draw(1, T, M), [T])[1][0].numel() == 37


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"winners": 4, "units": 4}, "winners 4 must be fewer"),
        ({"winners": 0}, "winners"),
        ({"units": 0}, "units"),
        ({"temperature": 0.0}, "temperature"),
        ({"code": "sharp"}, "code"),
    ],
)
def test_setting_that_makes_no_filter_is_refused(settings, named):
    with pytest.raises(ValidationError, match=named):
        Bloom.Config(**settings)


@pytest.mark.parametrize("residual", [True, False])
def test_stack_whose_probes_do_not_write_answers_each_probe_alone(residual):
    torch.manual_seed(0)
    config = CONFIGS["bloom"](d_embed=M, n_layers=2, residual=residual)
    model = build_model("bloom", config, Layout(M, 4, probes_write=False)).double()
    features = draw(B, T, M)
    alone = torch.cat([model(torch.cat([features[:, :57], features[:, [k]]], 1), [(57, 1)]) for k in range(57, 61)], 1)
    torch.testing.assert_close(model(features[:, :61]), alone)
