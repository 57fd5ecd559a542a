"""A training step on clips, data and loop and all, against the same computation on clips already there."""

import io
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.classification_task import ClassificationTask, ClipBatch
from backbones.classifier import ClipBackbone, ClipClassifier
from backbones.config import ClassifySettings
from backbones.dataset import ClipDataset, Item
from backbones.film_index import Shape
from backbones.frame_store import open_film
from backbones.monitor import Monitor
from backbones.multigrid import schedule
from backbones.small_films import update_index, write_small_film
from benchmarks.measure import Row, take_turns
from models.clip_networks import clip_network
from recognition.films.synthetic import write_films
from recognition.training.loop import Loop, Progress

NETWORK, NUM_FRAMES, SIDE = "r3d_18", 16, 112
NUM_FILMS, FILM_S, BATCH = 2, 8, 2
NUM_STEPS, REPEATS = 5, 2  # of an epoch, and of it


class TimedTask(ClassificationTask):
    """Notes when each step of an epoch begins to compute."""

    began: list[float]

    def loss(self, model: nn.Module, batch: ClipBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        self.began.append(time.perf_counter())
        return super().loss(model, batch, step)


def clip_step(device: str) -> Iterator[Row]:
    """Epochs of a few steps of r3d_18 on clips of small films. A tenth is what data and loop may take.

    What the start of an epoch costs beside, whose first step is left out, is told: real ones have hundreds of steps.
    """
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator=device, devices=1, precision="32-true" if device == "cpu" else "bf16-mixed")
    settings = ClassifySettings.model_validate(
        {
            "data": {"list": "none", "workers": 1},
            "clip": {"frames": NUM_FRAMES, "side": SIDE},
            "training": {"batch_size": BATCH, "n_epochs": 100, "optimizer": "sgd", "learning_rate": 0.001},
        }
    )
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(io.StringIO()):  # the progress bar
        data = make_dataset(Path(folder), settings)
        torch.manual_seed(0)
        network = clip_network(NETWORK)
        model = ClipClassifier(ClipBackbone(network, (0.43, 0.39, 0.38), (0.23, 0.22, 0.22)), 2)
        phases = schedule(settings.multigrid, settings.training, settings.clip)
        monitor = Monitor(1, fabric.device, tells=False)
        task = TimedTask(model, data, data, fabric, settings, phases, set(), monitor)
        loop = Loop(task, fabric, settings.training)
        batches = [fabric.to_device(batch) for batch in task.batches(0, 0, lambda: False)]

        def compute(num_steps: int = NUM_STEPS) -> None:
            for batch in batches[:num_steps]:
                with fabric.autocast():
                    logits = model(batch.clips)
                task.optimizer.zero_grad()
                F.cross_entropy(logits.float(), batch.label).backward()
                task.optimizer.step()

        found: list[tuple[float, float]] = []  # seconds of a step, and of the epoch's start beside its first step

        def train() -> None:
            loop.progress, task.began, started = Progress(), [], time.perf_counter()
            loop.train_epoch()
            step = (time.perf_counter() - task.began[1]) / (NUM_STEPS - 1)
            found.append((step, task.began[1] - started - step))

        compute(1)  # memory and the optimiser's state are there then
        alone = take_turns([train, compute], REPEATS, warm_up=False)[1] / NUM_STEPS
    step, start = map(median, zip(*found, strict=True))
    note = f"{BATCH} x {NUM_FRAMES} x {SIDE} x {SIDE}; {step:.2f} s; beside it {start:.1f} s at the start of an epoch"
    yield Row(f"a training step of {NETWORK}", "its passes and update alone", step, alone, 0.9, note=note)


def make_dataset(folder: Path, settings: ClassifySettings) -> ClipDataset:
    """As many items as the steps take, of a few small films."""
    small = folder / "small"
    small.mkdir()
    for film in write_films(folder / "films", NUM_FILMS, FILM_S):
        write_small_film(film, small / film.name, Shape())
    update_index(small, Shape())
    readers = {path: open_film(path) for path in sorted(small.glob("*.mp4"))}
    films = [
        Item(path, label, path.stem, reader.num_frames, reader.fps, 0, reader.num_frames)
        for label, (path, reader) in enumerate(readers.items())
    ]
    return ClipDataset([films[k % NUM_FILMS] for k in range(BATCH * NUM_STEPS)], settings, readers)
