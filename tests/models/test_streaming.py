"""A model on a stream, for every family: frame by frame and in pieces it says what it says of the whole sequence."""

import copy

import pytest
import torch
from torch import Tensor

from benchmarks.measure import memory_of_process
from models import CONFIGS, MODELS, build_model
from models.linear_attention import gated_linear_attention
from models.mixer import Mixer
from models.recogniser import Layout, Recogniser
from models.streaming import State, Stream

B, T, D, M = 2, 310, 12, 16
KEEPING = {"capacity": 50, "k": 5}
WINDOW = {"causal": True, "window": 40}
FAMILIES: list[tuple[str, dict]] = [
    ("transformer", WINDOW),
    ("transformer", {**WINDOW, "n_heads": 2, "no_self": False}),
    ("transformer", {**WINDOW, "residual": True, "window": 400}),
    ("lstm", {}),
    ("ur_lstm", {}),
    ("mlstm", {"num_heads": 2, "n_layers": 2}),
    ("mamba2", {"headdim": 8, "n_layers": 2}),
    ("knn_memory", {"n_layers": 1, **KEEPING}),
    ("knn_memory", {"n_layers": 2, "causal": True, "segment": 1, "n_heads": 2, "kv_heads": 2, **KEEPING}),
    ("delta", {"d_key": 8, "d_value": 8, "gate": True}),
    ("novelty_filter", {"residual": True}),
    ("bloom", {"residual": True, "units": 64}),
    ("hebbian", {"d_key": 8, "d_hidden": 12}),
    ("mlstm", {"key_value_slots": 4}),
    ("mixed", {"layers": ["mamba2", "transformer", "lstm", "knn_memory"], "mamba2": {"headdim": 8},
               "transformer": WINDOW, "knn_memory": KEEPING}),
]  # fmt: skip
over_families = pytest.mark.parametrize(("name", "settings"), FAMILIES, ids=str)


