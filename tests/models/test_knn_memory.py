"""kNN memory against its equations frame by frame, what probes see, what is stored, and what it starts as."""

import math
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from pydantic import ValidationError
from torch import Tensor

from models import knn_memory
from models.external_memory import ExternalMemory
from models.knn_memory import KNNMemory, relative_buckets
from models.optional import Found
from models.recogniser import Layout, Recogniser

B, S, P, M = 2, 25, 5, 12
FULL = {"n_heads": 4, "kv_heads": 2, "tie_qk": False, "relative_bias": True}


def build(**settings: object) -> KNNMemory:
    torch.manual_seed(0)
    return KNNMemory(KNNMemory.Config(**{"d_embed": M, "segment": 7, "k": 10, "capacity": 20, **settings}))


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def build_exact(**settings: object) -> KNNMemory:
    """In float64, with other than the first weights."""
    layer = build(**settings).double()
    with torch.no_grad():
        for k, parameter in enumerate(layer.parameters()):
            parameter += 0.2 * draw(*parameter.shape, seed=20 + k)
    return layer


def weighted_mean(logits: list[Tensor], values: list[Tensor]) -> Tensor:
    weights = [logit.exp() for logit in logits]
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)


def plain(layer: KNNMemory, x: Tensor, num_probes: int) -> Tensor:
    """The block by its equations, one head of one frame after the other: x (B, T, M) to (B, T, M)."""
    config, rows = layer.config, []
    num_study, heads, width = x.shape[1] - num_probes, config.n_heads, layer.d_head
    normed = layer.norm_attention(x + layer.offset)
    to_query = (layer.query or layer.key).weight.unflatten(0, (heads, width))
    to_key, to_value = (linear.weight.unflatten(0, (config.kv_heads, width)) for linear in (layer.key, layer.value))
    keys, values = ([[[w @ frame for frame in of] for w in to] for of in normed] for to in (to_key, to_value))
    size = config.segment
    buckets = relative_buckets(config.xl + size, config.causal, x.device)
    for b, t in ((b, t) for b in range(len(x)) for t in range(x.shape[1])):
        is_probe = t >= num_study
        start = num_study if is_probe else t // size * size
        first = start if is_probe else max(0, start - config.xl)
        local = [t] if is_probe else list(range(first, t + 1 if config.causal else min(start + size, num_study)))
        stored = range(max(0, first - config.capacity), first)
        mixed, familiarity = [], []
        for h in range(heads):
            g, s = h // (heads // config.kv_heads), layer.log_temperature[h].exp()
            q = to_query[h] @ normed[b, t]
            q = q / q.norm()

            cosine, value = {}, {}
            for j in {*stored, *local}:
                key, value[j] = keys[b][g][j] / keys[b][g][j].norm(), values[b][g][j]
                if config.memory_grad == "none" and j < start:
                    key, value[j] = key.detach(), value[j].detach()
                cosine[j] = q @ key
            found = sorted(stored, key=lambda j, cosine=cosine: -cosine[j].item())[: config.k]
            of_segment, in_segment = [s * cosine[j] for j in local], [value[j] for j in local]
            of_memory, in_memory = [s * cosine[j] for j in found], [value[j] for j in found]
            if layer.relative_bias is not None:
                places = [(0, 0) if is_probe else (t - first, j - first) for j in local]
                of_segment = [
                    logit + math.sqrt(width) * layer.relative_bias[buckets[place], h]
                    for logit, place in zip(of_segment, places, strict=True)
                ]

            if layer.gate is None:
                mixed.append(weighted_mean(of_memory + of_segment, in_memory + in_segment))
            elif found:
                gate = 1 / (1 + (-layer.gate[h]).exp())
                mixed.append(
                    gate * weighted_mean(of_memory, in_memory) + (1 - gate) * weighted_mean(of_segment, in_segment)
                )
            else:
                mixed.append(weighted_mean(of_segment, in_segment))
            familiarity.append((max(of_memory) if found else 0 * s) - s)
        y = x[b, t] + layer.output.weight @ torch.cat(mixed)
        if layer.familiarity is not None:
            y = y + layer.familiarity.weight @ torch.stack(familiarity)
        rows.append(y + layer.contract(F.gelu(layer.expand(layer.norm_feedforward(y)))))
    return torch.stack(rows).unflatten(0, x.shape[:2])


