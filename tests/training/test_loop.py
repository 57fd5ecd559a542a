"""The training loop by itself: gradients that overflow, and what torch is told of several processes."""

import warnings
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import Tensor, nn

from models import CONFIGS, build_model
from recognition.common.command_line import Failure
from recognition.episodes.dataset import EpisodeDataset
from recognition.training.config import DatasetConfig, TrainingConfig
from recognition.training.data import open_split
from recognition.training.devices import _SYNC_BUFFERS, precision_of
from recognition.training.episode_task import EpisodeTask
from recognition.training.loop import Loop

CONFIG = TrainingConfig(n_epochs=1, batch_size=4, num_workers=0, device="cpu", gradient_clip=1.0)


@pytest.fixture
def episodes(small_bank: Path) -> EpisodeDataset:
    paths = {f"{split}_indices_file": str(small_bank / f"{split}_indices.h5") for split in ("train", "test")}
    return open_split(DatasetConfig(**paths, video_path=str(small_bank)), "train")


def train(fabric: Fabric, model: nn.Module, episodes: EpisodeDataset) -> dict[str, Tensor]:
    """One epoch; returns by how much each parameter moved."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    Loop(EpisodeTask(model, episodes, episodes, fabric, CONFIG), fabric, CONFIG).train_epoch()
    return {name: (parameter.detach() - before[name]).abs().max() for name, parameter in model.named_parameters()}


def build(episodes: EpisodeDataset) -> nn.Module:
    torch.manual_seed(0)
    settings = CONFIGS["transformer"](d_embed=8)
    return build_model("transformer", settings, episodes.bank.num_features, episodes.num_probes)


@pytest.mark.parametrize(("scale", "overflows"), [(2.0**60, True), (2.0**8, False)])
def test_float16_skips_a_step_whose_scaled_gradients_overflow_instead_of_ending(scale, overflows, episodes):
    """The scaler starts high and finds its scale by such steps, of which the first may be one."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    fabric = Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu", scaler))
    moves = train(fabric, build(episodes), episodes)
    assert all(move.isfinite() for move in moves.values())
    assert any(moves.values()) is not overflows
    num_steps = len(episodes) // CONFIG.batch_size
    assert scaler.get_scale() == (scale / 2**num_steps if overflows else scale)


class Listener(nn.Module):
    """Gives zeros, and keeps what it is given."""

    def __init__(self, num_probes: int):
        super().__init__()
        self.shift, self.heard = nn.Parameter(torch.zeros(num_probes)), []

    def forward(self, features: Tensor) -> Tensor:
        self.heard.append(features)
        return self.shift.expand(len(features), -1)


@pytest.mark.parametrize("precision", [32, "bf16"])
def test_features_come_to_the_model_as_they_are_stored(precision, episodes):
    """Fabric rounds what a model is given to bfloat16, which has 3 bits less."""
    model = Listener(episodes.num_probes)
    train(Fabric(accelerator="cpu", devices=1, plugins=precision_of(precision, "cpu")), model, episodes)
    assert {features.dtype for features in model.heard} == {episodes.bank.dtype} == {torch.float16}


class Steep(nn.Module):
    """Gives what it is given; its gradient is infinite."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.shift = model, nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        return self.model(features) + self.shift.sqrt()


def test_gradients_that_are_not_finite_are_told_with_their_step_before_they_spoil_weights(episodes):
    model = Steep(build(episodes))
    with pytest.raises(Failure, match=r"step 1: the loss is 0\.\d+, but the norm of its gradients inf"):
        train(Fabric(accelerator="cpu", devices=1), model, episodes)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_torch_has_nothing_to_say_of_how_buffers_are_kept(tmp_path: Path):
    """It warned in each process of every run."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = nn.parallel.DistributedDataParallel(nn.BatchNorm1d(3), **{_SYNC_BUFFERS: False})
        assert not model.will_sync_module_buffers()
    finally:
        torch.distributed.destroy_process_group()
