"""The mappers against their equations, and with the published sizes."""

import pytest
import torch
from plain_layers import attended, randomised

from captioning.mapper import MlpMapper, TransformerMapper
from captioning.memorizing import MemorizingMapper


@pytest.mark.parametrize(
    ("mapper", "number"), [(MlpMapper, 31_468_800), (TransformerMapper, 41_745_408), (MemorizingMapper, 52_373_520)]
)
def test_published_sizes_have_the_published_numbers_of_weights(mapper, number):
    with torch.device("meta"):
        assert sum(weight.numel() for weight in mapper(512, 768).parameters()) == number


def test_mlp_is_two_layers_with_a_tanh():
    mapper, x = randomised(MlpMapper(5, 6, 3)), torch.randn(2, 1, 5, dtype=torch.float64)
    inner = torch.tanh(x[:, 0] @ mapper.expand.weight.T + mapper.expand.bias)
    assert inner.shape == (2, 9)
    expected = inner @ mapper.contract.weight.T + mapper.contract.bias
    torch.testing.assert_close(mapper(x), expected.view(2, 3, 6), rtol=1e-12, atol=1e-12)


def test_mlp_of_a_clip_normalises_all_of_its_numbers_together():
    mapper, x = MlpMapper(5, 6, 3, num_frames=4, normed=True), torch.randn(2, 4, 5)
    assert mapper(x).shape == (2, 3, 6)
    torch.testing.assert_close(mapper(100 * x + 7), mapper(x))


def test_transformer_equals_its_equations():
    mapper = randomised(TransformerMapper(5, 12, prefix_length=3, clip_length=2, n_layers=2, n_heads=3, num_frames=4))
    x = torch.randn(2, 4, 5, dtype=torch.float64)
    for clip, prefix in zip(x, mapper(x), strict=True):
        tokens = [
            (mapper.tokens.weight @ frame + mapper.tokens.bias).view(2, 12) + place
            for frame, place in zip(clip, mapper.place, strict=True)
        ]
        y = torch.cat([*tokens, mapper.constants])
        for layer in mapper.layers:
            y = attended(layer, y)
        torch.testing.assert_close(prefix, y[-3:], rtol=1e-12, atol=1e-12)


def test_transformer_of_one_frame_has_no_place():
    mapper = TransformerMapper(5, 12, n_layers=1, n_heads=3)
    assert mapper.place is None
    assert mapper(torch.randn(2, 1, 5)).shape == (2, 10, 12)


def test_heads_that_cannot_share_the_width_are_refused():
    with pytest.raises(ValueError, match="width 12 cannot be shared among n_heads 5"):
        TransformerMapper(5, 12, n_heads=5)
