"""A network for clips with a last layer of its own, and what of it learns.

Shapes: B clips, T frames, S pixels a side, D features, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from models.temporal_gates import SqueezeRecursion


class ClipBackbone(nn.Module):
    """A network for clips without its last layer, which reads clips as films hold them.

    Args:
        network: of models.clip_networks; its `fc` is taken off.
        mean, deviation: of red, green and blue, from 0 to 1, which are taken out.
    """

    mean: Tensor  # (3, 1, 1, 1)
    deviation: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], deviation: Sequence[float]):
        super().__init__()
        assert isinstance(network.fc, nn.Linear)
        self.num_features = network.fc.in_features
        network.fc = nn.Identity()
        self.network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        for name, values in (("mean", mean), ("deviation", deviation)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1, 1) * 255, persistent=False)

    def forward(self, clips: Tensor) -> Tensor:
        """Clips (B, T, 3, S, S), from 0 to 255, to features (B, D) float32."""
        x = clips.transpose(1, 2).to(torch.float32, memory_format=torch.channels_last_3d)  # (B, 3, T, S, S)
        return self.network((x - self.mean) / self.deviation).float()


class ClipClassifier(nn.Module):
    """Names what happens in clips.

    Args:
        backbone: makes features of clips.
        num_classes: C.
        dropout: of features, before the last layer.
        train: "linear" keeps the backbone as it is, but for running statistics if `norms` are to adapt.
        norms: "frozen" leaves running statistics as they are, and uses them.
    """

    def __init__(
        self,
        backbone: ClipBackbone,
        num_classes: int,
        dropout: float = 0.0,
        train: Literal["linear", "finetune", "all"] = "all",
        norms: Literal["frozen", "adapt", "precise"] = "adapt",
    ):
        super().__init__()
        self.backbone, self.dropout, self.head = (
            backbone,
            nn.Dropout(dropout),
            nn.Linear(backbone.num_features, num_classes),
        )
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        self.is_linear, self.has_frozen_norms = train == "linear", norms == "frozen"
        if self.is_linear:
            backbone.requires_grad_(False)

    def forward(self, clips: Tensor) -> Tensor:
        """Clips (B, T, 3, S, S), from 0 to 255, to logits (B, C) float32."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_linear):
            y = self.backbone(clips)
        return self.head(self.dropout(y)).float()

    def train(self, mode: bool = True) -> "ClipClassifier":
        super().train(mode)
        if self.has_frozen_norms:
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def weights(self) -> dict[str, Tensor]:
        """The state of network and last layer under torchvision's names."""
        head = {f"fc.{name}": tensor for name, tensor in self.head.state_dict().items()}
        return self.backbone.network.state_dict() | head

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take up what `weights` gave."""
        self.head.load_state_dict(
            {name.removeprefix("fc."): x for name, x in weights.items() if name.startswith("fc.")}
        )
        self.backbone.network.load_state_dict({name: x for name, x in weights.items() if not name.startswith("fc.")})


def groups_of(model: ClipClassifier, loaded: set[str], rates: tuple[float, float, float]) -> list[dict]:
    """Parameters that learn, in groups for an optimiser, with a "rate_factor" each.

    Args:
        loaded: names, as in `weights`, of what was in the weight file.
        rates: factors of the rate of loaded parameters, of loaded temporal gates, and of all others.

    Groups without parameters are left out.
    """
    network = model.backbone.network
    of_gates = {
        f"{name}.{key}"
        for name, module in network.named_modules()
        if isinstance(module, SqueezeRecursion)
        for key, _ in module.named_parameters()
    }
    groups: list[dict] = [{"params": [], "rate_factor": rate} for rate in rates]
    for name, parameter in [*network.named_parameters(), *((f"fc.{k}", p) for k, p in model.head.named_parameters())]:
        if parameter.requires_grad:
            kind = 2 if name not in loaded else 1 if name in of_gates else 0
            groups[kind]["params"].append(parameter)
    return [group for group in groups if group["params"]]
