"""The transformer layer against torch's own, its masks, and its first weights."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from models.transformer import Transformer

B, T, M = 2, 63, 16
TORCH_NAMES = {
    "query_key_value.weight": "self_attn.in_proj_weight",
    "query_key_value.bias": "self_attn.in_proj_bias",
    "output.weight": "self_attn.out_proj.weight",
    "output.bias": "self_attn.out_proj.bias",
    "expand.weight": "linear1.weight",
    "expand.bias": "linear1.bias",
    "contract.weight": "linear2.weight",
    "contract.bias": "linear2.bias",
    "norm_attention.weight": "norm1.weight",
    "norm_attention.bias": "norm1.bias",
    "norm_feedforward.weight": "norm2.weight",
    "norm_feedforward.bias": "norm2.bias",
}
MASKS = [
    pytest.param(no_self, causal, id=f"no_self={no_self}-causal={causal}")
    for no_self in (True, False)
    for causal in (True, False)
]


def build(**settings: object) -> Transformer:
    torch.manual_seed(0)
    return Transformer(Transformer.Config(**{"d_embed": M, **settings}))


def build_pair(width: int = M, n_heads: int = 1, **settings: object) -> tuple[Transformer, nn.Module]:
    """Ours and torch's, as each starts."""
    ours = build(d_embed=width, n_heads=n_heads, **settings)
    inner = ours.expand.out_features
    return ours, nn.TransformerEncoderLayer(width, n_heads, inner, dropout=0.0, batch_first=True)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def hidden(no_self: bool, causal: bool, window: int | None = None) -> Tensor:
    """True where a frame (row) must not see another (column)."""
    mask = torch.zeros(T, T, dtype=torch.bool)
    mask |= torch.eye(T, dtype=torch.bool) if no_self else False
    mask |= torch.ones(T, T, dtype=torch.bool).triu(1) if causal else False
    mask |= torch.ones(T, T, dtype=torch.bool).tril(-window - 1) if window else False
    mask[0, 0] = False if causal else mask[0, 0]  # the first frame has no past to see
    return mask


@pytest.mark.parametrize(("no_self", "causal"), MASKS)
@pytest.mark.parametrize("n_heads", [1, 4])
def test_outputs_and_gradients_equal_torchs_layer(n_heads, no_self, causal):
    ours, theirs = build_pair(n_heads=n_heads, no_self=no_self, causal=causal)
    assert set(ours.state_dict()) == set(TORCH_NAMES)
    with torch.no_grad():  # biases and norms too, which start at 0 and 1
        for k, (name, parameter) in enumerate(ours.named_parameters()):
            parameter += 0.1 * draw(k + 1, *parameter.shape)[-1]
            theirs.get_parameter(TORCH_NAMES[name]).copy_(parameter)
    results = []
    for layer, options in ((ours, {}), (theirs, {"src_mask": hidden(no_self, causal)})):
        x = draw(B, T, M).requires_grad_()
        y = layer(x, **options)
        names = TORCH_NAMES if layer is ours else TORCH_NAMES.values()
        results.append([y, *torch.autograd.grad((y * draw(B, T, M)).sum(), [x, *map(layer.get_parameter, names)])])
    torch.testing.assert_close(*results, rtol=1e-5, atol=2e-5)  # sums over 126 frames in another order


def test_default_is_the_published_encoder():
    config = Transformer.Config()
    assert (config.n_layers, config.d_embed, config.n_heads, config.dropout) == (2, 64, 1, 0.0)
    assert (config.no_self, config.causal, config.residual) == (True, False, False)
    assert Transformer(config).expand.out_features == 128
    assert build(d_feedforward=7).expand.out_features == 7


@pytest.mark.parametrize("width", [128, 256])
def test_first_weights_are_drawn_as_torchs(width):
    ours, theirs = build_pair(width)
    for name, parameter in ours.named_parameters():
        torch_parameter = theirs.get_parameter(TORCH_NAMES[name])
        if torch_parameter.unique().numel() == 1:
            torch.testing.assert_close(parameter, torch_parameter, rtol=0, atol=0)
        else:  # uniform within a bound; 128 draws and more tell both numbers to a tenth
            for statistic in (torch.std, lambda x: x.abs().max()):
                torch.testing.assert_close(statistic(parameter), statistic(torch_parameter), rtol=0.15, atol=0)


@pytest.mark.parametrize("causal", [True, False])
def test_frame_does_not_see_itself_with_no_self(causal):
    for no_self in (True, False):
        layer = build(no_self=no_self, causal=causal)
        q, k, v = (draw(3, 1, 1, T, M)[i] for i in range(3))
        before, first = layer._attend(q, k, v), 1 if causal else 0
        for t in range(first, T):
            changed = v.clone()
            changed[:, :, t] += 1
            assert torch.equal(layer._attend(q, k, changed)[:, :, t], before[:, :, t]) == no_self


