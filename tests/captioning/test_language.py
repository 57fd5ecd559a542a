"""Language models by folder and by name: what is refused, and what becomes of captions on their way to tokens."""

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported

import pytest
import torch
from language_folder import TEXTS, folder
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.activations import NewGELUActivation

from captioning.language import load_language, small_language, text_of, tokenise
from recognition.common.command_line import InputError


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder(), tmp_path / "copy"))


def refusal_of(path: object, **options: str) -> str:
    with pytest.raises(InputError) as told:
        load_language(str(path), **options)
    assert "\n" not in str(told.value)
    return str(told.value)


def test_captions_come_back_from_their_tokens_with_one_stop_at_the_end():
    language = load_language(str(folder()))
    given = [*TEXTS, "  blanks \n everywhere .", "no stop", "Größe, 3 €?", "."]
    ids, lengths = tokenise(given, language)
    rows = [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]
    assert all(row.count(language.stop_id) == 1 and row[-1] == language.stop_id for row in rows)
    back = [*TEXTS, "blanks everywhere.", "no stop.", "Größe, 3 €?.", "."]
    assert [text_of(row, language, language.stop_id) for row in rows] == back
    is_padding = torch.arange(ids.shape[1]) >= lengths[:, None]
    assert (ids[is_padding] == language.pad_id).all()


def test_dots_in_a_row_are_not_taken_for_another_token_than_the_stop():
    language = load_language(str(folder()))
    ids, lengths = tokenise(["a ball..."], language)
    assert ids[0, lengths[0] - 1] == language.stop_id
    assert text_of(ids[0].tolist(), language, language.stop_id) == "a ball."


def test_gelu_of_one_operation_changes_neither_outputs_nor_gradients():
    plain = AutoModelForCausalLM.from_pretrained(folder())
    fused = load_language(str(folder())).model
    assert any(isinstance(module, NewGELUActivation) for module in plain.modules())
    assert not any(isinstance(module, NewGELUActivation) for module in fused.modules())
    ids = torch.randint(plain.config.vocab_size, (3, 9), generator=torch.Generator().manual_seed(0))
    outputs = [model.double()(ids, labels=ids) for model in (plain, fused)]
    torch.testing.assert_close(outputs[1].logits, outputs[0].logits)
    gradients = [
        torch.autograd.grad(out.loss, model.parameters()) for out, model in zip(outputs, (plain, fused), strict=True)
    ]
    torch.testing.assert_close(gradients[1], gradients[0])


def test_logits_of_the_last_positions_are_those_of_all_whatever_the_model_can_leave_out():
    language = load_language(str(folder()))

    class Whole(torch.nn.Module):
        """A model that gives the logits of all positions."""

        def forward(self, inputs_embeds, attention_mask, use_cache):
            return language.model(inputs_embeds=inputs_embeds, attention_mask=attention_mask, use_cache=use_cache)

    embedded, is_there = torch.randn(2, 7, language.width), torch.ones(2, 7, dtype=torch.bool)
    expected = language.model(inputs_embeds=embedded).logits[:, 4:]
    torch.testing.assert_close(language.logits(embedded, is_there, last=3), expected)
    torch.testing.assert_close(replace(language, model=Whole()).logits(embedded, is_there, last=3), expected)


def test_words_of_the_captions_are_tokens_of_the_small_model():
    _, lengths = tokenise(TEXTS, load_language(str(folder())))
    assert lengths.tolist() == [len(text.split()) + 1 for text in TEXTS]  # and the stop


def test_caption_that_the_model_cannot_read_is_refused():
    with pytest.raises(InputError, match="a caption of 10 tokens, and the language model takes 9; shorten it"):
        tokenise(TEXTS, load_language(str(folder())), longest=9)


def test_equal_seeds_make_equal_small_models_and_leave_the_generator_alone(tmp_path):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    digests = [
        load_language(str(small_language(TEXTS, tmp_path / name, width=32, layers=1, heads=2, seed=seed))).digest
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert digests[0] == digests[1] == load_language(str(folder())).digest != digests[2]
    assert torch.equal(torch.get_rng_state(), before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_name_that_cannot_be_had_without_network_is_told_in_a_line():
    assert "no-such-model: is no folder, and no language model of this name" in refusal_of("no-such-model")


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_folder_that_is_not_whole_is_refused(copied, missing):
    (copied / missing).unlink()
    if missing == "tokenizer.json":
        (copied / "tokenizer_config.json").unlink()
    told = refusal_of(copied)
    assert told.startswith(f"{copied}: ")
    assert "model.safetensors and tokenizer.json" in told


def test_pickled_weights_are_not_read(copied):
    weights = load_file(copied / "model.safetensors")
    torch.save(weights, copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    assert "cannot be loaded" in refusal_of(copied)


def test_weights_that_are_missing_are_not_drawn_at_random(copied):
    weights = load_file(copied / "model.safetensors")
    del weights["transformer.h.0.ln_1.weight"]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    assert "no fitting weights for transformer.h.0.ln_1.weight" in refusal_of(copied)


def test_tokenizer_of_another_model_is_refused(copied, tmp_path):
    other = small_language([f"{k}{k + 1}{k + 2}" for k in range(500)], tmp_path / "other", width=32, layers=1, heads=2)
    shutil.copy(other / "tokenizer.json", copied)
    assert "does not belong to a model of" in refusal_of(copied)


def test_code_in_the_folder_is_not_run(copied):
    (copied / "evil.py").write_text("raise SystemExit('run')\n")
    text = (copied / "config.json").read_text().replace('"gpt2"', '"evil"', 1)
    (copied / "config.json").write_text(text.replace("{", '{"auto_map": {"AutoConfig": "evil.Evil"},', 1))
    assert "cannot be loaded" in refusal_of(copied)


def test_stop_of_several_tokens_is_refused():
    assert "generation.stop: 'red ball' is no single token" in refusal_of(folder(), stop="red ball")


def test_missing_package_is_told_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install -e '.[captioning]'" in refusal_of(folder())
