"""Our mLSTM against the xlstm package's, in its parallel form, at the published scale."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.measure import Row, peak_memory, precision, take_turns
from benchmarks.peers import is_missing
from models.mlstm import MLSTM
from models.recogniser import ResidualBlock

NUM_FRAMES, NUM_PROBES, WIDTH = 9180, 180, 512
XLSTM_NAMES = {  # of ours
    "conv1d.weight": "conv1d.conv.weight",
    "conv1d.bias": "conv1d.conv.bias",
    "q_proj": "q_proj.weight",
    "k_proj": "k_proj.weight",
    "v_proj": "v_proj.weight",
    "input_gate.weight": "mlstm_cell.igate.weight",
    "input_gate.bias": "mlstm_cell.igate.bias",
    "forget_gate.weight": "mlstm_cell.fgate.weight",
    "forget_gate.bias": "mlstm_cell.fgate.bias",
    "skip": "learnable_skip",
}


def mlstm(device: str) -> Iterator[Row]:
    if is_missing("xlstm"):
        return
    memory = peak_memory(prepare_xlstm, device)
    share = peak_memory(prepare_ours, device) / memory
    share_probes = peak_memory(prepare_ours, device, None, NUM_PROBES) / memory
    close = 1e-4 if device == "cpu" else 0.05
    torch.testing.assert_close(prepare_ours(device, 500)(), prepare_xlstm(device, 500)(), rtol=close, atol=close)
    functions = [prepare_ours(device), prepare_ours(device, num_last=NUM_PROBES), prepare_xlstm(device)]
    seconds, seconds_probes, xlstm_seconds = take_turns(functions, repeats=1)  # long enough to be exact
    peer = "xlstm's block stack, parallel form"
    yield Row("mLSTM block, T 9,180, forward and backward", peer, seconds, xlstm_seconds, 8, share, 1 / 3)
    note = "as in training: the peer cannot leave out what is not read"
    yield Row("  the last 180 alone", peer, seconds_probes, xlstm_seconds, 8, share_probes, 1 / 3, note)


def prepare_ours(device: str, num_frames: int | None = None, num_last: int | None = None) -> Callable[[], Tensor]:
    mixer, x = _build(device, num_frames)
    block, norm = ResidualBlock(mixer, WIDTH).to(device), nn.LayerNorm(WIDTH, device=device)

    def step() -> Tensor:
        with precision(device):
            y = norm(block(x, num_last))
        (y * torch.linspace(-1, 1, WIDTH, device=device)).sum().backward()
        return y

    return step


def prepare_xlstm(device: str, num_frames: int | None = None) -> Callable[[], Tensor]:
    from xlstm import mLSTMBlockConfig, mLSTMLayerConfig, xLSTMBlockStack, xLSTMBlockStackConfig

    mixer, x = _build(device, num_frames)
    layer = mLSTMLayerConfig(conv1d_kernel_size=2, num_heads=1, proj_factor=1.0)
    stack = xLSTMBlockStack(
        xLSTMBlockStackConfig(
            mlstm_block=mLSTMBlockConfig(mlstm=layer),
            context_length=num_frames or NUM_FRAMES,
            num_blocks=1,
            embedding_dim=WIDTH,
        )
    )
    weights = {XLSTM_NAMES.get(name, name): weight for name, weight in mixer.state_dict().items()}
    weights["mlstm_cell.outnorm.weight"] = weights.pop("norm_weight") - 1  # xlstm's norms keep what is beyond 1
    stack.blocks[0].xlstm.load_state_dict(weights)
    stack.to(device)

    def step() -> Tensor:
        with precision(device):
            y = stack(x)
        (y * torch.linspace(-1, 1, WIDTH, device=device)).sum().backward()
        return y

    return step


def _build(device: str, num_frames: int | None) -> tuple[MLSTM, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(1, num_frames or NUM_FRAMES, WIDTH).to(device).requires_grad_()
    return MLSTM(MLSTM.Config(forget_bias_range=(10.0, 12.0))).to(device), x
