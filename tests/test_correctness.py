"""Every shipped configuration in half precision, through the step that training takes, beside the same in float32."""

from pathlib import Path

import pytest
import torch
from conftest import ROOT
from torch import Tensor

from models import CONFIGS, PUBLISHED_NAMES, build_model
from recognition.config import check_model, load_config
from recognition.dataset import open_split
from recognition.training import Progress, launch, train_epoch

SHIPPED = sorted(path for path in (ROOT / "config-files").rglob("*.yaml") if path.parent.name != "sweeps")
GPU = pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize(
    ("device", "precision", "rounding"),
    [
        pytest.param("cpu", "bf16", 2**-8),
        pytest.param("cuda", "bf16", 2**-8, marks=GPU),
        pytest.param("cuda", "16", 2**-11, marks=GPU),
    ],
)
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_shipped_configuration_trains_in_half_precision_as_in_full(path, device, precision, rounding, small_bank):
    expected, expected_gradients = one_step(path, small_bank, "cpu", "32")
    logits, gradients = one_step(path, small_bank, device, precision)
    # Several roundings follow each other. What is nothing beside all gradients together may be lost.
    assert (logits - expected).norm() < 8 * rounding * expected.norm()
    smallest = 1e-3 * torch.cat([gradient.flatten() for gradient in expected_gradients.values()]).norm()
    errors = {name: (gradients[name] - exact).norm() for name, exact in expected_gradients.items()}
    allowed = {name: smallest + 32 * rounding * exact.norm() for name, exact in expected_gradients.items()}
    assert {name: error.item() for name, error in errors.items() if not error < allowed[name]} == {}


def one_step(path: Path, bank: Path, device: str, precision: str) -> tuple[Tensor, dict[str, Tensor]]:
    """The logits of a small model's first step of training, and the gradient of every parameter, on the CPU."""
    words = [
        *(f"dataset.{split}_indices_file={bank}/{split}_indices.h5" for split in ("train", "test")),
        *(f"dataset.video_path={bank}", "model.args.d_embed=64", "training.n_epochs=1", "training.batch_size=24"),
        *(f"training.device={device}", f"training.precision={precision}", "training.num_workers=0"),
        "training.gradient_clip=null",
    ]
    config = check_model(load_config(path, words), CONFIGS, PUBLISHED_NAMES, path)
    fabric, dataset = launch(config.training), open_split(config.dataset, "train")
    torch.manual_seed(0)
    settings = CONFIGS[config.model.model](**config.model.args)
    model = build_model(config.model.model, settings, dataset.bank.num_features, dataset.num_probes)
    model.standardise(*dataset.bank.statistics())
    logits: list[Tensor] = []
    model.register_forward_hook(lambda module, given, made: logits.append(made.detach().float().cpu()))
    wrapped, optimizer = fabric.setup(model, torch.optim.AdamW(model.parameters()))
    train_epoch(fabric, wrapped, optimizer, dataset, config.training, Progress(), keep=lambda: None)
    [first] = logits
    return first, {name: parameter.grad.cpu() for name, parameter in model.named_parameters()}
