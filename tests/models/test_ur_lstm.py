"""UR-LSTM against its equations, its first gates, and a task that an LSTM with short memory cannot learn."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.ur_lstm import URLSTMMixer
from ur_lstm import URLSTM, URLSTMCell, _uniform_gates

B, T, D, H = 3, 63, 5, 8
EXACT = {"rtol": 1e-9, "atol": 1e-9}
over_switches = pytest.mark.parametrize(
    "switches",
    [
        {},
        {"uniform_init": False},
        {"refine": False},
        {"uniform_init": False, "refine": False},
        {"learn_forget_bias": True},
    ],
    ids=str,
)


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(num_layers: int = 2, **options: object) -> URLSTM:
    """In float64, with biases that are not zero."""
    torch.manual_seed(0)
    model = URLSTM(D, H, num_layers, **options).double()
    for layer in model.layers:
        nn.init.normal_(layer.bias)
    return model


def draw_state(num_layers: int = 2) -> tuple[Tensor, Tensor]:
    return draw(num_layers, B, H, seed=2), draw(num_layers, B, H, seed=3)


def plain_loop(model: URLSTM, x: Tensor, state: tuple[Tensor, Tensor] | None, refine: bool = True):
    """The published equations, gate by gate."""
    last_h, last_c = [], []
    for k, layer in enumerate(model.layers):
        h, c = (x.new_zeros(B, H), x.new_zeros(B, H)) if state is None else (state[0][k], state[1][k])
        b, outputs = layer.forget_bias, []
        for t in range(x.shape[1]):
            a_r, a_f, a_u, a_o = (
                x[:, t] @ w_ih.T + h @ w_hh.T + bias
                for w_ih, w_hh, bias in zip(
                    layer.weight_ih.split(H), layer.weight_hh.split(H), layer.bias.split(H), strict=True
                )
            )
            f, r = 1 / (1 + torch.exp(-(a_f + b))), 1 / (1 + torch.exp(-(a_r - b)))
            g = r * (1 - (1 - f) ** 2) + (1 - r) * f**2 if refine else f
            c = g * c + (1 - g) * torch.tanh(a_u)
            h = torch.tanh(c) / (1 + torch.exp(-a_o))
            outputs.append(h)
        x = torch.stack(outputs, 1)
        last_h.append(h)
        last_c.append(c)
    return x, (torch.stack(last_h), torch.stack(last_c))


def with_gradients(model: URLSTM, run: Callable, x: Tensor, state: tuple[Tensor, Tensor] | None) -> list[Tensor]:
    """Outputs, last state, and gradients of all that is given and learned."""
    given = [y.clone().requires_grad_() for y in (x, *(state or ()))]
    y, (h, c) = run(given[0], tuple(given[1:]) or None)
    score = sum((z * draw(*z.shape)).sum() for z in (y, h, c))
    learned = [p for p in model.parameters() if p.requires_grad]
    # Without the refine gate its weights get no gradient.
    gradients = torch.autograd.grad(score, [*given, *learned], materialize_grads=True)
    return [y, h, c, *gradients]


@over_switches
@pytest.mark.parametrize("state", [None, draw_state()], ids=["from zero", "from a given state"])
def test_matches_plain_loop_reference(state, switches):
    model, x = build(**switches), draw(B, T, D)
    actual = with_gradients(model, model, x, state)
    refine = switches.get("refine", True)
    expected = with_gradients(model, lambda x, state: plain_loop(model, x, state, refine), x, state)
    torch.testing.assert_close(actual, expected, **EXACT)


@pytest.mark.parametrize("state", [None, draw_state()], ids=["from zero", "from a given state"])
@pytest.mark.parametrize("checkpoint_every", [1, 10, 63, 100])
def test_checkpoints_change_neither_outputs_nor_gradients(checkpoint_every, state):
    plain, model, x = build(), build(checkpoint_every=checkpoint_every), draw(B, T, D)
    torch.testing.assert_close(
        with_gradients(model, model, x, state), with_gradients(plain, plain, x, state), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("cut", [1, 20, 62])
def test_reading_in_two_pieces_equals_reading_in_one(cut):
    model, x = build(), draw(B, T, D)

    def in_pieces(x: Tensor, state: tuple[Tensor, Tensor]):
        first, state = model(x[:, :cut], state)
        second, state = model(x[:, cut:], state)
        return torch.cat([first, second], 1), state

    actual, expected = (with_gradients(model, run, x, draw_state()) for run in (in_pieces, model))
    torch.testing.assert_close(actual, expected, **EXACT)


def test_cell_step_by_step_equals_the_layer():
    model, x = build(num_layers=1), draw(B, T, D)
    cell, state = model.layers[0], None
    for t, expected in enumerate(model(x)[0].unbind(1)):
        state = cell(x[:, t], state)
        torch.testing.assert_close(state[0], expected, **EXACT)


def test_effective_gate_stays_within_its_band_and_reaches_both_edges():
    forget, refine = torch.cartesian_prod(*[torch.linspace(-40, 40, 161, dtype=torch.float64)] * 2).T[..., None]
    zero = torch.zeros_like(forget)
    _, g = (
        URLSTMCell(1, 2)
        .double()
        .step(
            torch.cat([refine, refine, forget, forget, zero, zero, zero, zero], 1),
            zero.expand(-1, 2),
            zero.expand(-1, 2) + 1,
        )
    )  # the candidate is 0, so that a cell of 1 becomes g
    f = torch.sigmoid(forget)
    low, high = f**2, 1 - (1 - f) ** 2
    assert ((low - 1e-15 <= g) & (g <= high + 1e-15)).all()
    for edge, is_there in ((low, refine == -40), (high, refine == 40)):
        torch.testing.assert_close(g[is_there[:, 0]], edge[is_there[:, 0]].expand(-1, 2), rtol=1e-9, atol=1e-15)


def test_refine_gate_at_one_half_leaves_a_tied_lstm():
    model, tied, x = build(), build(refine=False), draw(B, T, D)
    tied.load_state_dict(model.state_dict())
    with torch.no_grad():
        for layer in model.layers:
            layer.weight_ih[:H], layer.weight_hh[:H], layer.bias[:H] = 0, 0, layer.forget_bias
    torch.testing.assert_close(model(x), tied(x), **EXACT)


def ks_distance(values: Tensor, low: float, high: float) -> float:
    """Kolmogorov and Smirnov's largest distance between the distribution of `values` and the uniform one."""
    cdf = (np.sort(values.double().numpy()) - low) / (high - low)
    steps = np.arange(len(cdf) + 1) / len(cdf)
    return max((steps[1:] - cdf).max(), (cdf - steps[:-1]).max())


