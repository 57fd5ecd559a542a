"""Every shipped configuration through the step that training takes, in each precision, beside float64."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from benchmarks import tiny
from benchmarks.gpu_check.correctness import ALLOWED, FOLDER, SHIPPED, TINY, Step, check, correctness, errors
from models.linear_attention import _Conv1d

GPU = pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
REFERENCES: dict[str, Step] = {}
MLSTM = FOLDER / "mlstm.yaml"


@pytest.mark.parametrize(
    ("device", "precision"),
    [("cpu", 32), ("cpu", "bf16"), *(pytest.param("cuda", precision, marks=GPU) for precision in ALLOWED)],
)
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_shipped_configuration_trains_as_in_float64(path: Path, device: str, precision: str | int):
    line = check(path, device, precision, TINY, REFERENCES)
    assert line["is_good"], line
    assert line["output error"] > 1e-9  # or the reference is none


@pytest.mark.parametrize(("precision", "scale"), [(32, 1.01), ("bf16", 1.5)])
def test_wrong_gradient_is_found_and_named(precision, scale, monkeypatch):
    right = _Conv1d.backward

    def backward(ctx, d_y):
        d_x, d_weight, d_bias = right(ctx, d_y)
        return d_x, d_weight if d_y.dtype == torch.float64 else scale * d_weight, d_bias

    monkeypatch.setattr(_Conv1d, "backward", staticmethod(backward))
    line = check(MLSTM, "cpu", precision, TINY)
    assert (line["is_good"], line["note"]) == (False, "blocks.0.mixer.conv1d.weight")
    assert line["output error"] < line["allowed output error"]
    assert line["gradient error"] == pytest.approx(scale - 1, rel=0.2)


def test_wrong_output_is_found(monkeypatch):
    right = torch.nn.functional.silu
    monkeypatch.setattr("models.mlstm.F.silu", lambda x: right(x) * (1 if x.dtype == torch.float64 else 1.001))
    line = check(MLSTM, "cpu", 32, TINY)
    assert line["output error"] > line["allowed output error"]
    assert not line["is_good"]


def test_gradient_that_is_not_a_number_is_the_worst():
    exact = Step(torch.ones(2), {"a": torch.ones(3), "b": torch.ones(3), "c": torch.ones(3)})
    step = Step(torch.ones(2), {"a": torch.zeros(3), "b": torch.full((3,), torch.nan), "c": torch.ones(3)})
    output, gradient, worst = errors(step, exact, ALLOWED[32])
    assert (output, worst) == (0, "b")
    assert not gradient < ALLOWED[32].gradient


def test_configuration_that_fails_is_a_line_and_others_follow(monkeypatch):
    def fail(*args: object, **settings: object) -> None:
        raise RuntimeError("CUDA error: an illegal\nmemory access")

    monkeypatch.setattr("models.mlstm.gated_linear_attention", fail)
    monkeypatch.setattr("benchmarks.gpu_check.correctness.SHIPPED", [MLSTM, FOLDER / "demo/transformer.yaml"])
    monkeypatch.setattr(tiny, "is_tiny", True)
    lines = list(correctness("cpu", 60))
    assert [(line["what"], line["is_good"]) for line in lines] == [
        ("mlstm.yaml, 32", False),
        ("mlstm.yaml, bf16", False),
        ("demo/transformer.yaml, 32", True),
        ("demo/transformer.yaml, bf16", True),
    ]
    assert [line.keys() for line in lines] == [lines[0].keys()] * 4
    assert (lines[0]["output error"], lines[0]["gradient error"]) == (None, None)
    assert lines[0]["note"] == "RuntimeError: CUDA error: an illegal memory access"


def test_settings_of_torch_are_as_before():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    try:
        assert check(MLSTM, "cpu", 32, TINY)["is_good"]
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("high", before[1])
    finally:
        torch.set_float32_matmul_precision(before[0])


def test_nothing_is_imported_that_films_and_figures_need():
    code = "import sys, benchmarks.gpu_check.correctness; print(*sys.modules)"
    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    needless = {"av", "scenedetect", "wandb", "yt_dlp", "cv2", "matplotlib", "numba", "pandas", "torchvision"}
    assert needless & set(made.stdout.split()) == set()
