"""Learning from films without labels: one network predicts what a slowly moving copy of it says of another clip.

BYOL (arXiv:2006.07733) for clips, as Li et al. 2023 (doi:10.1145/3581783.3612131) have it: with a key-value memory in
place of a perceptron for predictor, and with concept alignment. Of two clips x_1, x_2 of each of B films

    y_i = backbone(x_i)    z_i = projector(y_i)    p_i = predictor(z_i)         the online networks, with weights theta
    t_i = projector(backbone(x_i))          without gradient, the target's, with weights xi
    L = [-cos(p_1, t_2) - cos(p_2, t_1)] / 2 + alpha [L_rec(1, 2) + L_rec(2, 1)] / 2 + beta [L_align of both] / 2

Then theta moves by the optimiser and xi <- lambda_k xi + (1 - lambda_k) theta. BYOL's own loss is 4 + 4 L without the
last two terms. Clips go through norms one after the other, each with its own statistics, in both networks. Of the
target all parameters follow, and running statistics are its own.

Shapes: B clips, Y width of the features, M of the projections, H heads, S slots of all heads together.
"""

import copy
import math
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from backbones.config import ByolConfig
from models.concept_alignment import ConceptAlignment
from models.key_value_memory import MemoryPredictor, prediction_loss
from models.perceptron import perceptron


class Described(NamedTuple):
    """What a network says of clips."""

    y: Tensor  # (B, Y), the backbone's features
    z: Tensor  # (B, M), their projections


class Step(NamedTuple):
    """What VideoBYOL makes of a batch."""

    loss: Tensor
    means: dict[str, Tensor]  # over the clips of the batch, to log
    first: Tensor | None  # (2B, H) which slot each query addressed most; None without a memory


class Encoder(nn.Module):
    """A backbone and the projector on top of it, which training alone needs.

    Convolutions run in whatever precision autocast asks for, the projector in that of its weights.
    """

    def __init__(self, backbone: nn.Module, num_features: int, hidden: int, projection: int):
        super().__init__()
        self.backbone = backbone
        self.projector = perceptron(num_features, hidden, projection)

    def forward(self, clips: Tensor) -> Described:
        y = self.backbone(clips)
        with torch.autocast(y.device.type, enabled=False):
            y = y.to(self.projector[0].weight.dtype)
            return Described(y, self.projector(y))


