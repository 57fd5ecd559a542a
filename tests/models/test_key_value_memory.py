"""The key-value memory, its layer and its predictor against their equations in plain loops."""

import math

import pytest
import torch
from torch import Tensor, nn

from models.key_value_memory import KeyValueMemory, KeyValueMixer, MemoryPredictor, prediction_loss

B, T, DIM, SLOTS, VALUE = 3, 5, 12, 18, 6


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(heads: int = 1, scale: float = 7.0, value_dim: int | None = VALUE) -> KeyValueMemory:
    """A memory whose slots differ more than they do at the start."""
    memory = KeyValueMemory(DIM, SLOTS, heads, scale, value_dim).double()
    for k, parameter in enumerate(memory.parameters()):
        parameter.data = draw(*parameter.shape, seed=10 + k)
    return memory


def cosine(a: Tensor, b: Tensor) -> float:
    length = math.sqrt(sum(x * x for x in a.tolist())) * math.sqrt(sum(x * x for x in b.tolist()))
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True)) / length


def read_in_loops(memory: KeyValueMemory, x: Tensor) -> tuple[Tensor, Tensor]:
    """The equations for one input x (dim,): the output (value_dim,) and the addresses (H, S / H)."""
    output, addresses = [], []
    for query, keys, values in zip(x.chunk(len(memory.keys)), memory.keys, memory.values, strict=True):
        weights = [math.exp(memory.scale * cosine(query, key)) for key in keys]
        addresses.append([weight / sum(weights) for weight in weights])
        for column in range(values.shape[1]):
            output.append(sum(a * value[column].item() for a, value in zip(addresses[-1], values, strict=True)))
    return torch.tensor(output, dtype=x.dtype), torch.tensor(addresses, dtype=x.dtype)


