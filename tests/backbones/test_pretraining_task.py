"""Pre-training as a task of the loop: against its parts called by hand, stopped and gone on with, and what it tells."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from backbones.byol import VideoBYOL
from backbones.clips import clip_numbers, random_start
from backbones.config import PretrainSettings
from backbones.dataset import ClipDataset, Item
from backbones.frame_store import HeldFilm
from backbones.monitor import Monitor
from backbones.networks import build_backbone
from backbones.pretrain import recall
from backbones.pretraining_task import PretrainingTask
from models.key_value_memory import prediction_loss
from recognition.common.stopping import Stopped
from recognition.training.loop import Loop
from recognition.training.runs import Run

NUM_ITEMS, NUM_FRAMES, SIDE, SPAN, BATCH, STEPS_EPOCH = 9, 12, 32, 7, 4, 2  # an item of each epoch is left over
STILL = {"area": None, "flip": 0, "jitter": [0, 0, 0, 0], "grey": 0, "blur": 0}  # crops of 32 x 32 films are whole
ADAMW = {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.1}
LARS = {"optimizer": "lars", "learning_rate": 2.0, "nesterov": True}


@pytest.fixture
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


def settings(predictor: str = "memory", workers: int = 0, **others) -> PretrainSettings:
    byol = {"predictor": predictor, "projection": 8, "hidden": 12, "slots": 10, "concepts": 9, "target_momentum": 0.9}
    training = LARS | {"n_epochs": 3, "batch_size": BATCH, "warmup_epochs": 1, "device": "cpu", "monitor_epochs": 0}
    return PretrainSettings(
        name="run",
        data={"workers": workers},
        clip={"frames": 4, "fps": None, "stride": 2, "side": SIDE, "keep_aspect": True},
        network={"name": "r3d_mini", "width": 4},
        augmentation=others.pop("augmentation", {}),
        test={"clips": 2, "batch_size": 4},
        byol=byol | others.pop("byol", {}),
        training=training | others,
    )


def films(num: int = NUM_ITEMS, seed: int = 0) -> dict[Path, HeldFilm]:
    pictures = np.random.default_rng(seed).integers(0, 256, (num, NUM_FRAMES, SIDE, SIDE, 3), np.uint8)
    return {Path(f"film_{k}.mp4"): HeldFilm(film, 15) for k, film in enumerate(pictures)}


def data_set(config: PretrainSettings, readers: dict[Path, HeldFilm] | None = None) -> ClipDataset:
    readers = readers or films()
    items = [Item(path, k % 2, path.stem, NUM_FRAMES, 15, 0, NUM_FRAMES) for k, path in enumerate(readers)]
    return ClipDataset(items, config, readers)


def build(config: PretrainSettings) -> VideoBYOL:
    backbone, _ = build_backbone(config)
    torch.manual_seed(config.training.seed)
    return VideoBYOL(backbone, backbone.num_features, config.byol)


def task_of(config: PretrainSettings, fabric: Fabric, retrieval=None) -> PretrainingTask:
    monitor = Monitor(config.data.workers, tells=False)
    return PretrainingTask(build(config), data_set(config), fabric, config, monitor, retrieval)


def train(config: PretrainSettings, fabric: Fabric, folder: Path, stops: list[int]) -> list[dict]:
    """Train, stopped after some steps and gone on with each time in a new loop; the metrics of the epochs."""
    told, run = [], Run(folder)
    run.last_file.parent.mkdir(parents=True, exist_ok=True)
    for stop_at in [*stops, -1]:
        loop = Loop(task_of(config, fabric), fabric, config.training, run, show_bar=False)
        loop.restore()
        step = loop._step

        def stopped(number, *args, step=step, stop_at=stop_at):
            numbers, stops, keeps = step(number, *args)
            return numbers, stops or number == stop_at, keeps

        loop._step = stopped
        try:
            loop.fit(told.append)
        except Stopped:
            continue
    return [{key: value for key, value in line.items() if key != "seconds"} for line in told]


def state_of(folder: Path) -> dict:
    state = torch.load(Run(folder).last_file, weights_only=True)
    del state["progress"]
    return state


@pytest.mark.parametrize(
    ("predictor", "optimiser", "workers"), [("memory", LARS, (0, 2)), ("perceptron", ADAMW, (2, 0))]
)
def test_stopped_after_any_step_it_goes_on_to_the_last_bit_whoever_reads(
    predictor: str, optimiser: dict, workers: tuple[int, int], fabric: Fabric, tmp_path: Path
):
    whole, stopped = (
        train(settings(predictor, number, **optimiser), fabric, tmp_path / name, stops)
        for name, number, stops in zip(("whole", "run"), workers, ([], list(range(6))), strict=True)
    )
    assert whole == stopped
    assert [line["step"] for line in whole] == [2, 4, 6]
    states = state_of(tmp_path / "whole"), state_of(tmp_path / "run")
    torch.testing.assert_close(*states, rtol=0, atol=0)
    model, others = states[0]["model"], states[0]["others"][0]
    assert model["alignment.centre"].abs().sum() > 0
    mean = "encoder.backbone.network.stem.1.running_mean"
    assert not torch.equal(others["target"][mean], model[mean])  # the target has seen other clips with other weights
    assert ("slots" in others) == (predictor == "memory")


def clip_pairs(dataset: ClipDataset, epoch: int, step: int) -> list[Tensor]:
    """The two clips of each item of a step, (B, T, 3, S, S) each, by the rule of seeds and nothing of the loader."""
    order = np.random.default_rng((0, epoch)).permutation(NUM_ITEMS)[step * BATCH : (step + 1) * BATCH]
    pairs = []
    for number in order.tolist():
        film, rng = dataset.readers[dataset.items[number].path], np.random.default_rng((0, epoch, number))
        starts = [random_start(0, NUM_FRAMES, SPAN, rng) for _ in range(2)]
        pairs.append([torch.from_numpy(film.frames(clip_numbers(at, 4, 2, NUM_FRAMES))) for at in starts])
    return [torch.stack(clips).movedim(-1, 2) for clips in zip(*pairs, strict=True)]


@pytest.mark.parametrize("predictor", ["memory", "perceptron"])
def test_three_steps_are_the_parts_called_by_hand(predictor: str, fabric: Fabric):
    sgd = {"optimizer": "sgd", "learning_rate": 0.05, "weight_decay": 0.1, "nesterov": True}
    config = settings(predictor, **sgd, augmentation=STILL, warmup_epochs=0, schedule="constant")
    task, model = task_of(config, fabric), build(config)
    loop = Loop(task, fabric, config.training, show_bar=False)
    target = copy.deepcopy(model.encoder)
    optimizer = torch.optim.SGD(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1]},
            {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=0.05,
        momentum=0.9,
        weight_decay=0.1,
        nesterov=True,
    )
    losses = []
    for step in range(4):
        x = clip_pairs(task.train_set, *divmod(step, STEPS_EPOCH))
        with torch.no_grad():
            (u_1, t_1), (u_2, t_2) = (target(clips) for clips in x)
        (y_1, z_1), (y_2, z_2) = (model.encoder(clips) for clips in x)
        loss = (prediction_loss(model.predictor(z_1), t_2) + prediction_loss(model.predictor(z_2), t_1)) / 2
        of_1, of_2 = model.alignment(z_1, y_1, t_2, u_2), model.alignment(z_2, y_2, t_1, u_1)
        loss = loss + 0.01 * (of_1[0] + of_2[0]) / 2 + 0.01 * (of_1[1] + of_2[1]) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        share = 0.1 * (math.cos(math.pi * step / 6) + 1) / 2
        for ours, theirs in zip(target.parameters(), model.encoder.parameters(), strict=True):
            ours.data.lerp_(theirs.data, share)
        losses.append(loss.item())
    for epoch in range(2):
        metrics = loop.train_epoch()
        assert metrics["train_loss"] == pytest.approx(np.mean(losses[2 * epoch : 2 * epoch + 2]), abs=1e-5)
        task.validate(loop.model, epoch)
        loop.progress.epoch, loop.progress.step, loop.progress.totals = epoch + 1, 0, {}
    torch.testing.assert_close(task.online.state_dict(), model.state_dict(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(task.target.encoder.state_dict(), target.state_dict(), rtol=1e-4, atol=1e-5)


def test_the_target_gets_no_gradient_and_has_no_state_in_the_optimiser(fabric: Fabric):
    task = task_of(settings(**ADAMW), fabric)
    loop = Loop(task, fabric, task.config.training, show_bar=False)
    loop.train_epoch()
    assert all(p.grad is None and not p.requires_grad for p in task.target.parameters())
    learning = {id(p) for p in task.online.parameters()}
    assert {id(p) for group in loop.optimizer.param_groups for p in group["params"]} == learning
    assert {id(p) for p in task.optimizer.state} <= learning


def digest(*modules: nn.Module) -> list[dict]:
    return copy.deepcopy([{k: v for k, v in module.state_dict().items() if "extra" not in k} for module in modules])


def test_validation_changes_nothing_but_takes_in_the_last_step_and_counts_anew(fabric: Fabric):
    config = settings(monitor_epochs=1)
    asked = []
    task = task_of(config, fabric, lambda: asked.append(1) or {"recall_at_1": 0.5})
    loop = Loop(task, fabric, config.training, show_bar=False)
    loop.train_epoch()
    before = digest(task.online), copy.deepcopy(task.optimizer.state_dict()), torch.get_rng_state()
    target = digest(task.target)
    found = task.validate(loop.model, 0)
    torch.testing.assert_close(
        (digest(task.online), task.optimizer.state_dict(), torch.get_rng_state()), before, rtol=0, atol=0
    )
    assert found.scores.keys() == {"slots_used", "recall_at_1"}
    followed = digest(task.target)
    assert any(not torch.equal(followed[0][name], value) for name, value in target[0].items())
    assert task.validate(loop.model, 0).scores["slots_used"] == 0
    torch.testing.assert_close(digest(task.target), followed, rtol=0, atol=0)
    assert len(asked) == 2


def test_retrieval_sees_the_backbone_in_evaluation_and_leaves_it_as_it_was(fabric: Fabric):
    config = settings()
    task = task_of(config, fabric)
    items = task.train_set.items
    opened = type("Films", (), {"train": items[:6], "validation": [], "test": items[6:], "readers": films()})
    before = digest(task.online)
    find = recall(opened, task.online.encoder.backbone, config, fabric)
    assert find() == find()
    torch.testing.assert_close(digest(task.online), before, rtol=0, atol=0)
    assert recall(type("Films", (), {"validation": [], "test": []}), None, config, fabric) is None


@pytest.mark.parametrize(("every", "epochs"), [(0, []), (1, [0, 1, 2]), (2, [1, 2]), (9, [2])])
def test_retrieval_is_asked_for_every_so_many_epochs_and_in_the_last(every: int, epochs: list[int], fabric: Fabric):
    task = task_of(settings(monitor_epochs=every), fabric, lambda: {"recall_at_1": 0.5})
    task._follow = lambda num_done: None
    assert [epoch for epoch in range(3) if "recall_at_1" in task.validate(task.model, epoch).scores] == epochs


def test_an_epoch_tells_of_collapse_and_of_the_memory(fabric: Fabric, tmp_path: Path):
    told = {"loss", "spread", "cosine", "prediction", "reconstruction", "alignment", "address_entropy"}
    first, *_ = train(settings(n_epochs=1), fabric, tmp_path / "memory", [])
    assert first.keys() == {"epoch", "step", "learning_rate", "validation_slots_used", *(f"train_{k}" for k in told)}
    assert 0 < first["train_spread"] <= 1.2
    assert 0 < first["train_address_entropy"] <= math.log(10)
    assert 1 <= first["validation_slots_used"] <= 10
    first, *_ = train(settings("perceptron", n_epochs=1, byol={"concepts": 0}), fabric, tmp_path / "perceptron", [])
    assert first.keys() == {"epoch", "step", "learning_rate"} | {
        f"train_{k}" for k in ("loss", "spread", "cosine", "prediction")
    }
