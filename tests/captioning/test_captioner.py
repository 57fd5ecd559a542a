"""The captioner whole: what it learns, what its captions depend on, and what becomes of a frozen language model."""

import os
from types import SimpleNamespace

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported

import pytest
import torch
import torch.nn.functional as F
from language_folder import TEXTS, folder
from torch import Tensor

from captioning.captioner import Captioner, Films
from captioning.config import CaptionSettings, GenerationConfig
from captioning.language import load_language, small_language, tokenise
from recognition.common.command_line import InputError
from recognition.training.runs import Run

B, C, N, D = 2, 4, 3, 6
HAS_CLIP = torch.tensor([[True] * 4, [True, True, False, False]])
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # sums in another order
GREEDY = GenerationConfig(num_beams=1, max_new_tokens=12)
KINDS = ["mlp", "transformer", "memorizing"]


def settings_of(kind: str = "mlp", train: str = "both", **memory: object) -> CaptionSettings:
    if kind == "memorizing":
        memory["model"] = "none"
    args = {"n_heads": 2, "kv_heads": 2, "k": 4} if memory.get("model", "knn_memory") == "knn_memory" else {}
    return CaptionSettings.model_validate(
        {
            "data": {"frames_per_clip": N},
            "memory": {"width": 8, "args": args, **memory},
            "mapper": {"kind": kind, "prefix_length": 4, "clip_length": 2, "n_layers": 5, "n_heads": 2},
            "language_model": {"train": train},
        }
    )


def build(kind: str = "mlp", train: str = "both", **memory: object) -> Captioner:
    torch.manual_seed(0)
    mean, deviation = torch.randn(D) / 9, torch.rand(D)
    return Captioner(settings_of(kind, train, **memory), D, load_language(str(folder())), mean, deviation)


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def captions_of(captioner: Captioner) -> tuple[Tensor, Tensor, Tensor]:
    """Six captions, one for each clip of HAS_CLIP."""
    ids, lengths = tokenise([*TEXTS[:5], "a ball."], captioner.language)
    return ids, lengths, HAS_CLIP.nonzero()


@pytest.mark.parametrize("kind", KINDS)
def test_prefixes_of_a_film_are_those_it_has_alone_and_not_those_of_later_clips_or_padding(kind):
    captioner, features = build(kind).eval(), draw(B, C, N, D)
    features[~HAS_CLIP] = torch.nan
    whole = captioner.prefixes(features, HAS_CLIP)
    assert whole.shape == (B, C, 4, 32)
    for film, num in ((0, 4), (1, 2), (0, 1), (0, 2)):
        there = torch.ones(1, num, dtype=torch.bool)
        alone = captioner.prefixes(features[film : film + 1, :num], there)
        torch.testing.assert_close(alone[0], whole[film, :num], **CLOSE)
    assert not whole[1, 2:].any()
    earlier = torch.cat([draw(B, 1, N, D, seed=2), features[:, 1:]], 1)
    assert not torch.allclose(captioner.prefixes(earlier, HAS_CLIP)[0, 3], whole[0, 3])


def test_loss_is_that_of_each_caption_by_itself():
    captioner, features = build().eval(), draw(B, C, N, D)
    ids, lengths, of = captions_of(captioner)
    loss, num_tokens = captioner(features, HAS_CLIP, ids, lengths, of)
    prefixes, language, expected = captioner.prefixes(features, HAS_CLIP), captioner.language.model, 0.0
    for row, length, (film, clip) in zip(ids, lengths, of, strict=True):
        words = language.get_input_embeddings()(row[:length])
        logits = language(inputs_embeds=torch.cat([prefixes[film, clip], words])[None]).logits[0]
        expected += F.cross_entropy(logits[3:-1], row[:length], reduction="sum")
    torch.testing.assert_close(loss, expected)
    assert num_tokens == lengths.sum()
    padded = F.pad(ids, (0, 5), value=captioner.language.pad_id)
    torch.testing.assert_close(captioner(features, HAS_CLIP, padded, lengths, of)[0], loss)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("kind", "memory"),
    [
        ("mlp", {"model": "knn_memory"}),
        ("transformer", {"model": "lstm"}),
        ("transformer", {"model": "none"}),
        ("memorizing", {}),
        ("memorizing", {"scope": "clip"}),
        ("mlp", {"model": "knn_memory", "scope": "clip"}),
    ],
)
def test_every_weight_that_learns_gets_a_gradient(kind, memory, precision):
    captioner, features = build(kind, **memory).train(), draw(B, C, N, D)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        loss, _ = captioner(features, HAS_CLIP, *captions_of(captioner))
    assert loss.dtype == torch.float32
    loss.backward()
    for name, parameter in captioner.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    prefix = captioner.prefixes(features, HAS_CLIP)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(captioner.prefixes(features, HAS_CLIP).float(), prefix, rtol=0.1, atol=0.1)


