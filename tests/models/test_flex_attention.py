"""FlexAttention against the transformer's own pieces. On the CPU it is not compiled: the mathematics are the same."""

import logging

import pytest
import torch
import torch.nn.attention.flex_attention as torchs
from torch import Tensor

from models import flex_attention, gpu_paths, transformer
from models.transformer import Transformer

MASKS = [(True, False), (True, True), (False, True)]
over_masks = pytest.mark.parametrize(("no_self", "causal"), MASKS, ids=["no self", "no self, causal", "causal"])
pytestmark = pytest.mark.skipif(tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6), reason="before torch 2.6")
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def build(width: int = 32, heads: int = 2, **settings: bool) -> Transformer:
    torch.manual_seed(0)
    return Transformer(Transformer.Config(d_embed=width, n_heads=heads, **settings))


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def on_the_cpu(monkeypatch) -> None:
    """Takes the path on the CPU, not compiled. Torch bars gradients there, since none can be compiled for it."""
    monkeypatch.setattr(gpu_paths, "DEVICE_TYPE", "cpu")
    monkeypatch.setattr(flex_attention, "BACKEND", "eager")
    monkeypatch.setattr(torchs, "_validate_device", lambda *tensors: None)
    monkeypatch.setattr(flex_attention._path, "is_good", {})
    monkeypatch.setattr(flex_attention._path, "_has_warned", False)
    torch._dynamo.reset()


def in_both_ways(function, queries: Tensor, *others: Tensor) -> list[Tensor]:
    given = [x.clone().requires_grad_() for x in (queries, *others)]
    y = function(*given)
    return [y, *torch.autograd.grad((y * draw(*y.shape).to(y)).sum(), given)]


@pytest.mark.usefixtures("on_the_cpu")
@over_masks
@pytest.mark.parametrize(("num_read", "num_keys"), [(300, 300), (40, 300), (1, 7), (2, 2)])
def test_outputs_and_gradients_are_those_of_the_pieces(num_read, num_keys, no_self, causal):
    layer = build(no_self=no_self, causal=causal)
    queries, keys, values = draw(2, 2, num_read, 16), draw(2, 2, num_keys, 16), draw(2, 2, num_keys, 16).flip(0)
    actual = in_both_ways(lambda *x: flex_attention.flex(*x, no_self, causal)[0], queries, keys, values)
    expected = in_both_ways(layer._attend, queries, keys, values)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=5e-6)


@over_masks
@pytest.mark.parametrize(("num_read", "num_keys"), [(300, 300), (1, 300), (130, 259), (1, 1)])
def test_block_mask_hides_what_the_plain_mask_hides(num_read, num_keys, no_self, causal):
    device = torch.device("cpu")
    mask = flex_attention.block_mask(no_self, causal, num_read, num_keys, device)
    queries = torch.empty(1, num_read, 1)
    [plain] = build(no_self=no_self, causal=causal)._masks(queries, num_read, num_keys, num_read, 1)
    row, column = torch.arange(num_read)[:, None], torch.arange(num_keys)
    assert torch.equal(mask.mask_mod(0, 0, row, column).expand(num_read, num_keys), plain[0, 0])
    assert mask.shape[2:] == (num_read, num_keys)
    assert flex_attention.block_mask(no_self, causal, num_read, num_keys, device) is mask


@pytest.mark.usefixtures("on_the_cpu")
@over_masks
@pytest.mark.parametrize("num_last", [None, 20])
def test_layer_with_many_queries_takes_the_path(monkeypatch, caplog, num_last, no_self, causal):
    monkeypatch.setattr(transformer, "ROWS", 16)
    layer, x = build(no_self=no_self, causal=causal), draw(2, 63, 32)
    with caplog.at_level(logging.WARNING):
        actual = in_both_ways(lambda x: layer(x, num_last), x)
    assert caplog.text == ""
    assert list(flex_attention._path.is_good.values()) == [True]
    with gpu_paths.using("none"):
        expected = in_both_ways(lambda x: layer(x, num_last), x)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=5e-6)


@pytest.mark.usefixtures("on_the_cpu")
@pytest.mark.parametrize(
    ("settings", "num_last"),
    [({"no_self": False}, None), ({}, 16)],
    ids=["nothing masked", "queries of one piece"],
)
def test_layer_without_need_of_it_does_not(monkeypatch, settings, num_last):
    monkeypatch.setattr(transformer, "ROWS", 16)
    build(**settings)(draw(2, 63, 32), num_last)
    assert flex_attention._path.is_good == {}


@pytest.mark.usefixtures("on_the_cpu")
def test_narrow_heads_are_attended_to_piece_by_piece_and_it_is_said(monkeypatch, caplog):
    monkeypatch.setattr(transformer, "ROWS", 16)
    layer, x = build(heads=4), draw(2, 63, 32)
    with caplog.at_level(logging.WARNING):
        actual = [layer(x) for _ in range(2)]
    assert "piece by piece" in caplog.text
    assert "heads of 16 and more; these have 8" in caplog.text
    assert len(caplog.records) == 1
    with gpu_paths.using("none"):
        torch.testing.assert_close(actual, [layer(x)] * 2, rtol=0, atol=0)


@pytest.mark.usefixtures("on_the_cpu")
def test_training_goes_on_where_nothing_can_be_compiled(monkeypatch, caplog):
    monkeypatch.setattr(transformer, "ROWS", 16)
    monkeypatch.setattr(flex_attention, "BACKEND", _no_compiler)
    layer, x = build(), draw(2, 63, 32)
    with caplog.at_level(logging.WARNING):
        actual = in_both_ways(layer, x)
    assert "no C compiler" in caplog.text
    with gpu_paths.using("none"):
        torch.testing.assert_close(actual, in_both_ways(layer, x), rtol=0, atol=0)


def _no_compiler(graph: object, inputs: object) -> None:
    raise RuntimeError("no C compiler")


@on_a_gpu
@pytest.mark.gpu
@over_masks
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("num_frames", "num_last"), [(1300, None), (1409, 1100)])
def test_gpu_gives_what_the_pieces_give_and_warns_of_nothing(caplog, num_frames, num_last, autocast, no_self, causal):
    layer, x = build(64, no_self=no_self, causal=causal).cuda(), draw(2, num_frames, 64).cuda()

    def run(x: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            return layer(x, num_last)

    with caplog.at_level(logging.WARNING):
        actual = in_both_ways(run, x)
        with torch.no_grad():
            run(x)
    assert caplog.text == ""
    with gpu_paths.using("none"):
        expected = in_both_ways(run, x)
    close = 0.05 if autocast else 5e-3  # kernels may round products of float32 to TF32
    torch.testing.assert_close(actual, expected, rtol=close, atol=close)
