"""Memories of all families that read films clip by clip: none sees a later clip, and what cannot be is refused."""

import pytest
import torch
from torch import Tensor

from captioning.config import MemoryConfig
from captioning.remembering import ClipMemory
from models import MODELS, knn_memory
from recognition.common.command_line import InputError

B, C, N, M = 2, 4, 3, 8
FAMILIES = sorted({*MODELS, "mixed"} - {"ur_lstm"})  # it is told as lstm is, and takes seconds to compile
ARGS = {
    "transformer": {"causal": True},
    "mamba2": {"headdim": 4},
    "knn_memory": {"n_heads": 2, "kv_heads": 2, "k": 3, "n_layers": 2},
    "mixed": {"layers": ["temporal_gate", "knn_memory", "lstm"], "knn_memory": {"k": 2}},
}


def build(family: str = "knn_memory", **args: object) -> ClipMemory:
    torch.manual_seed(0)
    return ClipMemory(MemoryConfig(model=family, width=M, args={**ARGS.get(family, {}), **args}), N).eval()


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_clip_is_told_the_same_whatever_comes_later_and_another_when_what_came_before_does(family):
    memory, x = build(family), draw(B, C, N, M)
    whole = memory(x)
    assert whole.shape == x.shape
    torch.testing.assert_close(memory(x[:, :2]), whole[:, :2], rtol=1e-4, atol=1e-5)
    before = torch.cat([draw(B, 1, N, M, seed=2), x[:, 1:]], 1)
    if family != "temporal_gate":  # which carries nothing on
        assert not torch.allclose(memory(before)[:, 2:], whole[:, 2:])


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_scope_clip_forgets_after_each_clip(family):
    memory, x = build(family), draw(B, C, N, M)
    alone = torch.stack([memory(clip[:, None])[:, 0] for clip in x.unbind(1)], 1)
    torch.testing.assert_close(memory(x, "clip"), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_learns(family):
    memory = build(family).train()
    memory(draw(B, C, N, M)).square().sum().backward()
    for name, parameter in memory.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@torch.no_grad()
def test_what_a_clip_found_is_what_its_frames_are_nearest_to():
    memory, x = build(n_layers=1, n_heads=1, kv_heads=1), draw(1, C, N, M)
    x[0, 3, 1] = x[0, 1, 2]
    found, weights = memory.retrieved(x)
    assert found.shape == (1, C, N, 3)
    assert (found[:, 0] == -1).all()
    for clip in range(1, C):
        assert found[:, clip].min() >= 0
        assert found[:, clip].max() < clip * N
    assert found[0, 3, 1, 0] == N + 2
    assert weights[0, 3, 1].argmax() == 0
    assert build("lstm").retrieved(x) is None
    assert memory.retrieved(x[:, :1]) is None


@torch.no_grad()
def test_upper_layer_tells_what_it_found_in_the_midst_of_the_film(monkeypatch):
    memory, x, found = build(), draw(B, C, N, M), []
    layer = memory.mixers[-1]

    def watched(y: Tensor, store: object) -> object:
        found.append(layer._in_order(layer._queries(y), searched := search(y, store))[0])
        return searched

    search = layer._search
    monkeypatch.setattr(layer, "_search", watched)
    monkeypatch.setattr(knn_memory, "AT_ONCE", 0)  # segment by segment
    memory(x)
    during = torch.stack(found, 1)
    assert torch.equal(memory.retrieved(x).frames[:, 1:].long(), during[:, 1:].long())


@pytest.mark.parametrize(
    ("family", "args", "told"),
    [
        ("transformer", {"causal": False}, "memory.args: Transformer sees later clips; set causal to true"),
        ("lstm", {"familiarity": True}, "familiarity of LSTM is for probes that do not write"),
        ("knn_memory", {"segment": 300}, "memory.args.segment: is the 3 frames of a clip; leave it out"),
        ("mixed", {"temporal_gate": {"clip_frames": 6}}, "memory.args.temporal_gate.clip_frames: is the 3 frames"),
        ("knn_memory", {"d_embed": 16}, "memory.args.d_embed: is memory.width"),
        ("knn_memory", {"neighbours": 16}, "memory.args.neighbours: unknown key"),
        ("mixed", {"layers": 3}, "memory.args.layers: must be"),
    ],
)
def test_setting_that_does_not_fit_is_refused_in_a_line(family, args, told):
    with pytest.raises(InputError) as error:
        build(family, **args)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