class VideoBYOL(nn.Module):
    """All that learns by gradient: the online networks, the predictor and the alignment.

    One call makes the whole loss of a step, so that what spreads gradients among processes sees one forward pass.

    Args:
        backbone: maps what it takes for clips to features (B, Y).
        num_features: Y.
        config: sizes and weights. The memory's scale is said for projections of width 256; cosines of random
            directions are 1 / sqrt(M) wide, so that others have it times sqrt(M / 256).

    Batches of one clip cannot be normalised: torch raises ValueError.
    """

    def __init__(self, backbone: nn.Module, num_features: int, config: ByolConfig):
        super().__init__()
        self.alpha, self.beta, width = config.alpha, config.beta, config.projection
        self.encoder = Encoder(backbone, num_features, config.hidden, width)
        if config.predictor == "memory":
            scale = config.scale * math.sqrt(width / 256)
            self.predictor: nn.Module = MemoryPredictor(width, config.slots, config.heads, scale)
        else:
            self.predictor = perceptron(width, config.hidden, width)
        self.alignment = (
            ConceptAlignment(width, num_features, config.concepts, config.recon) if config.concepts else None
        )

    def forward(self, clips_1: Tensor, clips_2: Tensor, target_1: Described, target_2: Described) -> Step:
        """Two clips of each film and what the target says of them, to the loss. Norms and the alignment's centre move
        in training mode alone."""
        online_1, online_2 = self.encoder(clips_1), self.encoder(clips_2)
        with torch.autocast(online_1.z.device.type, enabled=False):
            return self._step((online_1, online_2), (target_1, target_2))

    def _step(self, online: tuple[Described, Described], target: tuple[Described, Described]) -> Step:
        z = torch.cat([online[0].z, online[1].z]).detach()
        means, first = {"spread": spread(z), "cosine": mean_cosine(z)}, None
        (p_1, a_1), (p_2, a_2) = (self._predict(described.z) for described in online)
        loss = (prediction_loss(p_1, target[1].z) + prediction_loss(p_2, target[0].z)) / 2
        means["prediction"] = loss.detach()
        if a_1 is not None and a_2 is not None:
            addresses = torch.cat([a_1, a_2]).detach()
            means["address_entropy"], first = entropy(addresses), addresses.argmax(2)
        if self.alignment is not None:
            of_1 = self.alignment(online[0].z, online[0].y, target[1].z, target[1].y)
            of_2 = self.alignment(online[1].z, online[1].y, target[0].z, target[0].y)
            reconstruction, alignment = ((one + other) / 2 for one, other in zip(of_1, of_2, strict=True))
            means |= {"reconstruction": reconstruction.detach(), "alignment": alignment.detach()}
            loss = loss + self.alpha * reconstruction + self.beta * alignment
        return Step(loss, {"loss": loss.detach()} | means, first)

    def _predict(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """Predictions (B, M) and the memory's addresses (B, H, S / H), if there is one."""
        if isinstance(self.predictor, MemoryPredictor):
            return self.predictor(z, return_addresses=True)
        return self.predictor(z), None


class Target(nn.Module):
    """The copy of an encoder that follows it: no gradient, no optimiser, and norms that always train.

    It follows late: when it is asked, at the next step or where an epoch ends, and not when the optimiser has moved.
    How many steps it has followed is part of its state, so that asking again, or after a resume from whichever side of
    a step, takes in every step once.
    """

    def __init__(self, encoder: Encoder, momentum: float):
        super().__init__()
        self.encoder = copy.deepcopy(encoder).requires_grad_(False).train()
        self.momentum, self.num_followed = momentum, 0

    @torch.no_grad()
    def forward(self, clips: Tensor) -> Described:
        """Clips to what the target says of them; runs in the precision that the caller asks autocast for."""
        return self.encoder(clips)

    def train(self, mode: bool = True) -> "Target":
        """Nothing: batches have their own statistics, whatever is asked."""
        return self

    def follow(self, encoder: Encoder, num_done: int, num_steps: int) -> None:
        """Take in what the last of `num_done` steps, of `num_steps` of the training, made of the online encoder,
        unless that has been done. To be called between any two steps."""
        if num_done == self.num_followed:
            return
        assert num_done == self.num_followed + 1, f"{num_done} steps done, {self.num_followed} followed"
        average = get_ema_multi_avg_fn(target_momentum(num_done - 1, num_steps, self.momentum))
        average(list(self.encoder.parameters()), list(encoder.parameters()), None)
        self.num_followed = num_done

    def get_extra_state(self) -> int:
        return self.num_followed

    def set_extra_state(self, state: int) -> None:
        self.num_followed = state


class SlotUse(nn.Module):
    """Which slots of a memory were addressed most by any query since they were last counted."""

    is_used: Tensor  # (H, S / H)

    def __init__(self, slots: int, heads: int = 1):
        super().__init__()
        self.register_buffer("is_used", torch.zeros(heads, slots // heads, dtype=torch.bool))

    def add(self, first: Tensor) -> None:
        """first (N, H): the slot of each query and head."""
        self.is_used.scatter_(1, first.T, True)

    def count(self) -> int:
        """Their number over all processes, which must call this together; starts anew."""
        is_used = self.is_used.int()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(is_used, dist.ReduceOp.MAX)
        self.is_used.zero_()
        return int(is_used.sum())


def target_momentum(step: int, num_steps: int, first: float) -> float:
    """lambda at `step` of `num_steps`, counted from 0: from `first` up to 1 on a cosine."""
    return 1 - (1 - first) * (math.cos(math.pi * step / num_steps) + 1) / 2


def spread(z: Tensor) -> Tensor:
    """sqrt(M) times the mean deviation of unit-length projections (N, M): 0 if they collapsed, 1 if they fill all
    directions."""
    return F.normalize(z, dim=1).std(0).mean() * math.sqrt(z.shape[1])


def mean_cosine(z: Tensor) -> Tensor:
    """The mean cosine of all pairs of projections (N, M): 1 if they collapsed."""
    num, total = len(z), F.normalize(z, dim=1).sum(0)
    return (total.square().sum() - num) / (num * (num - 1))


def entropy(addresses: Tensor) -> Tensor:
    """Of addresses (N, H, S / H), which sum to 1 over the last: mean over all others, in nats."""
    return torch.special.entr(addresses).sum(2).mean()