@pytest.mark.parametrize("seed", range(3))
def test_first_forget_gates_are_uniform(seed):
    torch.manual_seed(seed)
    width = 4096
    gates = torch.sigmoid(_uniform_gates(width).double())
    assert ks_distance(gates, 1 / width, 1 - 1 / width) < 1.95 / width**0.5  # exceeded once in a thousand
    assert 1 / width - 1e-6 <= gates.min() < 10 / width
    assert 1 - 10 / width < gates.max() <= 1 - 1 / width + 1e-6


@pytest.mark.parametrize(("uniform_init", "expected"), [(True, None), (False, 1.0)])
def test_bias_alone_sets_the_first_forget_gates(uniform_init, expected):
    """Of many narrow cells together, since orthogonal weights of one wide cell take long to draw."""
    torch.manual_seed(0)
    width, gates = 32, []
    for _ in range(128):
        cell = URLSTMCell(1, width, uniform_init, refine=False)
        assert not cell.bias.any()
        _, c = cell(torch.zeros(1, 1), (torch.zeros(1, width), torch.ones(1, width)))
        torch.testing.assert_close(c[0], torch.sigmoid(cell.forget_bias))
        gates.append(c[0].detach())
    gates = torch.cat(gates)
    if uniform_init:
        assert ks_distance(gates, 1 / width, 1 - 1 / width) < 1.95 / len(gates) ** 0.5
    else:
        torch.testing.assert_close(gates, torch.sigmoid(torch.ones_like(gates)))


def test_first_weights_are_xavier_and_orthogonal_gate_by_gate():
    torch.manual_seed(0)
    cell = URLSTMCell(48, 32)
    for gate in cell.weight_hh.chunk(4):
        torch.testing.assert_close(gate @ gate.T, torch.eye(32), atol=1e-5, rtol=0)
    for gate in cell.weight_ih.chunk(4):
        bound = (6 / (48 + 32)) ** 0.5
        assert 0.98 * bound < gate.abs().max() <= bound
        torch.testing.assert_close(gate.std().item(), bound / 3**0.5, rtol=0.05, atol=0)