def build(name: str, settings: dict, num_probes: int, repeat_test: int = 1, probes_write: bool = True) -> Recogniser:
    torch.manual_seed(0)
    layout = Layout(D, num_probes, repeat_test, 5, probes_write)
    model = build_model(name, CONFIGS[name](**{"d_embed": M, **settings}), layout)
    torch.manual_seed(1)
    model.standardise(torch.randn(D) / 10, torch.rand(D) + 0.5)
    for parameter in model.parameters():  # far from the start, where families say of all frames about the same
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def draw(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def batch(name: str, settings: dict, features: Tensor, probes_write: bool) -> tuple[Tensor, list[int]]:
    """The logits of frames by `forward`, each asked after all before it, and which frames these are."""
    num_frames = features.shape[1]
    some = [*range(1, num_frames, 103), num_frames - 1]
    has_lookup = name == "knn_memory" or "knn_memory" in settings.get("layers", [])
    if probes_write and not has_lookup:
        return build(name, settings, num_frames)(features), [*range(num_frames)]
    if not probes_write:
        model = build(name, settings, len(some), probes_write=False)
        return model(torch.cat([features, features[:, some]], 1), [(frame, 1) for frame in some]), some
    model = build(name, settings, 1)  # in look-ups probes do not write, so there can only be one
    return torch.cat([model(features[:, : frame + 1]) for frame in some], 1), some


def in_pieces(stream: Stream, features: Tensor, size: int) -> tuple[Tensor, State]:
    state, logits = stream.start(len(features)), []
    for piece in features.split(size, 1):
        y, state = stream.step(state, piece[:, 0] if size == 1 else piece)
        logits.append(y[:, None] if size == 1 else y)
    return torch.cat(logits, 1), state


@over_families
@pytest.mark.parametrize("probes_write", [True, False])
def test_steps_give_what_the_whole_sequence_gives(name: str, settings: dict, probes_write: bool):
    features = draw(B, T if probes_write else 100, D)
    features[:, 60:90] = features[:, 20:50]  # something to remember
    expected, some = batch(name, settings, features, probes_write)
    assert expected.std() > 1e-3
    stream = Stream(build(name, settings, 1, probes_write=probes_write))
    for size in (7, 300) if probes_write else (7,):
        logits, state = in_pieces(stream, features, size)
        torch.testing.assert_close(logits[:, some], expected, rtol=1e-5, atol=1e-5)
        assert state.num_studied == features.shape[1]
    first, _ = in_pieces(stream, features[:, :70], 1)
    torch.testing.assert_close(first, logits[:, :70], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["lstm", "ur_lstm", "mlstm", "mamba2", "transformer"])
def test_steps_with_familiarity_give_what_the_whole_sequence_gives(name: str):
    features, settings = draw(B, 60, D), {"familiarity": True, "headdim": 8} if name == "mamba2" else {}
    settings = {**settings, "familiarity": True, **(WINDOW if name == "transformer" else {})}
    expected, some = batch(name, settings, features, probes_write=False)
    logits, _ = in_pieces(Stream(build(name, settings, 1, probes_write=False)), features, 7)
    torch.testing.assert_close(logits[:, some], expected, rtol=1e-5, atol=1e-5)


@over_families
@pytest.mark.parametrize("repeat_test", [1, 3])
def test_asking_says_what_a_probe_is_told_and_changes_nothing(name: str, settings: dict, repeat_test: int):
    features, probes = draw(B, 100, D), draw(B, 3, D, seed=3)
    model = build(name, settings, 1, repeat_test)
    stream = Stream(model)
    state = stream.study(stream.study(stream.start(B), features[:, :60]), features[:, 60:])
    before = {key: tensor.clone() for key, tensor in state.tensors().items()}
    together, alone = stream.ask(state, probes), stream.ask(state, probes[:, 1])
    assert all(torch.equal(tensor, before[key]) for key, tensor in state.tensors().items())
    for number in range(3):
        showings = probes[:, number : number + 1].expand(-1, repeat_test, -1)
        with torch.no_grad():
            expected = model(torch.cat([features, showings], 1))[:, 0]
        torch.testing.assert_close(together[:, number], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(alone, together[:, 1], rtol=1e-5, atol=1e-5)


@over_families
def test_streams_side_by_side_do_not_meet(name: str, settings: dict):
    stream, features = Stream(build(name, settings, 1)), draw(B, 70, D)
    together, _ = in_pieces(stream, features, 7)
    for row in range(B):
        alone, _ = in_pieces(stream, features[row : row + 1], 7)
        torch.testing.assert_close(alone[0], together[row], rtol=1e-5, atol=1e-5)
    other = torch.cat([features[:1], draw(1, 70, D, seed=4)])
    assert torch.equal(in_pieces(stream, other, 7)[0][0], together[0])


@over_families
def test_a_saved_state_goes_on_as_if_nothing_had_been(name: str, settings: dict, tmp_path):
    stream, features = Stream(build(name, settings, 1), origin="resnet18"), draw(B, 130, D)
    state = stream.study(stream.start(B), features[:, :90])
    stream.save(tmp_path / "memory", state)
    loaded = Stream(build(name, settings, 1), origin="resnet18").load(tmp_path / "memory")
    assert (loaded.num_rows, loaded.num_studied, loaded.num_forgotten) == (B, 90, 0)
    logits, _ = stream.step(state, features[:, 90:])
    assert torch.equal(stream.step(loaded, features[:, 90:])[0], logits)
    assert [path.name for path in tmp_path.iterdir()] == ["memory"]


def test_a_saved_state_of_something_else_is_refused_in_a_line(tmp_path):
    path, settings = tmp_path / "memory", {"causal": True}
    model = build("transformer", settings, 1)
    stream = Stream(model, capacity=30, origin="resnet18")
    stream.save(path, stream.start())
    model.register_buffer("threshold", torch.tensor(0.3))  # the state does not depend on it
    Stream(model, capacity=30, origin="resnet18").load(path)
    with pytest.raises(ValueError, match="made with other features"):
        Stream(model, capacity=30, origin="r3d_18").load(path)
    with pytest.raises(ValueError, match="made with another capacity"):
        Stream(model, capacity=31, origin="resnet18").load(path)
    model.embed.weight.data[0, 0] += 1
    with pytest.raises(ValueError, match="made with other weights"):
        Stream(model, capacity=30, origin="resnet18").load(path)
    for content in (b"", b"nonsense", path.read_bytes()[:200]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="holds no state of a stream") as refusal:
            stream.load(path)
        assert "\n" not in str(refusal.value)
    with pytest.raises(OSError, match="memory"):
        stream.load(tmp_path / "no memory")


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("transformer", {}, "layer 1, Transformer, cannot go frame by frame: it attends to later frames too"),
        ("transformer", {"causal": True}, "layer 1, Transformer, .* it keeps every frame, without end"),
        ("temporal_gate", {}, "layer 1, TemporalGate, .* its gates look at whole clips"),
        ("knn_memory", {"n_layers": 2}, "layer 1, KNNMemory, .* its segments look ahead"),
        ("mixed", {"layers": ["knn_memory", "lstm"]}, "layer 1, KNNMemory"),
        ("mixed", {"layers": ["lstm", "temporal_gate"]}, "layer 2, TemporalGate"),
    ],
)
def test_what_cannot_stream_is_refused_with_the_reason(name: str, settings: dict, reason: str):
    with pytest.raises(ValueError, match=reason) as refusal:
        Stream(build(name, settings, 1))
    assert "\n" not in str(refusal.value)