@pytest.mark.parametrize(("no_self", "causal"), MASKS)
@pytest.mark.parametrize("num_read", [1, 10, T])
def test_pieces_of_rows_do_not_change_the_result(monkeypatch, num_read, no_self, causal):
    layer = build(no_self=no_self, causal=causal)
    results = []
    for num_threads, rows in itertools.product((1, 8, 13), (1, 7, 10, T, 1000)):  # 4 heads: 1, 2 or 3 pieces beside
        monkeypatch.setattr(torch, "get_num_threads", lambda num_threads=num_threads: num_threads)
        q, k, v = (draw(3, B, 2, T, 8)[i].requires_grad_() for i in range(3))
        y = layer._attend(q[:, :, T - num_read :], k, v, rows)
        results.append([y, *torch.autograd.grad((y * draw(*y.shape)).sum(), (q, k, v))])
        assert y.isfinite().all()
        torch.testing.assert_close(results[-1], results[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("no_self", "causal"), MASKS[:3])
@pytest.mark.parametrize("num_read", [1, 10, T])
@pytest.mark.parametrize("rows", [1, 7, 1000])
@pytest.mark.parametrize("beside", [1, 2, 3])
def test_shifted_masks_hide_what_the_plain_ones_hide(beside, rows, num_read, no_self, causal):
    queries = draw(1, num_read + -num_read % beside, M)
    for window in (None, 1, 20) if causal else (None,):
        layer = build(no_self=no_self, causal=causal, window=window)
        makers = layer._masks, layer._shifted_masks
        plain, shifted = (list(make(queries, num_read, T, rows, beside)) for make in makers)
        assert len(plain) == len(shifted)
        for visible, added in zip(plain, shifted, strict=True):
            assert torch.equal(torch.zeros(visible.shape).masked_fill(~visible, -torch.inf), added)


@pytest.mark.parametrize("no_self", [True, False])
@pytest.mark.parametrize("window", [1, 7, T])
def test_a_window_hides_what_is_further_back(no_self, window):
    layer, x = build(no_self=no_self, causal=True, window=window), draw(B, T, M).requires_grad_()
    before = layer(x)
    torch.testing.assert_close(layer(x, 10), before[:, -10:])
    for frame in (0, 30, T - 1):
        [reached] = torch.autograd.grad((before[:, frame] * draw(M)).sum(), x, retain_graph=True)
        seen = ~hidden(no_self, True, window)[frame]
        seen[frame] = True  # by its residual connection
        assert torch.equal(reached.abs().amax((0, 2)) > 0, seen)
    with torch.no_grad():
        ours, unlimited = build(causal=True, window=T), build(causal=True)
        torch.testing.assert_close(ours(x), unlimited(x))
    assert layer.state_size(10 * T) == 2 * M * window
    layer.change(window=window + 1)
    assert layer.state_size(10 * T) == 2 * M * (window + 1)


def test_a_window_of_a_layer_that_looks_ahead_is_refused():
    with pytest.raises(ValueError, match="window 5 needs causal: true"):
        build(window=5)
    with pytest.raises(ValueError, match="window 5 needs causal: true"):
        build().change(window=5)
    with pytest.raises(ValueError, match="that has learned cannot change n_heads"):
        build(causal=True).change(n_heads=2)


@pytest.mark.parametrize(("no_self", "causal"), MASKS[:3])
@pytest.mark.parametrize("num_read", [10, T])
def test_shifted_masks_give_the_outputs_and_gradients_of_plain_ones(num_read, no_self, causal):
    plain, shifted = (build(no_self=no_self, causal=causal) for _ in range(2))
    plain._shifted_masks = plain._masks
    results = []
    for layer in (plain, shifted):
        q, k, v = (draw(3, B, 2, T, 8)[i].requires_grad_() for i in range(3))
        y = layer._attend(q[:, :, T - num_read :], k, v, rows=16)
        results.append([y, *torch.autograd.grad((y * draw(*y.shape)).sum(), (q, k, v))])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


def test_key_bias_alone_gets_no_gradient():
    """It adds the same to all scores of a query, and softmax ignores that; the key bias is a third of a parameter."""
    layer = build().double()
    (layer(draw(B, T, M).double()) * draw(B, T, M)).sum().backward()
    query, key, value = layer.query_key_value.bias.grad.chunk(3)
    assert key.abs().max() < 1e-12
    assert min(query.abs().min(), value.abs().min()) > 1e-6


def test_dropout_acts_in_training_only():
    layer, x = build(dropout=0.5), draw(B, T, M)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    torch.testing.assert_close(layer(x), build()(x))


class Recorder(Transformer):
    """Remembers how many floats of keys and values it attended to."""

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, rows: int = 1024) -> Tensor:
        self.num_kept = keys[0].numel() + values[0].numel()
        return super()._attend(queries, keys, values, rows)


@pytest.mark.parametrize("n_heads", [1, 4])
def test_state_size_counts_the_keys_and_values_of_all_frames(n_heads):
    layer = Recorder(Transformer.Config(d_embed=M, n_heads=n_heads))
    layer(draw(B, T, M), num_last=5)
    assert layer.state_size(T) == layer.num_kept
