"""What holds for every family in MODELS and for stacks of several: causality, gradients, memory, saving; a new family
is covered unedited."""

import copy

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models import CONFIGS, MODELS, PUBLISHED_NAMES, build_model
from models.recogniser import Layout, Recogniser

B, T, P, D = 3, 163, 9, 24  # T is odd and spans two chunks of linear attention
WIDTH = 32
# These carry nothing from study to probe: they stand below a memory, alone they can only guess.
MEMORYLESS = ["temporal_gate"]
MEMORIES = [name for name in MODELS if name not in MEMORYLESS]
# Alone these say in a few numbers how new a frame is, and of the first frame the same whatever it shows.
PASSED_ON = {name: {"residual": True} for name in ("novelty_filter", "bloom")}

VARIANTS = [
    *(
        (name, {"n_layers": n_layers, "residual": residual})
        for name in MEMORIES
        for n_layers, residual in ((1, True), (2, False), (2, True))
    ),
    ("transformer", {"n_heads": 2}),
    ("transformer", {"causal": True}),
    ("transformer", {"causal": True, "no_self": False, "n_heads": 2}),
    ("transformer", {"no_self": False}),
    ("lstm", {"forget_bias_range": [1, 5], "input_bias_range": [-1, -5]}),
    ("ur_lstm", {"uniform_init": False}),
    ("ur_lstm", {"refine": False, "checkpoint_every": None}),
    ("ur_lstm", {"learn_forget_bias": True, "checkpoint_every": 50}),
    ("mlstm", {"num_heads": 2, "proj_factor": 3.0, "conv1d_kernel_size": 4}),
    ("mamba2", {"headdim": 16, "d_state": 8, "expand": 1, "d_conv": 2}),
    *(("mixed", {"layers": [name, "transformer"]}) for name in MEMORYLESS),
    ("mixed", {"layers": ["temporal_gate", "transformer"], "temporal_gate": {"gate": "soft", "clip_frames": 40}}),
    (
        "mixed",
        {
            "layers": ["temporal_gate", "mamba2", "temporal_gate", "knn_memory"],
            "temporal_gate": {"fuse": "sigmoid", "hidden": 12, "residual": True},
        },
    ),
    ("mixed", {"layers": list(MODELS), **PASSED_ON}),
    (
        "mixed",
        {
            "layers": list(reversed(MODELS)),
            "key_value_slots": 5,
            "lstm": {"residual": True},
            "ur_lstm": {"residual": True},
            **PASSED_ON,
        },
    ),
    ("mixed", {"layers": ["mamba2", "transformer", "mamba2"], "transformer": {"causal": True, "residual": True}}),
    *((name, {"key_value_slots": 7}) for name in MEMORIES),
]


def label(variant: tuple[str, dict]) -> str:
    return "-".join([variant[0], *(f"{key}={value}" for key, value in variant[1].items())])


over_variants = pytest.mark.parametrize("variant", VARIANTS, ids=label)
over_families = pytest.mark.parametrize("name", MODELS)


def build(name: str, num_probes: int = P, seed: int = 0, **settings: object) -> Recogniser:
    torch.manual_seed(seed)
    return build_model(name, CONFIGS[name](**{"d_embed": WIDTH, **settings}), Layout(D, num_probes))


def is_causal(name: str, **settings: object) -> bool:
    return all(mixer.is_causal for mixer in build(name, **settings).mixers)


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@over_variants
def test_every_parameter_gets_a_gradient_and_moves(variant):
    name, settings = variant
    model = build(name, **settings).double()
    for key, parameter in model.named_parameters():
        if key.endswith("scale.weight"):  # starts at zero, and what lies below it would get nothing
            torch.nn.init.normal_(parameter)
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    is_old = (draw(B, P, seed=2) > 0).double()
    F.binary_cross_entropy_with_logits(model(draw(B, T, D).double()), is_old).backward()
    norms = {key: parameter.grad.norm().item() for key, parameter in model.named_parameters()}
    # Rounding alone leaves about 1e-16 of the largest in a gradient that is really zero. In float32 it would be 1e-8,
    # no less than what is left to mLSTM's input gate, whose bias all but cancels in what it reads.
    assert {key: norm for key, norm in norms.items() if not 1e-12 * max(norms.values()) < norm < 1e6} == {}
    torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0).step()
    assert [key for key, parameter in model.named_parameters() if torch.equal(parameter, before[key])] == []