def test_a_family_without_steps_is_refused():
    class Unfinished(Mixer):
        def forward(self, x: Tensor, num_last: int | None = None) -> Tensor:
            return x if num_last is None else x[:, x.shape[1] - num_last :]

        def state_size(self, num_frames: int) -> int:
            return 0

    model = Recogniser([Unfinished()], Layout(D, 1), M, [False]).eval()
    with pytest.raises(ValueError, match=r"layer 1, Unfinished, .* whole sequences"):
        Stream(model)


def test_all_families_are_tried_here():
    assert {name for name, _ in FAMILIES} == {*CONFIGS} - {"temporal_gate"}
    assert {*MODELS} <= {*CONFIGS}


def test_wrong_arguments_are_refused():
    model = build("lstm", {}, 1)
    with pytest.raises(ValueError, match="forget_after must be at least 1, found 0"):
        Stream(model, forget_after=0)
    with pytest.raises(ValueError, match=r"frames of 2 streams were expected, found shape \(3, 12\)"):
        Stream(model).ask(Stream(model).start(2), draw(3, D))
    with pytest.raises(ValueError, match="evaluation mode"):
        Stream(model.train())


@pytest.mark.parametrize("name", ["lstm", "mlstm", "knn_memory", "transformer"])
def test_twenty_thousand_frames_take_no_more_memory_than_a_thousand(name: str):
    settings = {"knn_memory": {"k": 3}, "transformer": {"causal": True, "n_layers": 1}}.get(name, {})
    model = build(name, settings, 1)
    stream, features = Stream(model, capacity=500), draw(1, 100, D)
    state, taken, resident = stream.start(), [], []
    for _ in range(200):
        state = stream.study(state, features)
        _, state = stream.step(state, features[:, 0])
        taken.append(state.num_bytes)
        resident.append(memory_of_process("VmRSS"))
    assert state.num_studied == 20_200
    counts = 8 * len(model.mixers) if name in ("knn_memory", "transformer") else 0
    assert {*taken} == {4 * model.state_size(20_000) + counts}
    assert resident[-1] - resident[10] < 4e6  # bytes: what gradients would keep of so many frames is a multiple


