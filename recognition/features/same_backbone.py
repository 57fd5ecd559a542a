"""The network that made features, once more: for films and pictures that are to be seen as those were."""

import re
from typing import Any, NamedTuple, Protocol

import torch

from recognition.common.command_line import InputError
from recognition.features.backbone import Backbone

ROWS = re.compile(
    r", (?:(?P<frames>\S+) frames a second"
    r"|\d+ frames(?: at (?P<fps>\S+) a second)? every (?:(?P<stride>\d+)|\d+ of these))$"
)


class Told(Protocol):
    """What a feature file says of the network that made it, see `FeatureHeader`."""

    @property
    def backbone(self) -> str: ...
    @property
    def weights(self) -> str: ...
    @property
    def weights_sha256(self) -> str: ...


class Network(NamedTuple):
    """The same, where it was kept elsewhere."""

    backbone: str
    weights: str
    weights_sha256: str


def same_backbone(told: Told, device: torch.device, weights: str | None = None, fast: bool = True) -> Backbone:
    """The network that a feature file tells of.

    Args:
        told: of the file.
        device: where it is to run.
        weights: where its weights are. Feature files keep a file's name alone, so those of a file must be given.
        fast: see `Backbone`.

    Raises InputError if it cannot be had, or is not the same any more.
    """
    is_of_torchvision = "_Weights." in told.weights
    if weights is None and not (is_of_torchvision or told.weights == "DEFAULT" or told.weights.startswith("random:")):
        raise InputError(f"{told.backbone} has its weights from a file, {told.weights}, and where it is was not said")
    weights = weights or ("DEFAULT" if is_of_torchvision else told.weights)
    rows = ROWS.search(told.backbone)
    settings: dict[str, Any] = {}
    if rows:
        settings = {
            "frame_fps": rows["frames"] and float(rows["frames"]),
            "fps": rows["fps"] and float(rows["fps"]),
            "stride": rows["stride"] and int(rows["stride"]),
        }
    name = told.backbone[: rows.start()] if rows else told.backbone
    name = re.split(r" \(| with temporal gates", name)[0]  # what follows is in the weights' own file
    backbone = Backbone(name, weights, device, fast, **settings)
    if (backbone.name, backbone.weights_sha256) != (told.backbone, told.weights_sha256):
        raise InputError(f"{told.backbone} ({told.weights}) is not at hand as it was")
    return backbone
