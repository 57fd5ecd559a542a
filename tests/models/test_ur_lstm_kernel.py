"""The compiled kernel of the UR-LSTM against the plain loop that it stands in for."""

import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator
from unittest import mock

import pytest
import torch
from test_ur_lstm import D, H, draw
from torch import Tensor, nn

import ur_lstm
from models import ur_lstm_kernel
from ur_lstm import URLSTM


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's number of threads until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def plain(monkeypatch) -> Callable:
    """Runs a function with the plain loop in place of the kernel."""

    def run(function: Callable, *args: object, **options: object):
        with monkeypatch.context() as patch:
            patch.setattr(ur_lstm, "_compiled_scan", lambda: None)
            return function(*args, **options)

    return run


def run_in_float32(batch: int, steps: int, width: int, scale: float = 1.0, autocast: bool = False, **options: object):
    """Outputs, last states and all gradients of a layer with inputs, states and weights drawn from fixed seeds."""
    torch.manual_seed(0)
    model = URLSTM(D, width, **options)
    nn.init.normal_(model.layers[0].bias)
    given = [draw(batch, steps, D) * scale, draw(1, batch, width, seed=2), draw(1, batch, width, seed=3)]
    given = [y.float().requires_grad_() for y in given]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y, (h, c) = model(given[0].bfloat16() if autocast else given[0], tuple(given[1:]))
    score = sum((z * draw(*z.shape).float()).sum() for z in (y, h, c))
    gradients = torch.autograd.grad(score, [*given, *model.parameters()], materialize_grads=True)
    return [y, h, c, *gradients]


def assert_close_for_their_size(actual: list[Tensor], expected: list[Tensor], tolerance: float = 1e-5) -> None:
    """Within the tolerance of each tensor's largest number: sums of numbers of both signs lose digits."""
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * (theirs.abs().max().item() or 1))


@pytest.mark.parametrize("refine", [True, False])
@pytest.mark.parametrize("width", [2, 7, 64, 260])
@pytest.mark.parametrize("steps", [1, 63])
@pytest.mark.parametrize("batch", [1, 3, 17])
def test_compiled_kernel_gives_what_the_plain_loop_gives(plain, batch, steps, width, refine):
    options = {"refine": refine, "learn_forget_bias": True}
    actual = run_in_float32(batch, steps, width, **options)
    assert_close_for_their_size(actual, plain(run_in_float32, batch, steps, width, **options))


@pytest.mark.parametrize("checkpoint_every", [1, 10, 100])
@pytest.mark.parametrize("width", [64, 260])
def test_compiled_kernel_serves_checkpoints(plain, width, checkpoint_every):
    actual = run_in_float32(3, 63, width, checkpoint_every=checkpoint_every)
    assert_close_for_their_size(actual, plain(run_in_float32, 3, 63, width))


@pytest.mark.parametrize("width", [7, 260])
def test_compiled_kernel_works_in_pieces(monkeypatch, width):
    whole = run_in_float32(3, 63, width)
    for name in ("PIECE", "BLAS_PIECE"):
        monkeypatch.setattr(ur_lstm_kernel, name, 10)
    assert_close_for_their_size(run_in_float32(3, 63, width), whole, 1e-6)


def test_compiled_kernel_under_autocast_rounds_the_input_projection_only(plain):
    actual, expected = run_in_float32(3, 63, 64, autocast=True), plain(run_in_float32, 3, 63, 64, autocast=True)
    assert [y.dtype for y in actual] == [y.dtype for y in expected]
    assert_close_for_their_size(actual, expected, 0.02)  # the loop rounds the gradient of the projection, too


@pytest.mark.parametrize("scale", [50.0, 1e4])
def test_compiled_kernel_saturates_without_nan(plain, scale):
    actual = run_in_float32(3, 63, 64, scale)
    assert all(y.isfinite().all() for y in actual)
    # A gate's gradient f (1 - f) is what rounding left of 1 - f.
    assert_close_for_their_size(actual, plain(run_in_float32, 3, 63, 64, scale), 3e-4)


@pytest.mark.parametrize("width", [64, 260])
def test_compiled_kernel_passes_nan_on(width):
    x = draw(2, 20, D).float()
    x[1, 10, 0] = torch.nan
    is_nan = URLSTM(D, width)(x)[0].isnan().all(2)
    assert is_nan.tolist() == [[False] * 20, [False] * 10 + [True] * 10]


@pytest.mark.parametrize(("width", "tolerance"), [(64, 1e-6), (260, 1e-5)])  # BLAS adds in another order
def test_compiled_kernel_gives_the_same_with_any_number_of_threads(threads, width, tolerance):
    threads(1)
    alone = run_in_float32(5, 63, width)
    threads(2)
    assert_close_for_their_size(run_in_float32(5, 63, width), alone, tolerance)


def test_compiled_kernel_can_be_differentiated_twice_over():
    """The graph kept, a second backward pass finds what the first one found."""
    model, x = URLSTM(D, 64), draw(3, 63, D).float()
    score = model(x)[0].square().sum()
    first, second = (torch.autograd.grad(score, list(model.parameters()), retain_graph=True) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_compiled_kernel_runs_in_a_forked_process(threads):
    threads(2)
    model, x = URLSTM(D, H), draw(4, 63, D).float()
    expected = model(x)[0]
    loader = torch.utils.data.DataLoader(_Outputs(model, x), batch_size=None, num_workers=1)
    assert all(torch.equal(y, expected) for y in loader)


class _Outputs(torch.utils.data.Dataset):
    """A data set whose single item is what a model says of x."""

    def __init__(self, model: nn.Module, x: Tensor):
        self.model, self.x = model, x

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Tensor:
        # The kernel is to start two threads of its own; torch's, of which the fork left none, would be waited for.
        with torch.no_grad(), mock.patch.object(torch, "get_num_threads", return_value=2):
            return self.model(self.x)[0]


def test_without_numba_the_plain_loop_runs_and_says_so_once(monkeypatch, caplog):
    expected = run_in_float32(3, 63, H)
    monkeypatch.setitem(sys.modules, "models.ur_lstm_kernel", None)
    monkeypatch.setitem(sys.modules, "ur_lstm_kernel", None)
    monkeypatch.setattr(ur_lstm, "_compiled_scan", functools.cache(ur_lstm._compiled_scan.__wrapped__))
    with caplog.at_level(logging.WARNING):
        assert_close_for_their_size(run_in_float32(3, 63, H), expected)
        run_in_float32(3, 63, H)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "plain loop" in caplog.text