@pytest.mark.parametrize("fusion", ["gate", "joint"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        FULL,
        {**FULL, "causal": True, "k": 3},
        {**FULL, "memory_grad": "none"},
        {"n_heads": 2, "kv_heads": 2},
        {**FULL, "xl": 3},
        {**FULL, "xl": 9, "causal": True},
        {**FULL, "xl": 7, "memory_grad": "none"},
    ],
    ids=["one-head", "grouped-heads", "causal", "detached", "tied-heads", "cache", "long-cache", "detached-cache"],
)
def test_outputs_and_gradients_equal_the_equations(settings, fusion):
    """Segments find an empty store, one with fewer entries than k, a full one and one whose first frames have left."""
    layer = build_exact(fusion=fusion, **settings)
    layer.num_probes = P
    results = []
    for compute in (layer, lambda x: plain(layer, x, P)):
        x = draw(B, S + P, M).double().requires_grad_()
        y = compute(x)
        wanted = [x, *layer.parameters()]
        results.append([y, *torch.autograd.grad((y * draw(B, S + P, M, seed=3)).sum(), wanted)])
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_probes_of_an_empty_memory_see_themselves_alone():
    for fusion in ("gate", "joint"):
        layer = build_exact(fusion=fusion)
        x = draw(B, P, M).double()
        torch.testing.assert_close(layer(x, P), plain(layer, x, P), rtol=1e-9, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("num_layers", [1, 2])
def test_permuted_probes_get_permuted_logits(num_layers):
    layers = [build(**FULL) for _ in range(num_layers)]
    for layer in layers:
        layer.num_probes = P
    model, order = Recogniser(layers, Layout(M, P), M, [False] * num_layers), torch.tensor([3, 0, 4, 2, 1])
    features = draw(B, S + P, M)
    permuted = torch.cat([features[:, :S], features[:, S:][:, order]], 1)
    torch.testing.assert_close(model(permuted), model(features)[:, order])


@torch.no_grad()
def test_answer_to_a_probe_does_not_depend_on_the_other_probes():
    layer, x = build(), draw(B, S + P, M)
    changed = x.clone()
    changed[:, S + 1] += 1
    moved = (layer(x, P) != layer(changed, P)).any(2)
    assert moved.tolist() == [[False, True, False, False, False]] * B


@torch.no_grad()
def test_last_frames_are_the_tail_of_all_whatever_is_not_computed():
    layer, x = build(**FULL), draw(B, S + P, M)
    layer.num_probes = P
    whole = layer(x)
    for num_last in (1, P, P + 1, P + 3, P + 10, S, S + P):
        torch.testing.assert_close(layer(x, num_last), whole[:, S + P - num_last :])


@torch.no_grad()
def test_size_of_segments_and_cache_change_neither_the_store_nor_what_probes_read(monkeypatch):
    stores, outputs = [], []
    build_memory = KNNMemory.build_memory

    def keep(*args: object) -> ExternalMemory:
        stores.append(build_memory(*args))
        return stores[-1]

    monkeypatch.setattr(KNNMemory, "build_memory", keep)
    x = draw(1, 1000 + P, M)
    for segment, xl in ((100, 0), (900, 0), (1000, 0), (77, 0), (100, 30), (100, 250), (100, 1500)):
        outputs.append(build(segment=segment, xl=xl, capacity=800)(x, P))
    torch.testing.assert_close(outputs[1:], outputs[:1] * 6)
    layer = build()
    kept = F.layer_norm(x[:, 200:1000] + layer.offset, (M,))
    keys, values = F.normalize(F.linear(kept, layer.key.weight), dim=2), F.linear(kept, layer.value.weight)
    for memory in stores:
        slots = torch.arange(200, 1000) % 800
        torch.testing.assert_close(memory.keys[:, 0, slots], keys)
        torch.testing.assert_close(memory.values[:, 0, slots], values)
        assert memory.count.tolist() == [1000]


def test_nothing_is_left_of_an_episode():
    layer, x = build(), draw(B, S + P, M)
    first = layer(x, P)
    layer(draw(B, S + P, M, seed=2), P)
    assert torch.equal(layer(x, P), first)
    assert torch.equal(layer.eval()(x, P), first)
    assert not layer.state_dict().keys() & {"keys", "values", "count"}


@torch.no_grad()
def test_stream_in_parts_is_read_as_the_same_frames_at_once():
    layer, x = build().eval(), draw(B, S + P, M)
    whole, retrieved = layer(x, P), layer.retrieved
    memory = layer.build_memory(B, S, x.device)
    for part in x[:, :S].split(4, 1):
        layer.write(part, memory)
    torch.testing.assert_close(layer.probe(x[:, S:], memory), whole)
    assert torch.equal(layer.retrieved, retrieved)


@pytest.mark.parametrize("settings", [{}, {**FULL, "fusion": "joint", "causal": True, "familiarity": False}])
def test_steps_of_a_segment_each_equal_the_frames_at_once(settings):
    layer, x = build_exact(**settings, memory_grad="none").eval(), draw(B, S, M).double().requires_grad_()
    memory = layer.build_memory(B, S, x.device)
    y = torch.cat([layer.step_of_segment(part, memory) for part in x.split(7, 1)], 1)
    gradients = torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])
    torch.testing.assert_close(y, layer(x), rtol=1e-12, atol=1e-12)
    expected = torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()])
    torch.testing.assert_close(gradients, expected, rtol=1e-10, atol=1e-10)
    assert memory.count.tolist() == [S] * B
    assert layer.retrieved.shape == (B, S % 7, layer.config.n_heads * layer.config.k)
    assert layer.retrieved.max() == S - S % 7 - 1  # of the last segment, which does not find itself


