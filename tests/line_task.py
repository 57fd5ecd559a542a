"""A second task for the training loop, which has nothing of episodes: a line through points.

As a script it trains in two processes: python tests/line_task.py FOLDER
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import nn

from recognition.common.stopping import Stopped
from recognition.training.config import TrainingConfig
from recognition.training.devices import launch
from recognition.training.loop import Loop, Validation
from recognition.training.runs import Run

CONFIG = TrainingConfig(n_epochs=3, seed=5, device="cpu", num_devices=1)
NUM_STEPS = [2, 3, 1]  # of the epochs


class Memory(nn.Module):
    """Keeps all points that it has seen."""

    def __init__(self):
        super().__init__()
        self.points = torch.empty(0, 1)

    def forward(self, points):
        self.points = torch.cat([self.points, points])
        return self.points.mean()

    def get_extra_state(self):
        return self.points

    def set_extra_state(self, points):
        self.points = points


class Line:
    """Fits y = 3x - 1, drawn towards an average of its own weights. Each process has its points, noise and memory.

    At given steps it asks for a stop, or its loss is infinite. The best epoch is that with a slope nearest to `wanted`.
    """

    def __init__(self, fabric: Fabric, stop_at: int = -1, infinite_at: int = -1, wanted: float = 3):
        torch.manual_seed(CONFIG.seed)
        self.fabric, self.stop_at, self.infinite_at, self.wanted = fabric, stop_at, infinite_at, wanted
        self.model, self.average, self.memory = nn.Linear(1, 1), nn.Linear(1, 1), Memory()
        self.optimizer = torch.optim.SGD(self.model.parameters(), momentum=0.5)
        self.others = {"average": self.average, "memory": self.memory}

    def num_steps(self, epoch):
        return NUM_STEPS[epoch]

    def batches(self, epoch, first, is_stop_asked):
        for step in range(first, NUM_STEPS[epoch]):
            if sum(NUM_STEPS[:epoch]) + step == self.stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            generator = torch.Generator().manual_seed(100 * self.fabric.global_rank + 10 * epoch + step)
            yield torch.randn(2 + epoch + step, 1, generator=generator)  # of another size each time

    def learning_rate(self, step, num_steps):
        return 0.1 * (1 - step / num_steps)

    def loss(self, model, x, step):
        with torch.no_grad():
            for mean, weight in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(weight, 1 - 0.9 / (step + 1))
        error = model(x) - (3 * x - 1) + 0.01 * torch.randn_like(x) + 0.1 * self.memory(x)
        pull = (model(x) - self.average(x)).square()
        loss = (error.square() + 0.1 * pull).mean() / (step != self.infinite_at)
        sums = {"distance": error.abs().sum().double(), "pull": pull.sum().double()}
        return loss, {**{k: v.detach() for k, v in sums.items()}, "count": torch.tensor(float(len(x))).double()}

    def validate(self, model, epoch):
        weight = self.model.weight.item()
        return Validation({"slope": weight, "draw": torch.rand(()).item()}, [-abs(weight - self.wanted)])


def train(fabric: Fabric, folder: Path, stops: list[int], **task) -> list[dict]:
    """Train, stopped at some steps and gone on with each time in a new loop; returns the metrics of the epochs."""
    told, run = [], Run(folder)
    run.last_file.parent.mkdir(parents=True, exist_ok=True)
    for stop_at in [*stops, -1]:
        loop = Loop(Line(fabric, stop_at, **task), fabric, CONFIG, run, show_bar=False)
        loop.restore()
        try:
            loop.fit(told.append)
        except Stopped:
            continue
    return told


if __name__ == "__main__":
    fabric, folder = launch(CONFIG.model_copy(update={"num_devices": 2})), Path(sys.argv[1])
    metrics = {name: train(fabric, folder / name, stops) for name, stops in (("whole", []), ("stopped", [0, 3, 4]))}
    if fabric.is_global_zero:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    fabric.barrier()
