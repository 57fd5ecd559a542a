"""Probes that do not write, for every family: fast forms beside the plain one that appends each probe to the frames
seen."""

import pytest
import torch
from torch import Tensor

from models import CONFIGS, MODELS, build_model
from models.mixer import Mixer
from models.recogniser import Layout, Recogniser

B, S, Q, D, M = 2, 21, 4, 12, 16
ENDS = [5, 13, 21]
VARIANTS = [
    *((name, {}) for name in MODELS),
    *((name, {"match_init": True}) for name in MODELS),
    *((name, {"familiarity": True}) for name in MODELS if "familiarity" in MODELS[name].Config.model_fields),
    ("mlstm", {"num_heads": 2, "conv1d_kernel_size": 3, "tie_qk": True, "familiarity": True, "match_init": True}),
    ("mamba2", {"headdim": 8, "d_state": 8, "d_conv": 3, "familiarity": True, "match_init": True}),
    ("transformer", {"n_heads": 2, "no_self": False, "familiarity": True}),
    ("transformer", {"n_heads": 2, "causal": True, "familiarity": True, "match_init": True}),
    ("transformer", {"causal": True, "window": 7}),
    ("transformer", {"causal": True, "window": 7, "no_self": False}),
]
over_variants = pytest.mark.parametrize(("name", "settings"), VARIANTS, ids=str)


def build(name: str, settings: dict, n_layers: int = 1) -> Recogniser:
    torch.manual_seed(0)
    if name == "mamba2":
        settings = {"headdim": 8} | settings
    config = CONFIGS[name](**{"d_embed": M, "n_layers": n_layers, **settings})
    return build_model(name, config, Layout(D, 3 * Q, clip_frames=5, probes_write=False)).double()


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(y: Tensor, mixer: Mixer, *inputs: Tensor) -> list[Tensor]:
    wanted = [*inputs, *mixer.parameters()]
    found = torch.autograd.grad((y * draw(*y.shape, seed=3)).sum(), wanted, allow_unused=True)
    return [torch.zeros_like(x) if of_x is None else of_x for x, of_x in zip(wanted, found, strict=True)]


@over_variants
def test_a_probe_reads_what_it_would_read_as_the_next_frame(name: str, settings: dict):
    if name in ("lstm", "ur_lstm") and settings.get("familiarity"):
        pytest.skip("tells what only probes that do not write can be told")
    mixer = build(name, settings).mixers[0]
    x, queries = draw(B, S, M).requires_grad_(), draw(B, Q, M, seed=2).requires_grad_()
    _, states = mixer.study(x, ENDS, is_read=False)
    fast = [mixer.read(queries, state) for state in states]
    mixer.place(1, 5)
    plain = [Mixer.read(mixer, queries, state) for state in Mixer.study(mixer, x, ENDS, is_read=False)[1]]
    mixer.place(0, 5)
    torch.testing.assert_close(fast, plain)
    expected = gradients(torch.stack(plain), mixer, x, queries)
    torch.testing.assert_close(gradients(torch.stack(fast), mixer, x, queries), expected)


@over_variants
def test_study_frames_hear_what_they_always_hear(name: str, settings: dict):
    mixer, x = build(name, settings).mixers[0], draw(B, S, M)
    y, states = mixer.study(x, ENDS)
    assert len(states) == len(ENDS)
    torch.testing.assert_close(y, mixer(x))
    torch.testing.assert_close(mixer.study(x, ENDS[:1])[0], y)


@over_variants
def test_probes_neither_change_each_other_nor_what_is_remembered(name: str, settings: dict):
    model = build(name, settings, n_layers=1 if name == "temporal_gate" else 2).eval()
    features = draw(B, S + 3 * Q, D)
    asked = [(S, 3 * Q)] if any(mixer.looks_ahead for mixer in model.mixers) else [(end, Q) for end in ENDS]
    together = model(features, asked)
    first = 0
    for end, count in asked:
        for probe in range(first, first + count):
            alone = torch.cat([features[:, :S], features[:, S + probe : S + probe + 1]], 1)
            torch.testing.assert_close(model(alone, [(end, 1)])[:, 0], together[:, probe])
        first += count


def test_probes_asked_early_do_not_know_what_comes_later():
    model, features = build("mlstm", {"familiarity": True}), draw(B, S + 3 * Q, D)
    changed = features.clone()
    changed[:, ENDS[0] : S] += 1
    before, after = (model(x, [(ENDS[0], Q), (S, 2 * Q)]) for x in (features, changed))
    torch.testing.assert_close(before[:, :Q], after[:, :Q])
    assert (before[:, Q:] != after[:, Q:]).all()


def test_what_only_reading_can_tell_is_refused_where_probes_write():
    with pytest.raises(ValueError, match="familiarity of LSTM is for probes that do not write"):
        build_model("lstm", CONFIGS["lstm"](d_embed=M, familiarity=True), Layout(D, Q))