def test_forget_bias_is_drawn_once_by_torchs_seed_and_stays():
    model, again, x = build(), build(), draw(B, T, D)
    torch.testing.assert_close(model.state_dict(), again.state_dict(), rtol=0, atol=0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    np.random.seed(0)
    first = model(x)
    np.random.seed(1)
    torch.testing.assert_close(model(x), first, rtol=0, atol=0)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not torch.equal(model.layers[0].forget_bias, model.layers[1].forget_bias)


@pytest.mark.parametrize("learn_forget_bias", [False, True])
def test_forget_bias_is_saved_with_the_weights(tmp_path, learn_forget_bias):
    model = build(learn_forget_bias=learn_forget_bias)
    torch.manual_seed(9)
    other, x = URLSTM(D, H, 2, learn_forget_bias=learn_forget_bias).double(), draw(B, T, D)
    assert ("layers.1.forget_bias" in dict(model.named_parameters())) == learn_forget_bias
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    torch.testing.assert_close(other(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_every_parameter_of_every_layer_gets_a_gradient(num_layers):
    model = build(num_layers, learn_forget_bias=True)
    model(draw(B, T, D))[0][:, -1].square().sum().backward()
    shapes = {"weight_hh": (4 * H, H), "bias": (4 * H,), "forget_bias": (H,)}
    expected = {f"layers.{k}.{name}": shape for k in range(num_layers) for name, shape in shapes.items()}
    expected |= {f"layers.{k}.weight_ih": (4 * H, H if k else D) for k in range(num_layers)}
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == expected
    assert [name for name, p in model.named_parameters() if not (p.grad.isfinite().all() and p.grad.any())] == []


def test_shapes_are_those_of_torchs_lstm():
    for batch_first in (True, False):
        ours, theirs = (cls(D, H, 2, batch_first=batch_first) for cls in (URLSTM, nn.LSTM))
        x = draw(B, T, D).float()
        (y, state), (torch_y, torch_state) = ours(x), theirs(x)
        assert [z.shape for z in (y, *state)] == [z.shape for z in (torch_y, *torch_state)]


@pytest.mark.parametrize("state", [None, draw_state()], ids=["from zero", "from a given state"])
def test_time_may_come_first(state):
    x = draw(B, T, D)
    y, last = build()(x, state)
    y_time_first, last_time_first = build(batch_first=False)(x.transpose(0, 1), state)
    torch.testing.assert_close((y_time_first.transpose(0, 1), last_time_first), (y, last), rtol=0, atol=0)


def test_inputs_are_not_modified():
    model, given = build(checkpoint_every=10), (draw(B, T, D), *draw_state())
    copies = [x.clone() for x in given]
    model(given[0], given[1:])[0].sum().backward()
    torch.testing.assert_close(list(given), copies, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"bidirectional": True}, "bidirectional"),
        ({"num_layers": 0}, "num_layers"),
        ({"hidden_size": 1}, "hidden_size"),
        ({"input_size": 0}, "input_size"),
        ({"checkpoint_every": -1}, "checkpoint_every"),
        ({"dropout": 1.5}, "dropout"),
    ],
)
def test_what_the_layer_cannot_do_is_refused(options, named):
    with pytest.raises(ValueError, match=named):
        URLSTM(**{"input_size": D, "hidden_size": H, **options})


def test_dropout_acts_between_layers_and_in_training_only():
    x = draw(B, T, D)
    for num_layers in (1, 2):
        model, plain = build(num_layers, dropout=0.5), build(num_layers)
        y, (h, _) = model(x)
        assert torch.equal(y, plain(x)[0]) == (num_layers == 1)
        torch.testing.assert_close(h[0], plain(x)[1][0][0], rtol=0, atol=0)  # the lowest layer reads all of x
        assert y.all()
        torch.testing.assert_close(model.eval()(x), plain(x), rtol=0, atol=0)


