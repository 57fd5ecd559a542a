"""A training step on clips, data and loop and all, against its forward and backward pass on clips already there."""

import io
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path

import torch
import torch.nn.functional as F

from backbones.classification_task import ClassificationTask
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
NUM_FILMS, FILM_S, BATCH, NUM_STEPS = 2, 8, 2, 3


def clip_step(device: str) -> Iterator[Row]:
    """Three steps of r3d_18 on clips of small films. A tenth is what data and loop may take."""
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
        task = ClassificationTask(model, data, data, fabric, settings, phases, set(), monitor)
        loop = Loop(task, fabric, settings.training)
        batches = [fabric.to_device(batch) for batch in task.batches(0, 0, lambda: False)]

        def passes() -> None:
            for batch in batches:
                with fabric.autocast():
                    logits = model(batch.clips)
                F.cross_entropy(logits.float(), batch.label).backward()

        def train() -> None:
            loop.progress = Progress()
            loop.train_epoch()

        whole, alone = take_turns([train, passes])
    note = f"{BATCH} x {NUM_FRAMES} x {SIDE} x {SIDE}; {whole / NUM_STEPS:.2f} s a step; "
    note += f"{loop.progress.waited / loop.progress.seconds:.1%} waiting for data"
    yield Row(f"a training step of {NETWORK}", "its forward and backward pass alone", whole, alone, 0.9, note=note)


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
