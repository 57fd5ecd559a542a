"""The LSTM layer: torch's own, with gates that can start open."""

import pytest
import torch
from torch import Tensor, nn

from models.lstm import LSTM

B, T, M = 3, 63, 16


def build(**settings: object) -> LSTM:
    torch.manual_seed(0)
    return LSTM(LSTM.Config(d_embed=M, **settings))


def gate_biases(layer: LSTM) -> dict[str, Tensor]:
    return dict(zip("ifgo", (layer.lstm.bias_ih_l0 + layer.lstm.bias_hh_l0).detach().chunk(4), strict=True))


def test_plain_layer_is_torchs_lstm():
    layer = build()
    torch.manual_seed(0)
    theirs = nn.LSTM(M, M, batch_first=True)
    torch.testing.assert_close(layer.lstm.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    x = torch.randn(B, T, M)
    torch.testing.assert_close(layer(x), theirs(x)[0], rtol=0, atol=0)
    torch.testing.assert_close(layer(x, num_last=5), theirs(x)[0][:, -5:], rtol=0, atol=0)


@pytest.mark.parametrize("forget", [None, (1.0, 9.0), (-2.0, -2.0)])
@pytest.mark.parametrize("input", [None, (-1.0, -9.0)])
def test_bias_range_sets_its_gate_and_no_other(forget, input):
    given = {"f": forget, "i": input}
    biases, plain = gate_biases(build(forget_bias_range=forget, input_bias_range=input)), gate_biases(build())
    for gate, bias in biases.items():
        bias_range = given.get(gate)
        expected = plain[gate] if bias_range is None else torch.linspace(*bias_range, M)
        torch.testing.assert_close(bias, expected, rtol=0, atol=0)


@pytest.mark.parametrize("bias", [3.0, 5.0])
def test_forget_bias_keeps_a_cell_for_about_its_exponential_in_frames(bias):
    layer = build(forget_bias_range=[bias, bias], input_bias_range=[-bias, -bias])
    with torch.no_grad():
        layer.lstm.weight_hh_l0.zero_()
        layer.lstm.bias_ih_l0[2 * M : 3 * M] = -layer.lstm.bias_hh_l0[2 * M : 3 * M]  # no new input
        num_frames = round(torch.e**bias)
        _, (_, cell) = layer.lstm(torch.zeros(1, num_frames, M), (torch.zeros(1, 1, M), torch.ones(1, 1, M)))
    torch.testing.assert_close(
        cell, torch.full_like(cell, 1 / torch.e), rtol=0.1, atol=0
    )  # (1 + 1/n)^-n is not yet 1/e


def test_state_size_counts_hidden_and_cell():
    layer = build()
    _, state = layer.lstm(torch.randn(1, T, M))
    assert layer.state_size(T) == sum(x.numel() for x in state)
