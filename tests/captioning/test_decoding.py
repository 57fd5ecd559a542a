"""Captions from prefixes: search against a plain one, where they end, and draws that can be repeated."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported

import pytest
import torch
import torch.nn.functional as F
from language_folder import TEXTS, folder
from torch import Tensor

from captioning import decoding
from captioning.config import GenerationConfig
from captioning.decoding import Draw, seeds_of, write_captions_of
from captioning.language import Language, load_language, tokenise
from recognition.common.command_line import InputError

P = 3


@pytest.fixture(scope="module")
def language() -> Language:
    """One that has half learned captions of several lengths, each after a prefix of its own."""
    language = load_language(str(folder()))
    texts = ["a ball.", "a ball grows.", "the red ball shrinks.", *TEXTS[:2], "a green ball on a set moves left."]
    ids, lengths = tokenise(texts, language)
    is_word = torch.arange(ids.shape[1]) < lengths[:, None]
    optimizer = torch.optim.AdamW(language.model.parameters(), lr=3e-3)
    for _ in range(60):
        words = language.model.get_input_embeddings()(ids)
        logits = language.model(inputs_embeds=torch.cat([draw_prefixes(len(ids)), words], 1)).logits[:, P - 1 : -1]
        F.cross_entropy(logits[is_word], ids[is_word]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return language


def draw_prefixes(n: int, width: int = 32) -> Tensor:
    return torch.randn(n, P, width, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def plain_beams(language: Language, prefix: Tensor, num_beams: int, most: int) -> list[int]:
    """One caption at a time, everything computed again for each token: prefix (P, W) to tokens."""
    words = language.model.get_input_embeddings().weight
    open_beams, ended = [(0.0, [])], []
    for _ in range(most):
        grown = []
        for log_p, tokens in open_beams:
            x = torch.cat([prefix, words[torch.tensor(tokens, dtype=torch.int64)]])[None]
            of_next = language.model(inputs_embeds=x).logits[0, -1].log_softmax(0)
            best = of_next.topk(2 * num_beams)
            grown += [(log_p + p.item(), [*tokens, int(k)]) for p, k in zip(best.values, best.indices, strict=True)]
        grown.sort(key=lambda beam: -beam[0])
        best = grown[: 2 * num_beams]
        ended += [beam for beam in best[:num_beams] if beam[1][-1] == language.stop_id]
        open_beams = [beam for beam in best if beam[1][-1] != language.stop_id][:num_beams]
        if len(ended) >= num_beams:  # none that goes on can be better than the worst of these, as it is ranked here
            worst = sorted(beam[0] / len(beam[1]) for beam in ended)[-num_beams]
            if open_beams[0][0] / (len(open_beams[0][1])) <= worst:
                break
    ended += open_beams if len(ended) < num_beams else []
    return max(ended, key=lambda beam: beam[0] / len(beam[1]))[1]


@torch.no_grad()
def mean_log_p(language: Language, prefix: Tensor, tokens: list[int]) -> float:
    words = language.model.get_input_embeddings()(torch.tensor(tokens))
    logits = language.model(inputs_embeds=torch.cat([prefix, words])[None]).logits[0, P - 1 : -1]
    return -F.cross_entropy(logits, torch.tensor(tokens)).item()


@pytest.mark.parametrize("num_beams", [1, 4])
def test_batch_of_beams_equals_plain_ones_one_by_one(language, num_beams, monkeypatch):
    prefixes, generation = draw_prefixes(12), GenerationConfig(num_beams=num_beams, max_new_tokens=8)
    together = write_captions_of(prefixes, language, generation, [])
    assert together == [write_captions_of(prefix[None], language, generation, [])[0] for prefix in prefixes]
    found: list[list[int]] = []
    monkeypatch.setattr(decoding, "text_of", lambda tokens, language, stop_id: found.append(until(tokens, stop_id)))
    write_captions_of(prefixes, language, generation, [])
    plain = [plain_beams(language, prefix, num_beams, 8) for prefix in prefixes]
    assert len({len(tokens) for tokens in plain}) > 2  # they do end at different times
    if num_beams == 1:
        assert found == plain
    for prefix, tokens, expected in zip(prefixes, found, plain, strict=True):  # older versions search a little longer
        assert tokens == expected or mean_log_p(language, prefix, tokens) > mean_log_p(language, prefix, expected)


def until(tokens: list[int], stop_id: int) -> list[int]:
    return tokens[: tokens.index(stop_id) + 1] if stop_id in tokens else tokens


def test_caption_ends_with_its_first_stop_or_at_the_greatest_length(language):
    captions = write_captions_of(draw_prefixes(40), language, GenerationConfig(num_beams=3, max_new_tokens=6), [])
    ended = [caption for caption in captions if "." in caption]
    assert 0 < len(ended) < len(captions)
    assert all(caption.index(".") == len(caption) - 1 for caption in ended)
    others = [caption for caption in captions if "." not in caption]
    assert any(caption for caption in others)


def test_drawn_captions_repeat_by_their_seed_and_do_not_hang_on_their_neighbours(language):
    prefixes, generation = draw_prefixes(1).expand(6, -1, -1), GenerationConfig(top_p=0.9, max_new_tokens=6)
    captions = write_captions_of(prefixes, language, generation, list(range(6)))
    assert len(set(captions)) > 1
    assert write_captions_of(prefixes, language, generation, list(range(6))) == captions
    assert write_captions_of(prefixes[:2], language, generation, [4, 2]) == [captions[4], captions[2]]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_words_are_drawn_as_often_as_they_are_likely_and_none_beyond_top_p(temperature):
    p = torch.tensor([0.4, 0.02, 0.3, 0.08, 0.2])
    flat = p ** (1 / temperature) / (p ** (1 / temperature)).sum()
    n = 4000
    draw = Draw(0.85, temperature, range(n))
    words = draw(torch.zeros(n, 0), p.log().expand(n, -1)).argmax(1)
    share = torch.bincount(words, minlength=5) / n
    kept = torch.tensor([True, False, True, temperature > 1, True])
    expected = torch.where(kept, flat, 0) / flat[kept].sum()
    assert not share[~kept].any()
    torch.testing.assert_close(share, expected, rtol=0, atol=0.03)  # four standard errors of 4,000 draws


def test_first_word_is_always_among_those_drawn_from():
    assert Draw(0.0, 1.0, [1])(torch.zeros(1, 0), torch.tensor([[0.2, 0.5, 0.3]]).log()).argmax(1).item() == 1


def test_seeds_are_those_of_a_film_whatever_stands_beside_it():
    films = torch.randn(2, 3, 2, 4)
    seeds = seeds_of(films, [3, 2], 5)
    assert len(set(seeds)) == 5
    assert seeds_of(films[1:, :2], [2], 5) == seeds[3:]
    assert not {*seeds_of(films, [3, 2], 6)} & {*seeds}


def test_no_prefixes_give_no_captions(language):
    assert write_captions_of(draw_prefixes(0), language, GenerationConfig(), []) == []


def test_stop_that_is_no_token_is_refused(language):
    with pytest.raises(InputError, match="is no single token"):
        write_captions_of(draw_prefixes(1), language, GenerationConfig(stop="the end"), [])