def test_frozen_language_model_stays_as_it_is_and_is_not_in_the_checkpoint(tmp_path):
    captioner, features = build(train="mapper").train(), draw(B, C, N, D)
    language = captioner.language.model
    before = {name: weight.clone() for name, weight in language.state_dict().items()}
    optimizer = torch.optim.AdamW(captioner.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        captioner(features, HAS_CLIP, *captions_of(captioner))[0].backward()
        optimizer.step()
    assert not language.training
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in language.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in language.state_dict().items())
    assert sum(parameter.numel() for parameter in captioner.parameters()) == sum(
        parameter.numel()
        for part in (captioner.embed, captioner.memory, captioner.mapper)
        for parameter in part.parameters()
    )
    state = captioner.state_dict()
    assert not any("wte" in name for name in state)
    other = build(train="mapper")
    other.load_state_dict(state)
    assert other.generate(features, HAS_CLIP, GREEDY) == captioner.generate(features, HAS_CLIP, GREEDY)
    assert captioner.training


def test_frozen_language_model_goes_along_to_another_kind_of_number():
    captioner, features = build(train="mapper"), draw(B, C, N, D)
    prefixes = captioner.prefixes(features, HAS_CLIP)
    captioner.double()
    assert captioner.language.model.dtype == torch.float64
    torch.testing.assert_close(captioner.prefixes(features, HAS_CLIP), prefixes.double(), **CLOSE)


@pytest.mark.parametrize("train", ["mapper", "both"])
def test_weights_learned_with_another_language_model_are_refused(train, tmp_path):
    state = build(train=train).state_dict()
    other = load_language(str(small_language(TEXTS, tmp_path / "other", width=32, layers=1, heads=2, seed=1)))
    with pytest.raises(InputError, match="were learned with another language model"):
        Captioner(settings_of(train=train), D, other, torch.ones(D), torch.ones(D)).load_state_dict(state)


@pytest.mark.parametrize("kind", ["mlp", "memorizing"])
def test_best_weights_come_back_whole_though_some_are_shared(kind, tmp_path):
    captioner, features = build(kind), draw(B, C, N, D)
    run = SimpleNamespace(best_file=tmp_path / "best.safetensors")
    Run.save_best(run, captioner.state_dict())
    torch.manual_seed(1)
    other = Captioner(settings_of(kind), D, load_language(str(folder())), torch.ones(D), torch.ones(D))
    other.load_state_dict(Run.load_best(run))
    torch.testing.assert_close(other.prefixes(features, HAS_CLIP), captioner.prefixes(features, HAS_CLIP))


EIGHT = torch.ones(B, C, dtype=torch.bool)


def learn(captioner: Captioner, features: Tensor, num_steps: int) -> float:
    """Learn TEXTS for the clips of two films; returns the last loss a token."""
    ids, lengths = tokenise(TEXTS, captioner.language)
    optimizer = torch.optim.AdamW(captioner.parameters(), lr=1e-2, fused=True)
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss, num_tokens = captioner(features, EIGHT, ids, lengths, EIGHT.nonzero())
        (loss / num_tokens).backward()
        optimizer.step()
    return loss.item() / num_tokens.item()