@over_variants
@torch.no_grad()
def test_future_frames_leave_past_outputs_unchanged_only_where_causal(variant):
    name, settings = variant
    model, features = build(name, num_probes=T, **settings), draw(B, T, D)
    before = model(features)
    for first in (1, 77, 128, T - 1):
        changed = torch.cat([features[:, :first], 5 * draw(B, T - first, D, seed=first)], 1)
        after = model(changed)
        assert not torch.allclose(before[:, first:], after[:, first:])
        if is_causal(name, **settings):
            torch.testing.assert_close(before[:, :first], after[:, :first])
        else:
            assert (before[:, :first] - after[:, :first]).abs().max() > 1e-4  # ten times what passes for equal


@over_families
def test_only_the_transformer_looks_ahead_and_only_unless_told_not_to(name):
    assert is_causal(name) == (name != "transformer")
    assert name != "transformer" or is_causal(name, causal=True)


@over_variants
@torch.no_grad()
def test_reading_the_last_frames_equals_the_tail_of_reading_all(variant):
    name, settings = variant
    x = draw(B, T, WIDTH)
    for block in build(name, **settings).blocks:
        whole = block(x)
        for num_last in (1, P, 130, T):
            torch.testing.assert_close(block(x, num_last), whole[:, T - num_last :])


@over_variants
@torch.no_grad()
def test_episodes_of_a_batch_do_not_influence_each_other(variant):
    name, settings = variant
    model, features = build(name, **settings), draw(B, T, D)
    alone = torch.cat([model(episode[None]) for episode in features])
    torch.testing.assert_close(model(features), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MEMORIES)
def test_state_of_recurrent_families_does_not_grow_with_the_frames(name):
    model = build(name, n_layers=2)
    assert model.state_size(9000) == 2 * build(name, n_layers=1).state_size(9000) > 0
    if name in ("transformer", "knn_memory"):
        assert model.state_size(9000) == 9000 * model.state_size(1)
    else:
        assert model.state_size(9000) == model.state_size(1)


@pytest.mark.parametrize("name", MEMORYLESS)
@torch.no_grad()
def test_family_that_carries_nothing_answers_alike_whatever_was_studied(name):
    model, features = build(name, n_layers=2), draw(B, T, D)
    other = torch.cat([draw(B, T - P, D, seed=2), features[:, T - P :]], 1)
    assert model.state_size(9000) == 0
    assert torch.equal(model(features), model(other))


def test_state_of_a_mixed_stack_is_the_sum_over_its_layers():
    layers = ["mamba2", "transformer", "lstm", "mamba2"]
    of_layers = [build(name, n_layers=1).state_size(63) for name in layers]
    assert build("mixed", layers=layers).state_size(63) == sum(of_layers)


def test_key_value_slots_carry_nothing_from_study_to_probe():
    plain, with_slots = (build("mlstm", n_layers=2, key_value_slots=slots) for slots in (0, 11))
    assert with_slots.state_size(63) == plain.state_size(63)
    assert count(with_slots) - count(plain) == 2 * (2 * 11 * WIDTH + WIDTH * WIDTH + WIDTH + 2 * WIDTH)