def test_recurrence_stays_in_float32_under_bfloat16_autocast():
    model, x = build().float(), draw(B, T, D).float()
    exact = model(x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        y, (h, c) = model(x)
        cell_state = model.layers[0](x[:, 0])
    assert {z.dtype for z in (y, h, c, *cell_state)} == {torch.float32}
    assert 0 < (y - exact).abs().max() < 0.02  # the projection of the input alone is rounded, to 8 bits


def test_cell_keeps_what_bfloat16_would_round_away():
    """With gates nearly shut, a cell moves by less than the spacing of bfloat16 at each step."""
    cell = URLSTMCell(1, H)
    with torch.no_grad():
        cell.weight_hh.zero_()
        cell.bias.copy_(torch.cat([cell.forget_bias, 7 - cell.forget_bias, torch.full((H,), 9.0), torch.zeros(H)]))
    state = None
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        for _ in range(1000):
            state = cell(torch.zeros(1, 1), state)
    assert (state[1] > 0.5).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("checkpoint_every", [None, 10])
def test_gpu_gives_what_the_cpu_gives(checkpoint_every):
    model, x = build(checkpoint_every=checkpoint_every), draw(B, T, D)
    expected = with_gradients(model, model, x, draw_state())
    model.cuda()
    on_gpu = [y.cuda().requires_grad_() for y in (x, *draw_state())]
    y, (h, c) = model(on_gpu[0], tuple(on_gpu[1:]))
    score = sum((z * draw(*z.shape).cuda()).sum() for z in (y, h, c))
    actual = [y, h, c, *torch.autograd.grad(score, [*on_gpu, *model.parameters()])]
    torch.testing.assert_close([z.cpu() for z in actual], expected, **EXACT)


@over_switches
def test_mixer_passes_its_settings_on_and_counts_its_state(switches):
    torch.manual_seed(0)
    mixer = URLSTMMixer(URLSTMMixer.Config(d_embed=H, checkpoint_every=10, **switches))
    torch.manual_seed(0)
    layer, x = URLSTM(H, H, **switches), draw(B, T, H).float()
    y, state = layer(x)
    torch.testing.assert_close(mixer(x), y)
    torch.testing.assert_close(mixer(x, num_last=5), y[:, -5:])
    assert [type(p) for p in mixer.parameters()] == [type(p) for p in layer.parameters()]
    assert mixer.state_size(T) == sum(z[:, 0].numel() for z in state)
    assert mixer.ur_lstm.checkpoint_every == 10


@pytest.fixture
def no_denormals() -> Iterator[None]:
    """Gradients that vanish pass through numbers so small that a CPU takes ten times as long for them."""
    torch.set_flush_denormal(True)
    yield
    torch.set_flush_denormal(False)


def steps_to_recall(model: nn.Module, width: int, delay: int, max_steps: int) -> tuple[int, float]:
    """Train to recall one of 8 symbols `delay` blank steps after it; steps until all are recalled, and the loss."""
    read_out, symbols = nn.Linear(width, 8), torch.arange(8)
    x = torch.zeros(8, delay + 2, 9)
    x[:, 0, :8], x[:, -1, 8] = torch.eye(8), 1  # the ninth input asks for the symbol
    optimizer = torch.optim.Adam([*model.parameters(), *read_out.parameters()], lr=0.01)
    for step in range(max_steps):
        logits = read_out(model(x)[0][:, -1])
        loss = F.cross_entropy(logits, symbols)
        if loss < 0.5 and torch.equal(logits.argmax(1), symbols):
            return step, loss.item()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return max_steps, loss.item()


def test_recalls_after_a_delay_over_which_a_plain_lstm_learns_nothing(no_denormals):
    """After 200 blank steps, as many as some seconds of a CPU allow; 54 to 101 steps of training sufficed by seed."""
    delay, width = 200, 128
    torch.manual_seed(0)
    num_steps, _ = steps_to_recall(URLSTM(9, width), width, delay, max_steps=180)
    assert num_steps < 180
    plain = nn.LSTM(9, width, batch_first=True)
    with torch.no_grad():
        plain.bias_ih_l0[width : 2 * width], plain.bias_hh_l0[width : 2 * width] = 0, 0
    recalled_at, loss = steps_to_recall(plain, width, delay, max_steps=num_steps)
    assert recalled_at == num_steps
    assert loss > 2  # guessing costs ln 8 = 2.08
