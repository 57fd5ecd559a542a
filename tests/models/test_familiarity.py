"""Matching: starts that lose nothing of a frame, and the cosine that tells how familiar it is."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import CONFIGS, build_model
from models.familiarity import Familiarity, match, match_signed, pass_on
from models.linear_attention import causal_conv1d
from models.lstm import LSTM, SMALL
from models.mixer import Mixer
from models.mlstm import MLSTM
from models.recogniser import Layout
from models.transformer import Transformer
from models.ur_lstm import URLSTMMixer

B, S, M = 2, 40, 32


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(6, 6), (9, 6), (4, 6)])
def test_frames_pass_a_matching_start_without_loss_as_far_as_there_is_room(shape: tuple[int, int]):
    weight = torch.empty(shape)
    match(weight, 3.0)
    gram = weight @ weight.T / 9
    torch.testing.assert_close(gram[:6, :6], torch.eye(min(shape)), atol=1e-6, rtol=0)
    assert torch.equal(weight[6:], torch.zeros(max(0, shape[0] - 6), 6))


def test_a_signed_start_keeps_both_signs_through_a_silu():
    weight, x = torch.empty(12, 6), draw(5, 6)
    match_signed(weight)
    positive, negative = F.silu(x @ weight.T).chunk(2, 1)
    torch.testing.assert_close(positive - negative, x)  # silu(x) - silu(-x) = x


def test_a_convolution_starts_as_if_it_were_not_there():
    conv, x = nn.Conv1d(6, 6, 3, groups=6), draw(B, S, 6)
    pass_on(conv)
    assert conv.bias is not None
    torch.testing.assert_close(causal_conv1d(x, conv.weight, conv.bias, None)[0], x)


def test_familiarity_depends_on_directions_alone_and_grows_with_the_cosine():
    torch.manual_seed(0)
    layer, read = Familiarity(1, 4), draw(B, 1, 3, 8)
    torch.testing.assert_close(layer(5 * read, read), layer(read, 0.1 * read))
    told = [layer(read, sign * read) for sign in (-1, 0, 1)]
    torch.testing.assert_close(told[2] - told[1], told[1] - told[0])
    torch.testing.assert_close(told[2] - told[1], (10 * layer.output.weight[:, 0]).expand(B, 3, 4))


def layer(name: str, **settings: object) -> Mixer:
    torch.manual_seed(0)
    config = CONFIGS[name](**{"d_embed": M, "n_layers": 1, "match_init": True, **settings})
    return build_model(name, config, Layout(M, 4, probes_write=False)).mixers[0]


def test_lstm_starts_as_a_sum_of_frames():
    lstm, x = layer("lstm", forget_bias_range=[20, 20], input_bias_range=[0, 0]), draw(B, S, M)
    assert isinstance(lstm, LSTM)
    _, [(_, cell)] = lstm.study(x, [S], is_read=False)
    torch.testing.assert_close(cell[0], torch.tanh(SMALL * x).sum(1) / 2, atol=1e-4, rtol=1e-4)


def test_ur_lstm_starts_as_a_mean_of_frames_over_its_time_scales():
    ur_lstm, x = layer("ur_lstm", forget_bias_range=[3, 5]), draw(B, S, M)
    assert isinstance(ur_lstm, URLSTMMixer)
    _, [(_, cell)] = ur_lstm.study(x, [S], is_read=False)
    forget = torch.sigmoid(torch.linspace(3, 5, M))
    kept = 2 * (1 - forget) * forget + (2 * forget - 1) * forget**2  # the refine gate is 1 - forget here
    weight = kept ** torch.arange(S - 1, -1, -1)[:, None] * (1 - kept)
    torch.testing.assert_close(cell[0], (torch.tanh(SMALL * x) * weight).sum(1), atol=1e-5, rtol=1e-4)


def test_transformer_starts_by_reading_the_nearest_frame():
    transformer, x = layer("transformer", n_heads=2, familiarity=True), draw(B, S, M)
    assert isinstance(transformer, Transformer)
    _, [(keys, values)] = transformer.study(x, [S], is_read=False)
    read = F.scaled_dot_product_attention(transformer._queries(x[:, :3]), keys, values)
    assert F.cosine_similarity(read, values[:, :, :3], dim=3).min() > 0.98


def test_mlstm_finds_what_it_was_shown_before_it_has_learned_anything():
    mlstm, shown, new = (
        layer("mlstm", familiarity=True, tie_qk=True, proj_factor=2.0),
        draw(B, 5, M),
        draw(B, 5, M, seed=2),
    )
    assert isinstance(mlstm, MLSTM)
    cosines: list[Tensor] = []
    assert mlstm.familiarity is not None
    mlstm.familiarity.register_forward_pre_hook(
        lambda _, given: cosines.append(F.cosine_similarity(given[0], given[1], dim=3))
    )
    _, [state] = mlstm.study(shown, [5], is_read=False)
    mlstm.read(shown, state)
    mlstm.read(new, state)
    old, other = cosines[-2:]
    assert old.min() > other.max()


def test_a_tied_query_is_no_parameter_of_its_own():
    names = {name for name, _ in layer("mlstm", tie_qk=True).named_parameters()}
    assert "q_proj" not in names
    assert "q_proj" in {name for name, _ in layer("mlstm").named_parameters()}