def test_when_counts_frames_from_the_first_of_the_stream():
    stream = Stream(build("knn_memory", {"k": 5, "n_layers": 1}, 1), capacity=40, forget_after=50)
    features, state = draw(1, 120, D), stream.start()
    assert stream.when(state) is None
    state = stream.study(state, features[:, :3])
    stream.ask(state, features[:, 1])
    found = stream.when(state)
    assert found.shape == (1, 5)
    assert found[0, 0] == 1
    assert found[0, 3:].tolist() == [-1, -1]
    state = stream.study(state, features[:, 3:])
    assert (state.num_studied, state.num_forgotten) == (20, 100)
    stream.ask(state, features[:, 105])
    assert stream.when(state)[0, 0] == 105
    assert stream.when(state).min() >= 100
    _, state = stream.step(state, features[:, 110])
    assert stream.when(state)[0, 0] == 110
    lstm = Stream(build("lstm", {}, 1))
    _, state = lstm.step(lstm.start(), features)
    assert lstm.when(state) is None


@pytest.mark.parametrize("size", [1, 7, 300])
@pytest.mark.parametrize(("name", "settings"), [("mlstm", {}), ("knn_memory", {"n_layers": 1, **KEEPING})])
def test_after_so_many_frames_all_is_forgotten(name: str, settings: dict, size: int):
    model, features = build(name, settings, 1), draw(B, 70, D)
    logits, state = in_pieces(Stream(model, forget_after=30), features, size)
    anew = [in_pieces(Stream(model), part, 70)[0] for part in features.split(30, 1)]
    torch.testing.assert_close(logits, torch.cat(anew, 1), rtol=1e-5, atol=1e-5)
    assert (state.num_studied, state.num_forgotten) == (10, 60)


def test_asking_in_half_precision_is_done_in_that_of_the_weights():
    stream, features = Stream(build("mlstm", {}, 1)), draw(B, 40, D).half()
    expected, _ = in_pieces(stream, features.float(), 7)
    with torch.autocast("cpu", torch.bfloat16):
        logits, state = in_pieces(stream, features, 7)
    assert torch.equal(logits, expected)
    assert all(tensor.dtype == torch.float32 and not tensor.requires_grad for _, tensor in state.tensors().items())


@pytest.mark.parametrize("is_stabilised", [True, False])
@pytest.mark.parametrize("is_written", [True, False])
def test_one_frame_by_the_recurrence_equals_a_chunk(is_stabilised: bool, is_written: bool):
    shapes = [(B, 3, 1, 5), (B, 3, 1, 5), (B, 3, 1, 4), (B, 3, 1), (B, 3, 1)]
    q, k, v, log_decay, log_input = (draw(*shape, seed=k).double() for k, shape in enumerate(shapes))
    log_decay = -log_decay.abs()
    state = draw(B, 3, 5, 4, seed=6).double(), draw(B, 3, seed=7).double() if is_stabilised else torch.zeros(B, 3)
    inputs = [x.requires_grad_() for x in (q, k, v, log_decay, log_input)]
    options = {"is_stabilised": is_stabilised, "is_written": is_written}
    two = [torch.cat([x, draw(*x.shape, seed=9).double()], 2) for x in inputs]  # a chunk, of which one frame counts
    two[3] = -two[3].abs()
    y, m, (memory, scale) = gated_linear_attention(*inputs, None, state, **options)
    y_two, m_two, _ = gated_linear_attention(*two, None, state, **options)
    plain, expected = y * m.exp()[..., None], (y_two * m_two.exp()[..., None])[:, :, :1]
    torch.testing.assert_close(plain, expected, rtol=1e-12, atol=1e-12)
    asked = [x for x in inputs if is_written or x is not inputs[1]]
    for ours, theirs in zip(
        torch.autograd.grad(plain.square().sum(), asked, allow_unused=True, retain_graph=True),
        torch.autograd.grad(expected.square().sum(), asked, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(torch.zeros(1) if ours is None else ours, torch.zeros(1) if ours is None else theirs)
    unread = gated_linear_attention(*inputs, 0, state, **options)[2]
    torch.testing.assert_close((memory * scale.exp()[..., None, None]), unread[0] * unread[1].exp()[..., None, None])
    assert copy.deepcopy(memory.detach()).isfinite().all()