@pytest.mark.parametrize(
    "settings",
    [{}, {"k": 50}, {"memory_grad": "none", "fusion": "joint"}, {**FULL, "causal": True, "familiarity": False}],
)
def test_short_episodes_read_at_once_equal_those_read_segment_by_segment(settings, monkeypatch):
    layer, x = build_exact(**settings, capacity=21), draw(B, 21, M).double().requires_grad_()
    found = []
    for at_once in (knn_memory.AT_ONCE, 0):
        monkeypatch.setattr(knn_memory, "AT_ONCE", at_once)
        assert layer._is_short(x) == (at_once > 0)
        y = layer(x)
        found.append((y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


def test_step_with_a_cache_is_refused():
    layer = build(xl=3)
    with pytest.raises(ValueError, match="no cache, set it to 0"):
        layer.step_of_segment(draw(B, 7, M), layer.build_memory(B, S, torch.device("cpu")))


@torch.no_grad()
@pytest.mark.parametrize("n_heads", [1, 4])
def test_probe_retrieves_the_frame_it_shows(n_heads):
    layer, x = build(n_heads=n_heads, kv_heads=n_heads).eval(), draw(B, S + P, M)
    assert layer.retrieved is None
    places = torch.tensor([[24, 5, 23, 6, 20], [15, 14, 7, 6, 5]])
    x[:, S:] = x[torch.arange(B)[:, None], places]
    layer(x, P)
    assert layer.retrieved.shape == (B, P, n_heads * 10)
    assert torch.equal(layer.retrieved[:, :, 0], places)
    assert layer.retrieved.min() == S - 20  # the others have left the ring
    x[:, S] = x[:, 0]
    layer(x, P)
    assert not (layer.retrieved[:, 0] == 0).any()
    layer(x[:, S - 3 :], P)  # three frames studied, ten asked for
    assert torch.equal(layer.retrieved == -1, torch.arange(n_heads * 10).expand(B, P, -1) >= 3 * n_heads)


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["gate", "joint"])
def test_weights_of_what_was_found_are_shares_of_attention(fusion):
    layer, x = build(n_heads=2, kv_heads=2, k=4, fusion=fusion).eval(), draw(B, S + P, M)
    layer.log_temperature.copy_(torch.tensor([1.0, 3.0]))
    layer(x, P)
    shares = torch.zeros(B, P, S).scatter_add(2, layer.retrieved, layer.weights)
    keys, queries = layer._keys_values(x[:, :S])[0], layer._queries(x[:, S:])
    logits = layer.log_temperature.exp()[:, None, None] * (queries @ keys.mT)
    logits[..., : S - layer.config.capacity] = -torch.inf  # they have left the ring
    near, places = logits.topk(4, dim=3)
    due = torch.zeros_like(logits).scatter(3, places, near.softmax(3)).mean(1)
    torch.testing.assert_close(shares, due)
    layer(x[:, S - 3 :], P)
    assert not layer.weights[layer.retrieved == -1].any()
    torch.testing.assert_close(layer.weights.sum(2), torch.ones(B, P))


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"tie_qk": False}, {"n_heads": 4, "tie_qk": False}])
def test_starts_as_a_memory_of_nearest_neighbours(settings):
    """Similarities are cosines of normalised frames, in the space of the head; a frame is nearest to itself."""
    layer, x = build(**settings), draw(B, S, M)
    normed = F.layer_norm(x + layer.offset, (M,))
    keys, _ = layer._keys_values(x)
    queries = layer._queries(x)
    torch.testing.assert_close(queries, keys.expand_as(queries))
    if layer.d_head == M:
        cosine = F.normalize(normed, dim=2) @ F.normalize(normed, dim=2).mT
        torch.testing.assert_close((queries @ keys.mT)[:, 0], cosine, rtol=0, atol=1e-6)


