"""UR-LSTM's compiled recurrence against torch's LSTM and against the plain loop over time."""

from collections.abc import Callable, Iterator
from unittest import mock

import torch
from torch import nn

import ur_lstm as layer_file
from benchmarks.measure import Row, take_turns
from ur_lstm import URLSTM

BATCH, NUM_FRAMES, WIDTH = 16, 9180, 64
WIDE, NUM_FRAMES_WIDE, CHECKPOINT_EVERY = 512, 1000, 256  # as config-files/ur_lstm.yaml, over fewer frames


def ur_lstm() -> Iterator[Row]:
    torch.manual_seed(0)
    model = URLSTM(WIDTH, WIDTH)
    functions = [prepare(model), prepare(nn.LSTM(WIDTH, WIDTH, batch_first=True)), prepare_loop(model)]
    seconds, lstm_seconds, loop_seconds = take_turns(functions)
    what = "UR-LSTM, B 16, T 9,180, H 64, both ways"
    yield Row(what, "torch.nn.LSTM", seconds, lstm_seconds, 1)
    yield Row(what, "the plain loop", seconds, loop_seconds, 10)
    model = URLSTM(WIDE, WIDE, checkpoint_every=CHECKPOINT_EVERY)
    sizes = {"num_frames": NUM_FRAMES_WIDE, "width": WIDE}
    seconds, loop_seconds = take_turns([prepare(model, **sizes), prepare_loop(model, **sizes)], repeats=2)
    yield Row("  B 16, T 1,000, H 512, checkpointed", "the plain loop", seconds, loop_seconds, 1)


def prepare(model: nn.Module, num_frames: int = NUM_FRAMES, width: int = WIDTH) -> Callable[[], None]:
    x = torch.randn(BATCH, num_frames, width, requires_grad=True)

    def step() -> None:
        model(x)[0].square().sum().backward()

    return step


def prepare_loop(model: URLSTM, **sizes: int) -> Callable[[], None]:
    step = prepare(model, **sizes)

    def loop() -> None:
        with mock.patch.object(layer_file, "_compiled_scan", return_value=None):
            step()

    return loop