def perceptron_in_loops(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Linear, batch norm over the batch in training and by its statistics in evaluation, ReLU, linear."""
    first, norm, _, last = layers
    inner = x @ first.weight.T + first.bias
    for column in range(inner.shape[1]):
        mean, variance = inner[:, column].mean(), inner[:, column].var(unbiased=False)
        if not norm.training:
            mean, variance = norm.running_mean[column], norm.running_var[column]
        inner[:, column] = (inner[:, column] - mean) / (variance + norm.eps).sqrt()
    return (inner * norm.weight + norm.bias).clamp(min=0) @ last.weight.T + last.bias


@pytest.mark.parametrize("heads", [1, 3])
@torch.no_grad()
def test_memory_equals_its_equations(heads):
    memory, x = build(heads), draw(B, T, DIM)
    found, addresses = memory(x, return_addresses=True)
    assert (found.shape, addresses.shape) == ((B, T, VALUE), (B, T, heads, SLOTS // heads))
    for b in range(B):
        for t in range(T):
            wanted = read_in_loops(memory, x[b, t])
            torch.testing.assert_close((found[b, t], addresses[b, t]), wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("heads", [1, 2])
def test_reading_without_addresses_gives_the_same_output_and_gradients(heads):
    outcomes = []
    for return_addresses in (True, False):
        memory, x = build(heads), draw(B, T, DIM).requires_grad_()
        found = memory(x, return_addresses)
        found = found[0] if return_addresses else found
        (found * draw(B, T, VALUE, seed=2)).sum().backward()
        outcomes.append([found.detach(), x.grad, memory.keys.grad, memory.values.grad])
    torch.testing.assert_close(*outcomes, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 3, 4), (1, 2, 3, 2)])
@torch.no_grad()
def test_inputs_of_any_shape_are_read_one_by_one(shape):
    memory, x = build(heads=3), draw(*shape, DIM)
    found, addresses = memory(x, return_addresses=True)
    one_by_one = torch.stack([memory(one) for one in x.reshape(-1, DIM)]).reshape(*shape, VALUE)
    torch.testing.assert_close(found, one_by_one)
    torch.testing.assert_close(memory(x), one_by_one)
    assert addresses.shape == (*shape, 3, SLOTS // 3)


@pytest.mark.parametrize("heads", [1, 3])
@torch.no_grad()
def test_addresses_sum_to_one_for_each_head(heads):
    addresses = build(heads)(draw(B, T, DIM), return_addresses=True)[1]
    assert (addresses > 0).all()
    torch.testing.assert_close(addresses.sum(3), torch.ones(B, T, heads, dtype=torch.float64))


@torch.no_grad()
def test_lengths_of_keys_and_inputs_change_nothing():
    memory, x = build(heads=3), draw(B, T, DIM)
    before = memory(x, return_addresses=True)
    memory.keys *= torch.arange(1, SLOTS + 1).reshape(3, -1, 1)
    torch.testing.assert_close(memory(9 * x, return_addresses=True), before)


@torch.no_grad()
def test_input_like_one_key_reads_its_value_when_addressed_sharply():
    memory = build(scale=1e4)
    torch.testing.assert_close(memory(5 * memory.keys[0]), memory.values[0])


def test_memory_starts_with_small_random_slots():
    torch.manual_seed(0)
    memory = KeyValueMemory(64, 512)
    assert memory.keys.std().item() == pytest.approx(0.01, rel=0.05)
    assert memory.values.std().item() == pytest.approx(0.02, rel=0.05)
    assert (memory.scale, memory.values.shape) == (16.0, (1, 512, 64))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 13, "slots": 8, "heads": 2}, "dim 13 cannot be shared among heads 2"),
        ({"dim": 12, "slots": 9, "heads": 2}, "slots 9 cannot"),
        ({"dim": 12, "slots": 8, "heads": 2, "value_dim": 7}, "value_dim 7 cannot"),
        ({"dim": 12, "slots": 0}, "slots 0 cannot"),
    ],
)
def test_sizes_that_cannot_be_shared_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        KeyValueMemory(**settings)


@torch.no_grad()
def test_layer_is_a_projection_of_what_the_memory_reads_frame_by_frame():
    torch.manual_seed(0)
    layer, x = KeyValueMixer(DIM, SLOTS).double(), draw(B, T, DIM)
    for b in range(B):
        for t in range(T):
            read, _ = read_in_loops(layer.memory, x[b, t])
            wanted = layer.output.weight @ read + layer.output.bias
            torch.testing.assert_close(layer(x)[b, t], wanted, rtol=0, atol=1e-9)
    torch.testing.assert_close(layer(x, 2), layer(x)[:, -2:])


@pytest.mark.parametrize("has_output", [False, True])
@pytest.mark.parametrize("heads", [1, 3])
def test_predictor_equals_its_equations_in_training_and_evaluation(heads, has_output):
    torch.manual_seed(0)
    predictor = MemoryPredictor(DIM, SLOTS, heads, has_output=has_output).double()
    predictor.memory.values.data *= 50
    for step in range(3):
        predictor.train(step < 2)
        z = draw(7, DIM, seed=step)
        queries = perceptron_in_loops(predictor.query, z)
        wanted = torch.stack([read_in_loops(predictor.memory, query)[0] for query in queries])
        if has_output:
            wanted = perceptron_in_loops(predictor.output, wanted)
        found = predictor(z)
        assert found.shape == (7, DIM)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


def test_prediction_loss_is_minus_the_mean_cosine():
    predicted, target = draw(7, DIM), draw(7, DIM, seed=2)
    wanted = -sum(cosine(p, z) for p, z in zip(predicted, target, strict=True)) / 7
    assert prediction_loss(predicted, target).item() == pytest.approx(wanted, abs=1e-9)
    assert prediction_loss(target, 3 * target).item() == pytest.approx(-1)


def test_gradients_reach_the_source_and_never_the_target():
    torch.manual_seed(0)
    predictor = MemoryPredictor(DIM, SLOTS).double()
    source, target = draw(7, DIM).requires_grad_(), draw(7, DIM, seed=2).requires_grad_()
    prediction_loss(predictor(source), target).backward()
    assert target.grad is None
    assert source.grad.abs().sum() > 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in predictor.memory.parameters())


def test_evaluation_changes_nothing():
    predictor = MemoryPredictor(DIM, SLOTS).double()
    predictor(draw(7, DIM))
    predictor.eval()
    before = {key: value.clone() for key, value in predictor.state_dict().items()}
    torch.testing.assert_close(predictor(draw(7, DIM)), predictor(draw(7, DIM)), rtol=0, atol=0)
    torch.testing.assert_close(dict(predictor.state_dict()), before, rtol=0, atol=0)


def test_predictor_learns_a_target_that_is_no_linear_map_of_the_source():
    """Each of 5 groups of clips has a target of its own; no learning leaves a cosine near 0."""
    torch.manual_seed(0)
    predictor = MemoryPredictor(DIM, SLOTS).double()
    group = torch.arange(40) % 5
    source, target = draw(5, DIM)[group] + 0.1 * draw(40, DIM, seed=2), draw(5, DIM, seed=3)[group]
    optimizer = torch.optim.Adam(predictor.parameters(), lr=0.01)
    for _ in range(100):
        loss = prediction_loss(predictor(source), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < -0.95