def test_untrained_memory_tells_old_from_new_and_a_few_steps_set_the_criterion():
    """Random unit vectors, 2,000 of them studied, one in two probes among them."""
    torch.manual_seed(0)
    layer = KNNMemory(KNNMemory.Config(d_embed=32, k=8, d_feedforward=32))
    model = Recogniser([layer], Layout(64, 60), 32, [False])
    is_old = (torch.arange(60) % 2).float()[None]

    def episode(seed: int) -> Tensor:
        x = F.normalize(draw(1, 2060, 64, seed=seed), dim=2)
        old = is_old[0] == 1
        x[0, 2000:][old] = x[0, torch.randperm(2000, generator=torch.Generator().manual_seed(seed))[: old.sum()]]
        return x

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(40):
        loss = F.binary_cross_entropy_with_logits(model(episode(step)), is_old)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        right = [((model(episode(1000 + k)) > 0) == (is_old > 0)).float().mean() for k in range(10)]
    assert sum(right) / len(right) > 0.99


def test_gate_says_how_much_each_head_relies_on_the_memory():
    layer = build(n_heads=2, kv_heads=2)
    assert layer.gates.tolist() == [0.5, 0.5]
    assert build(fusion="joint").gates is None
    x, outputs = draw(B, S + P, M), []
    with torch.no_grad():
        layer.gate.fill_(-1e4)
        layer.familiarity.weight.zero_()
        outputs = [layer(x, P), layer(x[:, S:], P)]
    torch.testing.assert_close(*outputs)  # shut gates: as if nothing were stored


@torch.no_grad()
@pytest.mark.parametrize("settings", [{"store": "float16"}, {"store_device": "cpu"}, {"familiarity": False}])
def test_variants_of_the_store_answer_alike(settings):
    layer, other, x = (
        build(familiarity="familiarity" not in settings).eval(),
        build(**settings).eval(),
        draw(B, S + P, M),
    )
    torch.testing.assert_close(other(x, P), layer(x, P), rtol=0, atol=2e-2 if "store" in settings else 1e-6)


