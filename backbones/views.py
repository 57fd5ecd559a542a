"""What a network says of whole films: the mean over several views of each, all seen alike every time.

A view is a clip and a crop of it. Shapes: N films, V views of each, T frames, S pixels a side, K classes, D features.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from backbones.config import BackboneSettings
from backbones.loader import made_in_order

if TYPE_CHECKING:
    from backbones.dataset import ClipDataset


class Views(NamedTuple):
    """How a film is looked at: clips evenly in time, and so many crops of each, 1 or 3."""

    clips: int
    crops: int


class Said(NamedTuple):
    """What a classifier says of films, on the CPU."""

    probabilities: Tensor  # (N, K) float64, the mean of the views' softmaxes
    view_right: Tensor  # (N, 2) float64, shares of a film's views that have its class first, and among the first five


def class_answers(
    fabric: Fabric, model: nn.Module, dataset: "ClipDataset", config: BackboneSettings, views: Views
) -> Said:
    """A classifier's answers for the items of a data set, the same in all processes, which share the work."""

    def of_films(logits: Tensor, label: Tensor) -> Tensor:
        is_right = logits.topk(min(5, logits.shape[2]), dim=2).indices == label[:, None, None]
        right = torch.stack([is_right[..., 0], is_right.any(2)], 2).double().mean(1)
        return torch.cat([logits.double().softmax(2).mean(1), right], 1)

    rows = _over_films(fabric, model, dataset, config, views, of_films)
    return Said(rows[:, :-2], rows[:, -2:])


def film_features(
    fabric: Fabric, model: nn.Module, dataset: "ClipDataset", config: BackboneSettings, views: Views
) -> Tensor:
    """A backbone's features of the items of a data set, (N, D) float64 on the CPU: the mean over views, not of unit
    length. The same in all processes, which share the work."""
    return _over_films(fabric, model, dataset, config, views, lambda features, label: features.double().mean(1))


@torch.inference_mode()
def _over_films(
    fabric: Fabric,
    model: nn.Module,
    dataset: "ClipDataset",
    config: BackboneSettings,
    views: Views,
    of_films: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Rows (N, ...) float64 of all films: `of_films` of what the model says of all views of a few (n, V, ...)."""
    model.eval()
    numbers = range(len(dataset))[fabric.global_rank :: fabric.world_size]
    found = [of_films(said, label).cpu() for said, label in _said(fabric, model, dataset, config, views, numbers)]
    own = torch.cat(found) if found else torch.zeros(0, 0, dtype=torch.float64)
    if fabric.world_size == 1:
        return own
    width = int(_reduced(fabric, torch.tensor(own.shape[1]), "max"))  # which a process without films does not know
    rows = torch.zeros(len(dataset), width, dtype=torch.float64)
    if found:
        rows[torch.tensor(numbers)] = own
    return _reduced(fabric, rows, "sum").cpu()


def _said(
    fabric: Fabric,
    model: nn.Module,
    dataset: "ClipDataset",
    config: BackboneSettings,
    views: Views,
    numbers: range,
) -> Iterator[tuple[Tensor, Tensor]]:
    """What a model says of the views of a few films (n, V, ...), and their labels (n,), on the model's device."""
    size, num_views, side = config.test.batch_size, views.clips * views.crops, config.test.side
    names = dataset.names(numbers)
    num_films = max(1, size // num_views)
    made = made_in_order(
        lambda k: dataset.views(k, *views, side), numbers, names, config.data.workers, num_ahead=num_films
    )
    for first in range(0, len(numbers), num_films):
        part = numbers[first : first + num_films]
        clips = torch.cat([one.clips for one in islice(made, len(part))])  # (n V, T, 3, S, S)
        with fabric.autocast():
            said = torch.cat([model(fabric.to_device(some)).float() for some in clips.split(size)])
        label = torch.tensor([dataset.items[k].label for k in part], device=said.device)
        yield said.unflatten(0, (len(part), num_views)), label


def _reduced(fabric: Fabric, x: Tensor, how: str) -> Tensor:
    reduced = fabric.all_reduce(x.to(fabric.device), reduce_op=how)
    assert isinstance(reduced, Tensor)  # as x is
    return reduced
