"""The mapper that remembers, against a plain form that goes frame by frame and head by head."""

import math

import pytest
import torch
import torch.nn.functional as F
from plain_layers import attended, randomised
from torch import Tensor

from captioning.memorizing import MemorizingMapper
from models.knn_memory import KNNMemory

D, W, P, K, H, E = 5, 12, 3, 2, 3, 4


def build(**settings: object) -> MemorizingMapper:
    torch.manual_seed(0)
    options = {"prefix_length": P, "clip_length": K, "n_layers": 4, "n_heads": H, "memory_layers": (2, 3), "k": E}
    return randomised(MemorizingMapper(D, W, **{**options, **settings})).eval()


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def plain(mapper: MemorizingMapper, frames: Tensor, capacity: int) -> Tensor:
    """Prefixes of all frames (T, D) of a film: (T, P, W)."""
    size, width = K + P, W // H
    stores: dict[KNNMemory, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in mapper.memory_layers}
    distance = torch.arange(size)[:, None] - torch.arange(size)  # all below 16, of which each has a bucket
    later = torch.where(distance < 0, -torch.inf, 0.0)

    def of_table(table: Tensor) -> Tensor:
        return math.sqrt(width) * table[distance.clamp(min=0)].movedim(2, 0) + later

    prefixes = []
    for frame in frames:
        tokens = (mapper.tokens.weight @ frame + mapper.tokens.bias).view(K, W)
        x = torch.cat([tokens, mapper.constants])
        for layer in mapper.layers:
            if isinstance(layer, KNNMemory):
                x = remembered(layer, x, of_table(layer.relative_bias), stores[layer])
                del stores[layer][:-capacity]
            else:
                x = attended(layer, x, of_table(mapper.relative_bias))
        prefixes.append(x[-P:])
    return torch.stack(prefixes)


def remembered(layer: KNNMemory, x: Tensor, bias: Tensor, store: list[tuple[Tensor, Tensor]]) -> Tensor:
    y = F.layer_norm(x, (W,), layer.norm_attention.weight, layer.norm_attention.bias)
    keys, values = F.normalize(y @ layer.key.weight.T, dim=1), y @ layer.value.weight.T
    queries = F.normalize((y @ layer.query.weight.T).unflatten(1, (H, -1)), dim=2)
    rows = []
    for i in range(len(x)):
        heads = []
        for h in range(H):
            q, s = queries[i, h], layer.log_temperature[h].exp()
            found = sorted(store, key=lambda entry, q=q: -(q @ entry[0]).item())[:E]
            logits = torch.stack([*(s * q @ key for key, _ in found), *(s * (keys @ q) + bias[h, i])])
            weights = logits.exp() / logits.exp().sum()
            heads.append(weights @ torch.stack([*(value for _, value in found), *values]))
        rows.append(torch.cat(heads))
    store.extend((key.detach(), value.detach()) for key, value in zip(keys, values, strict=True))
    x = x + torch.stack(rows) @ layer.output.weight.T
    y = F.layer_norm(x, (W,), layer.norm_feedforward.weight, layer.norm_feedforward.bias)
    return x + F.gelu(y @ layer.expand.weight.T + layer.expand.bias) @ layer.contract.weight.T + layer.contract.bias


@pytest.mark.parametrize("capacity", [1000, 12])
def test_prefixes_of_a_film_equal_the_equations(capacity):
    mapper, features = build(capacity=capacity), draw(2, 2, 3, D)
    expected = torch.stack([plain(mapper, film.flatten(0, 1), capacity) for film in features])
    torch.testing.assert_close(mapper(features), expected[:, 2::3], rtol=1e-11, atol=1e-11)
    memories = mapper.build_memories(2, 6, features.device)
    by_frame = torch.stack([mapper.step(frame, memories) for frame in features.flatten(1, 2).unbind(1)], 1)
    torch.testing.assert_close(by_frame, expected, rtol=1e-11, atol=1e-11)


def test_gradients_are_those_of_the_last_frame_of_each_clip_with_what_is_stored_as_it_is():
    mapper, features = build(), draw(1, 2, 3, D)
    expected = plain(mapper, features.flatten(0, 2), 1000)[2::3].square().sum()
    parameters = list(mapper.parameters())
    wanted = torch.autograd.grad(expected, parameters)
    found = torch.autograd.grad(mapper(features).square().sum(), parameters)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_clips_that_are_not_there_are_neither_read_nor_written():
    mapper, features = build(), draw(2, 3, 2, D)
    has_clip = torch.tensor([[True, True, True], [True, False, False]])
    features[~has_clip] = torch.nan
    prefix = mapper(features, has_clip)
    torch.testing.assert_close(prefix[:1], mapper(features[:1]))
    torch.testing.assert_close(prefix[1:, :1], mapper(features[1:, :1]))
    assert not prefix[1, 1:].any()


def test_every_film_begins_with_an_empty_memory():
    mapper, features = build(), draw(2, 2, 2, D)
    first = mapper(features)
    torch.testing.assert_close(mapper(features.flip(0)).flip(0), first)
    assert (mapper(draw(3, 2, 2, D)[:2]) != first).any()


def test_every_weight_learns_also_in_bfloat16():
    mapper = build().float().train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = mapper(draw(2, 2, 3, D).float()).square().sum()
    loss.backward()
    for name, parameter in mapper.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_found_frames_are_earlier_ones_of_the_film():
    mapper = build()
    mapper(draw(2, 3, 2, D))
    found = mapper.retrieved.frames
    assert found.shape == (2, 3, P, H * E)
    assert found.min() >= 0
    assert all(found[:, clip].max() < 2 * clip + 1 for clip in range(3))
    mapper(draw(1, 1, 1, D))
    assert (mapper.retrieved.frames == -1).all()


def test_layers_that_are_not_there_cannot_remember():
    with pytest.raises(ValueError, match="layers 2, 3 remember"):
        build(n_layers=2)