@pytest.mark.skipif(find_spec("faiss") is None, reason="faiss-cpu is not installed")
@pytest.mark.parametrize("faiss_index", ["flat", "hnsw"])
def test_layer_on_faiss_answers_as_the_exact_one(faiss_index):
    layer, x = build(**FULL), draw(B, S + P, M)
    other = build(**FULL, backend="faiss", faiss_index=faiss_index)
    torch.testing.assert_close(other(x, P), layer(x, P))


@pytest.mark.parametrize("error", ["", "ImportError: libfaiss.so: undefined symbol"])
def test_missing_or_broken_faiss_is_told(error, monkeypatch):
    monkeypatch.setattr("models.knn_memory.find_module", lambda name: Found(None, error))
    with pytest.raises(ValidationError, match=f"backend faiss needs the package faiss-cpu.*{error}.*; install it"):
        KNNMemory.Config(backend="faiss")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"n_heads": 3}, "d_embed 512 cannot be shared among n_heads 3"),
        ({"n_heads": 4, "kv_heads": 3}, "n_heads 4 cannot be shared among kv_heads 3"),
        ({"n_heads": 4}, "tie_qk true needs kv_heads 4"),
        ({"k": 0}, "k"),
        ({"capacity": 0}, "capacity"),
        ({"xl": -1}, "xl"),
        ({"fusion": "sum"}, "fusion"),
        ({"memory_grad": "all"}, "memory_grad"),
    ],
)
def test_setting_that_does_not_fit_is_refused(settings, named):
    with pytest.raises(ValidationError, match=named):
        KNNMemory.Config(**settings)


def test_state_size_counts_what_the_store_holds():
    layer = build(**FULL)
    memory = layer.build_memory(1, S, torch.device("cpu"))
    assert layer.state_size(S) == memory.keys.numel() + memory.values.numel() == layer.state_size(9000)
    assert layer.state_size(11) == 11 * layer.state_size(1) == 11 * 2 * 2 * 3


@pytest.mark.parametrize("is_causal", [True, False])
def test_relative_buckets_are_those_of_t5(is_causal):
    """By hand: of 32 buckets 16 are exact, of 16 on each side 8; beyond, each is wider than the one before."""
    distance = [0, 1, 7, 8, 15, 16, 20, 64, 127, 128, 200]
    buckets = relative_buckets(201, is_causal, torch.device("cpu"))
    if is_causal:
        past, future = [0, 1, 7, 8, 15, 16, 17, 26, 31, 31, 31], [0] * 11
    else:
        past = [0, 1, 7, 8, 9, 10, 10, 14, 15, 15, 15]
        future = [0, *(16 + bucket for bucket in past[1:])]
    assert [buckets[d, 0].item() for d in distance] == past
    assert [buckets[0, d].item() for d in distance] == future


LONG_STREAM = """
import torch, torch.nn.functional as F
from benchmarks.measure import memory_of_process
from models.knn_memory import KNNMemory

torch.set_num_threads(1)
torch.manual_seed(0)
S, P, M = 200_000, 7, 64
layer = KNNMemory(KNNMemory.Config(d_embed=M, k=4, capacity=S)).eval()
x = torch.randn(1, S + P, M)
places = torch.tensor([0, 1, 77_777, 123_456, 199_998, 199_999, 50_000])
x[0, S:] = x[0, places] + 0.5 * torch.randn(P, M)
with torch.no_grad():
    layer(x, P)
    unit = F.normalize(F.layer_norm(x[0] + layer.offset, (M,)), dim=1).double()
    expected = (unit[S:] @ unit[:S].T).topk(4).indices
assert torch.equal(layer.retrieved[0], expected), (layer.retrieved, expected)
assert torch.equal(expected[:, 0], places)
print(memory_of_process("VmHWM"))
"""


def test_search_of_200_000_frames_is_exact_within_2_gb():
    result = subprocess.run([sys.executable, "-c", LONG_STREAM], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 2e9
