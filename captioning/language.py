"""The language model of a captioner and its tokens: any causal one of transformers by name or folder, or a small one
made of the captions themselves.

Shapes: n captions of up to L tokens.
"""

import hashlib
import importlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

# transformers imports torchvision, which this import mends beside a torch without CUDA.
import models.vision  # noqa: F401
from recognition.common.command_line import InputError, first_line, shown
from recognition.features.backbone import state_digest

INSTALL = "pip install -e '.[captioning]'"
FILES = "config.json, model.safetensors and tokenizer.json"


@dataclass(frozen=True)
class Language:
    """A causal language model and how it writes.

    Attributes:
        model, tokenizer: of transformers.
        stop_id: the token that ends a caption.
        pad_id: what stands where a caption has ended.
        width: numbers in the vector of a token.
        digest: SHA-256 of weights and vocabulary.
    """

    model: Any
    tokenizer: Any
    stop_id: int
    pad_id: int
    width: int
    digest: str

    @property
    def longest(self) -> int | None:
        """How many tokens it can read, a prefix among them; None if that is not known."""
        return getattr(self.model.config, "max_position_embeddings", None)

    def logits(self, embedded: Tensor, is_there: Tensor, last: int) -> Tensor:
        """What the model says after each of the `last` positions: embedded (n, L, width), is_there (n, L) bool to
        (n, last, V)."""
        # A prefix is about as long as a caption, and no loss asks for its logits, of which GPT-2 has 50,257 each.
        can_keep = "logits_to_keep" in inspect.signature(self.model.forward).parameters
        keep = {"logits_to_keep": last} if can_keep else {}
        out = self.model(inputs_embeds=embedded, attention_mask=is_there.long(), use_cache=False, **keep)
        return out.logits[:, -last:]


def load_language(path: str, stop: str = ".") -> Language:
    """Load a language model from a folder, or by its name on the hub, in float32 and in evaluation mode.

    Weights are read from safetensors alone, and no code from the folder or the hub is run. Raises InputError if it
    cannot be had, is not whole, or has no token for `stop`.
    """
    transformers = transformers_package()
    is_folder = Path(path).is_dir()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        model, told = transformers.AutoModelForCausalLM.from_pretrained(
            path, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:  # transformers raises many kinds
        what = "cannot be loaded" if is_folder else "is no folder, and no language model of this name can be had"
        raise InputError(f"{path}: {what} ({first_line(error)}); give a folder with {FILES}") from None
    if missing := sorted(map(str, [*told["missing_keys"], *told["mismatched_keys"]])):
        raise InputError(f"{path}: has no fitting weights for {missing[0]} and {len(missing) - 1} more; give all")
    if not tokenizer.encode("a.", add_special_tokens=False):
        raise InputError(f"{path}: has no tokenizer; give a folder with {FILES}")
    embedding = model.get_input_embeddings()
    if len(tokenizer) > embedding.num_embeddings:
        raise InputError(
            f"{path}: a tokenizer of {len(tokenizer)} tokens does not belong to a model of {embedding.num_embeddings};"
            f" give a folder with {FILES}"
        )
    pad = next((token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None), 0)
    model = _with_fused_gelu(model.float().eval())
    return Language(
        model, tokenizer, stop_token(tokenizer, stop), pad, embedding.embedding_dim, _digest(model, tokenizer)
    )


def transformers_package() -> Any:
    """The package transformers, silent. Raises InputError if it is not installed."""
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise InputError(f"captions need the package transformers ({first_line(error)}): {INSTALL}") from None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def stop_token(tokenizer: Any, stop: str) -> int:
    """The token that `stop` is. Raises InputError if it is several, or none."""
    tokens = tokenizer.encode(stop, add_special_tokens=False)
    if len(tokens) != 1 or tokenizer.decode(tokens).strip() != stop.strip():
        raise InputError(f"generation.stop: {shown(stop)} is no single token of this language model; name one that is")
    return tokens[0]


def tokenise(texts: Sequence[str], language: Language, longest: int | None = None) -> tuple[Tensor, Tensor]:
    """Captions to tokens: ids (n, L) int64, padded on the right, and lengths (n,) int64.

    Each ends with the token of the stop, once, whatever the tokenizer makes of a full stop after its last word. Raises
    InputError for one of more than `longest` tokens.
    """
    cleaned = [" ".join(text.split()) for text in texts]
    stop = language.tokenizer.decode([language.stop_id]).strip()
    rows = [
        [*language.tokenizer.encode(text.removesuffix(stop).rstrip(), add_special_tokens=False), language.stop_id]
        for text in cleaned
    ]
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    if longest is not None and len(rows) and int(lengths.max()) > longest:
        most = int(lengths.argmax())
        raise InputError(
            f"{shown(texts[most])}: a caption of {len(rows[most])} tokens, and the language model takes {longest};"
            " shorten it"
        )
    ids = torch.full((len(rows), int(lengths.max()) if rows else 0), language.pad_id)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    return ids, lengths


def text_of(tokens: Sequence[int], language: Language, stop_id: int) -> str:
    """What was written up to the first stop, with it."""
    tokens = list(tokens)
    if stop_id in tokens:
        tokens = tokens[: tokens.index(stop_id) + 1]
    text = language.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return " ".join(text.split())


def small_language(
    texts: Sequence[str], folder: Path, width: int = 96, layers: int = 2, heads: int = 4, seed: int = 0
) -> Path:
    """Make a small GPT-2 that has learned nothing, with a tokenizer of the words in `texts`, and save both as a folder.

    Its weights are drawn from `seed`. What it cannot write as words it writes as bytes. Returns the folder. Of several
    processes the first is to call it, for transformers saves in no other.
    """
    transformers = transformers_package()
    tokenizer = _tokenizer_of(texts)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=128,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.GPT2LMHeadModel(config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        folder.mkdir(exist_ok=True)
        for file in sorted(Path(part).iterdir(), key=lambda file: file.name == "config.json"):  # without it, no model
            file.replace(folder / file.name)
    return folder


def _tokenizer_of(texts: Sequence[str]) -> Any:
    """Byte pairs as GPT-2's, as many as it takes to write the words of `texts` whole, up to 5,000 tokens."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE

    words = Tokenizer(BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    trainer = trainers.BpeTrainer(
        vocab_size=5000,
        special_tokens=[end],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    words.train_from_iterator([" ".join(text.split()) for text in texts], trainer)
    return transformers_package().PreTrainedTokenizerFast(tokenizer_object=words, eos_token=end, pad_token=end)


def _with_fused_gelu(model: nn.Module) -> nn.Module:
    """Compute GPT-2's form of GELU in one operation, where transformers takes eight: the same formula, and a quarter
    less time for a step of the demo."""
    from transformers.activations import NewGELUActivation

    for module in list(model.modules()):
        for name, part in module.named_children():
            if isinstance(part, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))
    return model


def _digest(model: nn.Module, tokenizer: Any) -> str:
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    return hashlib.sha256((state_digest(weights) + vocabulary).encode()).hexdigest()
