"""Films of three classes in memory, and a small training that names them, for several test files."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from backbones.classifier import ClipClassifier
from backbones.classify import build_classifier
from backbones.config import ClassifySettings
from backbones.dataset import Item
from backbones.frame_store import HeldFilm
from backbones.items import Films
from backbones.networks import build_backbone
from backbones.tasks import make_task
from recognition.common.stopping import Stopped
from recognition.training.loop import Loop
from recognition.training.runs import Run

CLASSES = ["bright", "dark", "red"]
LOOKS = np.array([(170, 170, 170), (60, 60, 60), (190, 60, 60)])
SMALL: dict[str, dict[str, Any]] = {
    "data": {"list": "list.csv", "workers": 0},
    "clip": {"frames": 4, "stride": 2, "side": 32},
    "network": {"name": "r3d_mini", "width": 4},
    "test": {"clips": 2, "crops": 1, "batch_size": 4},
    "training": {
        "optimizer": "sgd",
        "learning_rate": 0.05,
        "schedule": "constant",
        "n_epochs": 2,
        "warmup_epochs": 0.0,
        "batch_size": 4,
        "device": "cpu",
    },
}


def settings(**sections: dict[str, Any]) -> ClassifySettings:
    """Those of a small training, with others for some keys of some sections."""
    merged = {name: SMALL.get(name, {}) | sections.get(name, {}) for name in {**SMALL, **sections}}
    return ClassifySettings(name="small", **merged)


def held_films(num_train: int = 14, num_validation: int = 5, num_test: int = 4, num_frames: int = 14) -> Films:
    """Noise about the colour of each class, at 30 frames a second, 40 x 48 pixels."""
    readers: dict[Path, Any] = {}
    items = []
    for k in range(num_train + num_validation + num_test):
        noise = np.random.default_rng(k).integers(-50, 51, (num_frames, 40, 48, 3))
        path = Path(f"film_{k}.mp4")
        readers[path] = HeldFilm((LOOKS[k % 3] + noise).astype(np.uint8), 30.0)
        items.append(Item(path, k % 3, f"film_{k}", num_frames, 30.0, 0, num_frames))
    train, rest = items[:num_train], items[num_train:]
    return Films(train, rest[:num_validation], rest[num_validation:], CLASSES, [], readers)


def one_device() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


def classifier(config: ClassifySettings, films: Films) -> tuple[ClipClassifier, set[str]]:
    backbone, loaded = build_backbone(config)
    return build_classifier(config, backbone, films), loaded


def loop_of(config: ClassifySettings, films: Films, run: Run | None = None) -> Loop:
    """What trains as the command does."""
    fabric = one_device()
    model, loaded = classifier(config, films)
    task, epochs = make_task(model, films, fabric, config, loaded)
    training = config.training.model_copy(update={"n_epochs": epochs})
    return Loop(task, fabric, training, run, show_bar=False)


def trained(
    config: ClassifySettings, films: Films, folder: Path, stops: Sequence[int] = ()
) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Tensor]]:
    """Train, stopped after some steps and gone on with each time in a new loop: metrics without times, the last
    checkpoint without them, and the best weights."""
    told: list[dict[str, Any]] = []
    run = Run(folder)
    run.last_file.parent.mkdir(parents=True)
    for stop_at in [*stops, -1]:
        loop = loop_of(config, films, run)
        loop.restore()
        stop_at_step(loop.task, stop_at)
        try:
            loop.fit(told.append)
        except Stopped:
            assert stop_at >= 0
        else:
            assert stop_at < 0, f"was not stopped at {stop_at}"
    state = torch.load(run.last_file, weights_only=True)
    for line in (*told, state["progress"]):
        line.pop("seconds")
    state["progress"].pop("waited")
    return told, state, run.load_best()


def stop_at_step(task: Any, number: int) -> None:
    """Let a task ask for a stop while it computes the loss of a step."""
    loss = task.loss

    def stopping(model: Any, batch: Any, step: int) -> Any:
        if step == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(model, batch, step)

    task.loss = stopping