def test_captions_overfit_eight_clips_and_a_new_mapper_learns_them_on_what_is_then_frozen(tmp_path):
    """The last two clips of both films look alike, so that their captions can only be told by what came before."""
    captioner, features = build(), draw(B, C, N, D)
    features[1, 2:] = features[0, 2:]
    learn(captioner, features, 100)
    own = [TEXTS[:4], TEXTS[4:]]
    assert captioner.generate(features, EIGHT, GenerationConfig(num_beams=5, max_new_tokens=20)) == own
    assert captioner.generate(features[1:], EIGHT[1:], GREEDY) == own[1:]
    told = captioner.generate(features, EIGHT, GREEDY, memory_from=Films(features.flip(0), EIGHT))
    assert [captions[0] for captions in told] == [captions[0] for captions in own]  # whose memory was empty
    assert [captions[2:] for captions in told] == [captions[2:] for captions in own[::-1]]

    for part in (captioner.language.model, captioner.language.tokenizer):
        part.save_pretrained(tmp_path)
    frozen = load_language(str(tmp_path))
    other = Captioner(settings_of(train="mapper"), D, frozen)
    assert learn(other, draw(B, C, N, D, seed=2), 40) < 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_memory_of_another_film_is_what_stood_before_in_that_film_and_nothing_else(kind):
    captioner, features, others = build(kind).eval(), draw(B, C, N, D), draw(B, C, N, D, seed=2)
    films = Films(others, HAS_CLIP.flip(0))
    swapped = captioner.prefixes(features, HAS_CLIP, films)
    by_hand = torch.cat([others[1:, :3], features[:1, 3:]], 1)  # the second film's first three clips, then the own one
    short = torch.cat([others[:1, :2], others[:1, :1], features[:1, 3:]], 1)  # the first has two, and begins again
    there = torch.ones(1, 4, dtype=torch.bool)
    torch.testing.assert_close(swapped[0, 3], captioner.prefixes(short, there)[0, 3], **CLOSE)
    second = Films(others[1:], HAS_CLIP[:1])
    torch.testing.assert_close(
        captioner.prefixes(features[:1], there, second)[0, 3], captioner.prefixes(by_hand, there)[0, 3], **CLOSE
    )
    own = captioner.prefixes(features, HAS_CLIP)
    torch.testing.assert_close(captioner.prefixes(features, HAS_CLIP, Films(features, HAS_CLIP)), own, **CLOSE)
    torch.testing.assert_close(swapped[:, 0], own[:, 0], **CLOSE)


@pytest.mark.parametrize("kind", ["mlp", "memorizing"])
def test_without_a_memory_of_the_film_another_one_changes_nothing(kind):
    captioner, features = build(kind, scope="clip").eval(), draw(B, C, N, D)
    others = Films(draw(B, C, N, D, seed=2), HAS_CLIP)
    own = captioner.prefixes(features, HAS_CLIP)
    assert torch.equal(captioner.prefixes(features, HAS_CLIP, others), own)
    assert captioner.retrieved(features, HAS_CLIP) is None
    alone = torch.cat([captioner.prefixes(features[:1, k : k + 1], HAS_CLIP[:1, :1]) for k in range(C)], 1)
    torch.testing.assert_close(alone, own[:1], **CLOSE)


@pytest.mark.parametrize(("kind", "num_queries", "num_found"), [("mlp", N, 2 * 4), ("memorizing", 4, 2 * 32)])
def test_each_clip_tells_which_earlier_frames_it_found(kind, num_queries, num_found):
    captioner, features = build(kind), draw(B, C, N, D)
    found = captioner.retrieved(features, HAS_CLIP)
    frames, weights = found
    assert frames.shape == weights.shape == (B, C, num_queries, num_found)
    assert (frames[1, 2:] == -1).all()
    for clip in range(1, C):
        assert 0 <= frames[0, clip].max() < (clip + 1) * N
    assert not weights[frames == -1].any()
    torch.testing.assert_close(weights.sum(3), (frames >= 0).any(3).to(weights))
    assert captioner.training
    assert build(model="lstm").retrieved(features, HAS_CLIP) is None


def test_drawn_captions_of_a_film_are_those_it_has_alone():
    captioner, features = build(), draw(B, C, N, D)
    generation = GenerationConfig(top_p=0.95, max_new_tokens=5, seed=3)
    captions = captioner.generate(features, HAS_CLIP, generation)
    assert [len(of_film) for of_film in captions] == [4, 2]
    assert captioner.generate(features[1:, :2], HAS_CLIP[1:, :2], generation) == captions[1:]
    assert captioner.generate(features, HAS_CLIP, generation.model_copy(update={"seed": 4})) != captions


def test_features_may_be_half_floats_and_are_standardised_once_they_have_unit_length():
    captioner, features = build(), draw(B, C, N, D)
    expected = (F.normalize(features, dim=3) - captioner.feature_mean) / captioner.feature_deviation
    torch.testing.assert_close(captioner._standardised(7 * features), expected)
    assert captioner.prefixes(features.half(), HAS_CLIP).dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"generation": {"max_new_tokens": 125}}, "generation.max_new_tokens: with mapper.prefix_length"),
        ({"mapper": {"kind": "memorizing"}}, "mapper.kind: memorizing has a memory of its own"),
        ({"mapper": {"kind": "transformer", "n_heads": 5}}, "mapper: a language model of width 32 cannot be shared"),
        ({"memory": {"model": "transformer"}}, "memory.args: Transformer sees later clips"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, told):
    with pytest.raises(InputError) as error:
        Captioner(CaptionSettings.model_validate(changes), D, load_language(str(folder())))
    assert str(error.value).startswith(told)
