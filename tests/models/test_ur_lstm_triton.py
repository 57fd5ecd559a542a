"""The Triton kernels of the UR-LSTM against the plain loop, on a GPU or in Triton's interpreter on a CPU."""

import importlib.metadata
import importlib.util
import logging
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from test_ur_lstm import D, draw
from torch import Tensor

import ur_lstm
from models import gpu_paths
from ur_lstm import URLSTM, URLSTMCell

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if IS_INTERPRETED else "cuda"
has_triton = importlib.util.find_spec("triton") is not None
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
needs_kernels = pytest.mark.skipif(
    not has_triton or not (IS_INTERPRETED or torch.cuda.is_available()), reason="no CUDA device, or no Triton"
)


@pytest.mark.skipif(IS_INTERPRETED or torch.cuda.is_available(), reason="the kernels are tested as they are")
@pytest.mark.skipif(not has_triton, reason="no Triton: python -m pip install triton")
def test_kernels_give_in_the_interpreter_what_the_plain_loop_gives():
    tests = [f"{__file__}::{name}" for name in globals() if name.startswith("test_kernels_on_their_device")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    if tuple(map(int, importlib.metadata.version("triton").split(".")[:2])) < (3, 3):
        pytest.skip("the interpreter of this Triton does nothing with the tensors of today's torch")
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    if "only 0-dimensional arrays can be converted to Python scalars" in result.stdout:
        pytest.skip("this Triton's interpreter does not know this NumPy: python -m pip install -U triton 'numpy<2.4'")
    assert result.returncode == 0, result.stdout
    assert " skipped" not in result.stdout


@pytest.fixture
def kernels(monkeypatch):
    """Has layers run the kernels, on CPU tensors as well."""
    from models.ur_lstm_triton import fused_scan

    def scan(self: URLSTMCell, projected: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return fused_scan(projected, self.weight_hh, h, c, self.refine)

    def use() -> None:
        for name in ("_compiled_scan", "_gpu_scan"):
            monkeypatch.setattr(ur_lstm, name, lambda: None)
        monkeypatch.setattr(URLSTMCell, "scan", scan)

    return use


def run(batch: int, steps: int, width: int, autocast: bool = False, is_exact: bool = False, **options) -> list[Tensor]:
    """Outputs, last states and all gradients of a layer with inputs, states and weights drawn from fixed seeds."""
    torch.manual_seed(0)
    model = URLSTM(D, width, **options).to(DEVICE)
    model.layers[0].bias.data.copy_(draw(4 * width, seed=4))
    given = [draw(batch, steps, D), draw(1, batch, width, seed=2), draw(1, batch, width, seed=3)]
    given = [y.float().to(DEVICE) for y in given]
    if is_exact:
        model, given = model.double(), [y.double() for y in given]
    given = [y.requires_grad_() for y in given]
    with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
        y, (h, c) = model(given[0], tuple(given[1:]))
    score = sum((z * draw(*z.shape).to(z)).sum() for z in (y, h, c))
    gradients = torch.autograd.grad(score, [*given, *model.parameters()], materialize_grads=True)
    return [y, h, c, *gradients]


def assert_close_for_their_size(actual: list[Tensor], expected: list[Tensor], tolerance: float = 1e-5) -> None:
    """Within the tolerance of each tensor's largest number: sums of numbers of both signs lose digits."""
    for ours, theirs in zip(actual, expected, strict=True):
        limit = tolerance * (theirs.abs().max().item() or 1)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=limit, check_dtype=False)


@needs_kernels
@pytest.mark.gpu
@pytest.mark.parametrize("refine", [True, False])
@pytest.mark.parametrize(
    ("batch", "steps", "width"), [(1, 1, 8), (3, 2, 33), (17, 2, 64), (1, 37, 64), (3, 37, 8), (3, 5, 65), (2, 4, 140)]
)
def test_kernels_on_their_device_give_outputs_and_gradients_of_the_plain_loop(kernels, batch, steps, width, refine):
    expected = run(batch, steps, width, is_exact=True, refine=refine, learn_forget_bias=True)
    kernels()
    assert_close_for_their_size(run(batch, steps, width, refine=refine, learn_forget_bias=True), expected)


@needs_kernels
@pytest.mark.gpu
@pytest.mark.parametrize("piece", [1, 4, 7])
def test_kernels_on_their_device_work_in_graphs_of_some_steps(kernels, monkeypatch, piece):
    """On the CPU a graph does its steps one by one, on memory of its own as on a GPU."""
    from models import ur_lstm_triton

    expected = run(3, 9, 65, is_exact=True, learn_forget_bias=True)
    kernels()
    monkeypatch.setattr(ur_lstm_triton, "PIECE", piece)
    monkeypatch.setattr(ur_lstm_triton, "_graphs", {})
    for _ in range(2):
        assert_close_for_their_size(run(3, 9, 65, learn_forget_bias=True), expected)
    assert len(ur_lstm_triton._graphs) == 2  # forwards and backwards
    assert all(ur_lstm_triton._graphs.values())


@needs_kernels
@pytest.mark.gpu
def test_kernels_on_their_device_run_step_by_step_where_a_graph_fails(kernels, monkeypatch, caplog):
    from models import ur_lstm_triton

    expected = run(3, 9, 65, is_exact=True)
    kernels()
    monkeypatch.setattr(ur_lstm_triton, "PIECE", 4)
    monkeypatch.setattr(ur_lstm_triton, "_graphs", {})
    monkeypatch.setattr(ur_lstm_triton._Graph, "__init__", _fail)
    with caplog.at_level(logging.WARNING):
        assert_close_for_their_size(run(3, 9, 65), expected)
    assert caplog.text.count("one by one") == 1


def _fail(*args: object) -> None:
    raise RuntimeError("operation not permitted when stream is capturing")


@needs_kernels
@pytest.mark.gpu
@pytest.mark.parametrize("checkpoint_every", [1, 5, 100])
@pytest.mark.parametrize("width", [8, 65])
def test_kernels_on_their_device_serve_checkpoints(kernels, width, checkpoint_every):
    expected = run(3, 12, width, is_exact=True)
    kernels()
    assert_close_for_their_size(run(3, 12, width, checkpoint_every=checkpoint_every), expected)


@needs_kernels
@pytest.mark.gpu
@pytest.mark.parametrize("checkpoint_every", [None, 5])
def test_kernels_on_their_device_are_tried_before_they_are_taken(monkeypatch, caplog, checkpoint_every):
    from models import ur_lstm_triton

    def scan(self: URLSTMCell, projected: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return ur_lstm_triton.scan(ur_lstm._scan, projected, self.weight_hh, h, c, self.refine)

    expected = run(3, 12, 8, is_exact=True)
    for name in ("_compiled_scan", "_gpu_scan"):
        monkeypatch.setattr(ur_lstm, name, lambda: None)
    monkeypatch.setattr(URLSTMCell, "scan", scan)
    monkeypatch.setattr(gpu_paths, "DEVICE_TYPE", DEVICE)
    monkeypatch.setattr(ur_lstm_triton._path, "is_good", {})
    assert_close_for_their_size(run(3, 12, 8, checkpoint_every=checkpoint_every), expected)
    assert caplog.text == ""
    assert set(ur_lstm_triton._path.is_good.values()) == {True}


@needs_kernels
@pytest.mark.gpu
@pytest.mark.parametrize("width", [8, 65])
def test_kernels_on_their_device_round_the_input_projection_only_under_autocast(kernels, width):
    expected = run(3, 12, width, autocast=True)
    kernels()
    actual = run(3, 12, width, autocast=True)
    assert [y.dtype for y in actual] == [y.dtype for y in expected]
    assert_close_for_their_size(actual, expected, 0.01)  # gradients of the projection are rounded to 8 bits


@needs_kernels
@pytest.mark.gpu
@pytest.mark.parametrize("width", [8, 65])
def test_kernels_on_their_device_pass_nan_on_and_saturate_without_it(kernels, width):
    kernels()
    model, x = URLSTM(D, width).to(DEVICE), draw(2, 8, D).float().to(DEVICE)
    assert model(1e4 * x)[0].isfinite().all()
    x[1, 5, 0] = torch.nan
    assert model(x)[0].isnan().all(2).tolist() == [[False] * 8, [False] * 5 + [True] * 3]


@on_a_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("checkpoint_every", [None, 10, 100])
@pytest.mark.parametrize("width", [64, 140])
@pytest.mark.parametrize("num_steps", [37, 230])
def test_layer_on_a_gpu_runs_the_kernels_and_warns_of_nothing(caplog, num_steps, width, checkpoint_every, autocast):
    from models import ur_lstm_triton

    ur_lstm_triton._path.is_good.clear()
    with caplog.at_level(logging.WARNING):
        actual = run(3, num_steps, width, autocast, checkpoint_every=checkpoint_every)
        assert caplog.text == ""
    assert set(ur_lstm_triton._path.is_good.values()) == {True}
    with gpu_paths.using("none"):
        expected = run(3, num_steps, width, autocast, checkpoint_every=checkpoint_every)
    assert_close_for_their_size(actual, expected, 0.02 if autocast else 1e-4)


def test_without_triton_the_layer_says_that_it_runs_as_a_plain_loop(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "models.ur_lstm_triton", None)
    with caplog.at_level(logging.WARNING):
        assert ur_lstm._gpu_scan.__wrapped__() is None
    assert "plain loop on the GPU" in caplog.text
