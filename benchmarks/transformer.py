"""Our transformer against torch's own encoder with a dense mask, at the published scale."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.measure import Row, peak_memory, precision, take_turns
from models import gpu_paths
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


def transformer(device: str) -> Iterator[Row]:
    share = peak_memory(prepare_ours, device) / peak_memory(prepare_torchs, device)
    ours, theirs = prepare_ours(device), prepare_torchs(device)
    close = 1e-4 if device == "cpu" else 0.05
    torch.testing.assert_close(ours(), theirs(), rtol=close, atol=close)
    ours_s, theirs_s = take_turns([ours, theirs], repeats=5)
    wanted = 3 if device == "cpu" else 6
    what = "transformer, T 9,180, forward and backward"
    yield Row(what, "nn.TransformerEncoder, dense mask", ours_s, theirs_s, wanted, share, 0.5)
    if device != "cpu":
        share = peak_memory(prepare_ours, device) / peak_memory(prepare_pieces, device)
        ours_s, pieces_s = take_turns([ours, prepare_pieces(device)])
        yield Row("  by FlexAttention", "the plain pieces", ours_s, pieces_s, 1, share, 1)


def prepare_ours(device: str) -> Callable[[], Tensor]:
    first, last, x = _build(device)

    def step() -> Tensor:
        with precision(device):
            y = last(first(x), NUM_PROBES)
        (y * torch.linspace(-1, 1, WIDTH, device=device)).sum().backward()
        return y

    return step


def prepare_pieces(device: str) -> Callable[[], Tensor]:
    """Ours without paths made for GPUs."""
    step = prepare_ours(device)

    def plain_step() -> Tensor:
        with gpu_paths.using("none"):
            return step()

    return plain_step


def prepare_torchs(device: str) -> Callable[[], Tensor]:
    *layers, x = _build(device)
    layer = nn.TransformerEncoderLayer(WIDTH, 1, 2 * WIDTH, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, len(layers), enable_nested_tensor=False).to(device)
    for ours, theirs in zip(layers, encoder.layers, strict=True):
        weights = ours.state_dict().items()
        theirs.load_state_dict({_torch_name(name): weight for name, weight in weights})
    # Of floats: torch would turn a mask of bools into one at every call.
    mask = torch.zeros(NUM_FRAMES, NUM_FRAMES, device=device).fill_diagonal_(-torch.inf)

    def step() -> Tensor:
        with precision(device):
            y = encoder(x, mask)[:, -NUM_PROBES:]
        (y * torch.linspace(-1, 1, WIDTH, device=device)).sum().backward()
        return y

    return step


def _build(device: str) -> tuple[Transformer, Transformer, Tensor]:
    torch.manual_seed(0)
    config = Transformer.Config(d_embed=WIDTH)
    x = torch.randn(1, NUM_FRAMES, WIDTH).to(device)
    return Transformer(config).to(device), Transformer(config).to(device), x


def _torch_name(name: str) -> str:
    module, kind = name.split(".")
    return f"{TORCH_NAMES[module]}{'_' if module == 'query_key_value' else '.'}{kind}"
