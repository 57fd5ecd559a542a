"""How much a linear layer reads from an eye: logistic regression on what it says of whole films."""

from argparse import Namespace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.dataset import ClipDataset
from backbones.items import open_films
from backbones.networks import build_backbone
from backbones.retrieve import settings_of
from backbones.views import Views, film_features
from recognition.training.devices import launch

NUM_CLIPS = 4
PENALTY = 1e-3  # times the sum of squares of the weights


def linear_probe(run: Path) -> float:
    """Share of the test films of a run's list whose class a linear layer tells from the mean features of NUM_CLIPS
    clips of each; it learns from all training films."""
    config = settings_of(Namespace(run=run, list=None, videos=None, random=False, device=None))
    fabric, films = launch(config.training), open_films(config, show_bar=False)
    backbone, _ = build_backbone(config)
    fabric.to_device(backbone)
    found = []
    for items in (films.train, films.test):
        data = ClipDataset(items, config, films.readers)
        features = film_features(fabric, backbone, data, config, Views(NUM_CLIPS, 1))
        found.append((features, torch.tensor([item.label for item in items])))
    (train, label), (test, wanted) = found
    deviation, mean = torch.std_mean(train, 0)
    train, test = ((y - mean) / deviation.clamp(min=1e-6) for y in (train, test))
    weight, bias = regression(train, label, len(films.classes))
    return float(((test @ weight + bias).argmax(1) == wanted).double().mean())


def regression(y: Tensor, label: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Weights (D, C) and bias (C,) of the best linear layer for features (N, D), by L-BFGS."""
    weight = torch.zeros(y.shape[1], num_classes, dtype=y.dtype, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=y.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200)

    def loss() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(y @ weight + bias, label) + PENALTY * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(loss)
    return weight.detach(), bias.detach()