@over_families
def test_mixed_stack_of_one_family_is_the_stack_of_that_family(name):
    alone, mixed = build(name, n_layers=2), build("mixed", layers=[name, name])
    torch.testing.assert_close(mixed.state_dict(), alone.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(mixed(draw(B, T, D)), alone(draw(B, T, D)), rtol=0, atol=0)


def test_layers_of_a_mixed_stack_come_in_order_with_their_own_settings_and_residual_connections():
    layers = ["mamba2", "lstm", "transformer", "mamba2"]
    sections = {"mamba2": {"d_conv": 3}, "lstm": {"residual": True}}
    blocks = build("mixed", layers=layers, **sections).blocks
    assert [type(getattr(block, "mixer", block)) for block in blocks] == [MODELS[name] for name in layers]
    assert [hasattr(block, "mixer") for block in blocks] == [True, True, False, True]
    assert [blocks[k].mixer.conv1d.kernel_size for k in (0, 3)] == [(3,), (3,)]


@over_families
def test_plain_stacks_keep_the_names_of_their_weights(name):
    """Those of runs from before there were key-value slots and mixed stacks."""
    mixer = MODELS[name](CONFIGS[name](d_embed=WIDTH))
    shell = {"embed.weight", "embed.bias", "read_out.weight", "read_out.bias"}
    bare = {f"blocks.{k}.{key}" for k in range(2) for key in mixer.state_dict()}
    assert build(name, n_layers=2, residual=False).state_dict().keys() == shell | bare
    residual = {f"blocks.{k}.mixer.{key}" for k in range(2) for key in mixer.state_dict()}
    norms = {f"{norm}.{key}" for norm in ("blocks.0.norm", "blocks.1.norm", "norm") for key in ("weight", "bias")}
    assert build(name, n_layers=2, residual=True).state_dict().keys() == shell | residual | norms


@over_families
def test_parameters_of_every_layer_are_registered(name):
    one, two, five = (count(build(name, n_layers=n_layers, residual=False)) for n_layers in (1, 2, 5))
    layer = count(MODELS[name](CONFIGS[name](d_embed=WIDTH)))
    assert (two - one, five - one) == (layer, 4 * layer)
    assert layer > WIDTH * WIDTH


def contrasting_episodes() -> tuple[Tensor, Tensor]:
    """Four episodes of 12 study frames with the same four probes, of which each episode studied another two."""
    probes, is_old = draw(4, D, seed=3), torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1]])
    study = draw(4, 12, D, seed=4)
    for k in range(4):
        study[k, [3, 8]] = probes[is_old[k] == 1]
    return torch.cat([study, probes.expand(4, 4, D)], 1), is_old.float()


@pytest.mark.parametrize(
    "variant",
    [
        *((name, {"n_layers": n_layers}) for name in MEMORIES for n_layers in (1, 2)),
        *(("mixed", {"layers": [name, "transformer"]}) for name in MEMORYLESS),
        ("mixed", {"layers": ["mamba2", "transformer"]}),
        ("mixed", {"layers": ["transformer", "mlstm", "transformer"], "key_value_slots": 9}),
        ("mlstm", {"key_value_slots": 9}),
    ],
    ids=label,
)
def test_overfits_one_small_batch_that_only_memory_can_solve(variant):
    name, settings = variant
    model, (features, is_old) = build(name, num_probes=4, **settings), contrasting_episodes()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(150):
        loss = F.binary_cross_entropy_with_logits(model(features), is_old)
        if loss < 0.1:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pytest.fail(f"loss {loss.item():.3f} after 150 steps; 0.693 is guessing")


@over_families
def test_equal_seeds_give_equal_weights(name):
    first, again, other = (build(name, seed=seed).state_dict() for seed in (5, 5, 6))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@over_variants
@torch.no_grad()
def test_saved_weights_bring_back_the_same_outputs(variant, tmp_path):
    name, settings = variant
    model, other, features = build(name, **settings), build(name, seed=7, **settings), draw(B, T, D)
    assert not torch.equal(model(features), other(features))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    torch.testing.assert_close(model(features), other(features), rtol=0, atol=0)


class Narrow(TorchDispatchMode):
    """Gathers the names of operations that give a float narrower than float64."""

    def __init__(self):
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves(made) if isinstance(x, Tensor) and x.is_floating_point()]
        if any(x.dtype != torch.float64 and x.numel() for x in tensors):  # checkpoints of torch 2.5 make an empty one
            self.names.add(str(func))
        return made


