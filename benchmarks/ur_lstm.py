"""UR-LSTM, compiled for the CPU or in kernels of a GPU, against torch's LSTM and against the plain loop over time."""

from collections.abc import Callable, Iterator
from unittest import mock

import torch
from torch import nn

import ur_lstm as layer_file
from benchmarks.measure import Row, precision, take_turns
from models import gpu_paths
from ur_lstm import URLSTM

BATCH, NUM_FRAMES, WIDTH = 16, 9180, 64
WIDE, NUM_FRAMES_WIDE, CHECKPOINT_EVERY = 512, 1000, 256  # as config-files/ur_lstm.yaml, over fewer frames


def ur_lstm(device: str) -> Iterator[Row]:
    torch.manual_seed(0)
    model = URLSTM(WIDTH, WIDTH)
    what = "UR-LSTM, B 16, T 9,180, H 64, both ways"
    rivals = [prepare(device, model), prepare(device, nn.LSTM(WIDTH, WIDTH, batch_first=True))]
    is_on_cpu = device == "cpu"
    seconds, lstm_seconds, loop_seconds = take_turns([*rivals, prepare_loop(device, model)])
    yield Row(what, f"torch.nn.LSTM{'' if is_on_cpu else ' by cuDNN'}", seconds, lstm_seconds, 1 if is_on_cpu else 0.5)
    yield Row(what, "the plain loop", seconds, loop_seconds, 10)
    model = URLSTM(WIDE, WIDE, checkpoint_every=CHECKPOINT_EVERY)
    sizes = {"num_frames": NUM_FRAMES_WIDE, "width": WIDE}
    rivals = [prepare(device, model, **sizes), prepare_loop(device, model, **sizes)]
    seconds, loop_seconds = take_turns(rivals, repeats=2)
    yield Row("  B 16, T 1,000, H 512, checkpointed", "the plain loop", seconds, loop_seconds, 1)


def prepare(device: str, model: nn.Module, num_frames: int | None = None, width: int = WIDTH) -> Callable[[], None]:
    x = torch.randn(BATCH, num_frames or NUM_FRAMES, width, device=device, requires_grad=True)
    model.to(device)

    def step() -> None:
        with precision(device):
            outputs = model(x)[0]
        outputs.square().sum().backward()

    return step


def prepare_loop(device: str, model: URLSTM, **sizes: int) -> Callable[[], None]:
    step = prepare(device, model, **sizes)

    def loop() -> None:
        with gpu_paths.using("none"), mock.patch.object(layer_file, "_compiled_scan", return_value=None):
            step()

    return loop
