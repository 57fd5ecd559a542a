"""Our Mamba2 without its GPU kernel against the transformers library's, at the published scale."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.measure import Row, peak_memory, precision, take_turns
from benchmarks.peers import is_missing
from models.mamba2 import Mamba2

NUM_FRAMES, NUM_PROBES, WIDTH = 9180, 180, 512


def mamba2(device: str) -> Iterator[Row]:
    if is_missing("transformers"):
        return
    memory = peak_memory(prepare_transformers, device)
    share = peak_memory(prepare_ours, device) / memory
    share_probes = peak_memory(prepare_ours, device, None, NUM_PROBES) / memory
    close = 1e-4 if device == "cpu" else 0.05
    torch.testing.assert_close(prepare_ours(device, 500)(), prepare_transformers(device, 500)(), rtol=close, atol=close)
    functions = [prepare_ours(device), prepare_ours(device, num_last=NUM_PROBES), prepare_transformers(device)]
    seconds, seconds_probes, transformers_seconds = take_turns(functions, repeats=3)
    peer = "transformers' Mamba2Mixer, plain torch"
    yield Row("Mamba2 block, T 9,180, forward and backward", peer, seconds, transformers_seconds, 4, share, 0.25)
    note = "as in training's last block: the peer cannot leave out what is not read"
    yield Row("  the last 180 alone", peer, seconds_probes, transformers_seconds, 4, share_probes, 0.25, note)


def prepare_ours(device: str, num_frames: int | None = None, num_last: int | None = None) -> Callable[[], Tensor]:
    mixer, x = _build(device, num_frames)

    def step() -> Tensor:
        with precision(device):
            y = mixer(x, num_last)
        (y * torch.linspace(-1, 1, WIDTH, device=device)).sum().backward()
        return y

    return step


def prepare_transformers(device: str, num_frames: int | None = None) -> Callable[[], Tensor]:
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer
    from transformers.utils.logging import set_verbosity_error

    set_verbosity_error()  # it warns of the kernels that it has no use for here
    ours, x = _build(device, num_frames)
    config = Mamba2Config(
        hidden_size=WIDTH,
        num_heads=len(ours.D),
        head_dim=ours.headdim,
        state_size=ours.d_state,
        n_groups=1,
        conv_kernel=4,
        expand=2,
        num_hidden_layers=1,
        layer_norm_epsilon=ours.norm.eps,
        use_bias=False,
    )
    mixer = Mamba2Mixer(config, layer_idx=0)
    mixer.load_state_dict(ours.state_dict())
    mixer.to(device)

    def step() -> Tensor:
        with precision(device):
            y = mixer(x)
        (y * torch.linspace(-1, 1, WIDTH, device=device)).sum().backward()
        return y

    return step


def _build(device: str, num_frames: int | None) -> tuple[Mamba2, Tensor]:
    torch.manual_seed(0)
    config = Mamba2.Config(d_embed=WIDTH, A_init_range=(0.0005, 0.005))
    return Mamba2(config).to(device), torch.randn(1, num_frames or NUM_FRAMES, WIDTH).to(device).requires_grad_()