@over_variants
def test_float64_is_computed_in_float64_throughout(variant):
    """References are; a step in float32 within would hide what float32 loses there."""
    name, settings = variant
    model, features, is_old = build(name, **settings), draw(B, 70, D), (draw(B, P, seed=2) > 0).double()
    exact, single = copy.deepcopy(model).double(), model(features)
    with Narrow() as narrow:
        logits = exact(features.double())
        F.binary_cross_entropy_with_logits(logits, is_old).backward()
    assert narrow.names == set()
    assert 1e-9 < (logits - single).norm() / logits.norm() < 1e-4


@over_variants
def test_bfloat16_autocast_stays_near_float32(variant):
    name, settings = variant
    model, features = build(name, **settings), draw(B, T, D)
    exact = model(features)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(features)
    logits.sum().backward()  # outside, as training goes
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    # bfloat16 keeps 8 bits: 0.4 % a rounding, and several of them follow each other.
    assert (logits - exact).norm() < 0.05 * exact.norm()


@over_families
def test_layers_differ_from_each_other_at_the_start(name):
    blocks = build(name, n_layers=2).blocks
    weights = [[parameter for parameter in block.parameters() if parameter.ndim > 1] for block in blocks]
    assert not all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


@over_families
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("d_embd", 64),
        ("d_embed", 0),
        ("d_embed", "64"),
        ("d_embed", 64.0),
        ("key_value_slots", -1),
        ("key_value_slots", True),
        ("n_layers", 0),
        ("n_layers", True),
        ("n_layers", None),
        ("residual", 1),
    ],
)
def test_wrong_setting_is_refused_by_name(name, field, value):
    with pytest.raises(ValidationError, match=field):
        CONFIGS[name](**{field: value})


@pytest.mark.parametrize(
    ("name", "settings", "named"),
    [
        ("transformer", {"n_heads": 3}, "n_heads 3"),
        ("transformer", {"dropout": 1.0}, "dropout"),
        ("transformer", {"d_feedforward": 0}, "d_feedforward"),
        ("lstm", {"forget_bias_range": [1.0]}, "forget_bias_range"),
        ("lstm", {"input_bias_range": [float("nan"), 1.0]}, "input_bias_range"),
        ("ur_lstm", {"checkpoint_every": 0}, "checkpoint_every"),
        ("mlstm", {"num_heads": 3}, "num_heads 3"),
        ("mlstm", {"proj_factor": 0.0}, "proj_factor"),
        ("mlstm", {"forget_bias_range": "36"}, "forget_bias_range"),
        ("mamba2", {"headdim": 48}, "headdim 48"),
        ("mamba2", {"A_init_range": [0.0, 1.0]}, "A_init_range"),
        ("mamba2", {"A_init_range": [2.0, 1.0]}, "A_init_range"),
        ("mamba2", {"dt_min": 0.2}, "dt_min"),
        ("mamba2", {"dt_min": float("inf")}, "dt_min"),
        ("temporal_gate", {"clip_frames": 0}, "clip_frames"),
        ("temporal_gate", {"fuse": "sum"}, "fuse"),
        ("temporal_gate", {"gate": "hard"}, "gate"),
        ("temporal_gate", {"tau": 0.0}, "tau"),
        ("temporal_gate", {"hidden": 0}, "hidden"),
        ("mixed", {"layers": ["mamba2"], "residual": True}, "residual"),
        ("mixed", {"layers": ["mamba2", "mixed"]}, "layers"),
    ],
)
def test_setting_that_does_not_fit_the_family_is_refused(name, settings, named):
    with pytest.raises(ValidationError, match=named):
        CONFIGS[name](**settings)


@over_families
def test_settings_cannot_be_changed_once_made(name):
    with pytest.raises(ValidationError, match="frozen"):
        CONFIGS[name]().n_layers = 3


def test_published_names_lead_to_families():
    assert set(PUBLISHED_NAMES.values()) <= set(MODELS)
