"""Our transformer against torch's own encoder with a dense mask, at the published scale."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.measure import Row, peak_memory, take_turns
from models.transformer import Transformer

NUM_FRAMES, NUM_PROBES, WIDTH = 9180, 180, 64
TORCH_NAMES = {  # of ours, in order
    "query_key_value": "self_attn.in_proj",
    "output": "self_attn.out_proj",
    "expand": "linear1",
    "contract": "linear2",
    "norm_attention": "norm1",
    "norm_feedforward": "norm2",
}


def transformer() -> Iterator[Row]:
    share = peak_memory(prepare_ours) / peak_memory(prepare_torchs)
    ours, theirs = prepare_ours(), prepare_torchs()
    torch.testing.assert_close(ours(), theirs(), rtol=1e-4, atol=1e-4)
    seconds = take_turns([ours, theirs], repeats=5)
    yield Row(
        "transformer, T 9,180, forward and backward", "nn.TransformerEncoder, dense mask", *seconds, 3, share, 0.5
    )


def prepare_ours() -> Callable[[], Tensor]:
    first, last, x = _build()

    def step() -> Tensor:
        y = last(first(x), NUM_PROBES)
        (y * torch.linspace(-1, 1, WIDTH)).sum().backward()
        return y

    return step


def prepare_torchs() -> Callable[[], Tensor]:
    *layers, x = _build()
    layer = nn.TransformerEncoderLayer(WIDTH, 1, 2 * WIDTH, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, len(layers), enable_nested_tensor=False)
    for ours, theirs in zip(layers, encoder.layers, strict=True):
        weights = ours.state_dict().items()
        theirs.load_state_dict({_torch_name(name): weight for name, weight in weights})
    # Of floats: torch would turn a mask of bools into one at every call.
    mask = torch.zeros(NUM_FRAMES, NUM_FRAMES).fill_diagonal_(-torch.inf)

    def step() -> Tensor:
        y = encoder(x, mask)[:, -NUM_PROBES:]
        (y * torch.linspace(-1, 1, WIDTH)).sum().backward()
        return y

    return step


def _build() -> tuple[Transformer, Transformer, Tensor]:
    torch.manual_seed(0)
    config = Transformer.Config(d_embed=WIDTH)
    return Transformer(config), Transformer(config), torch.randn(1, NUM_FRAMES, WIDTH)


def _torch_name(name: str) -> str:
    module, kind = name.split(".")
    return f"{TORCH_NAMES[module]}{'_' if module == 'query_key_value' else '.'}{kind}"
