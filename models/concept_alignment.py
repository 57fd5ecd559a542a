"""Concept alignment (Li et al. 2023, doi:10.1145/3581783.3612131): two networks describe a clip by the same concepts.

From projections z and backbone features y of a source clip (online network) and a target clip (target network), with
sg for "no gradient" and D for a distance,

    q_src = W_src z_src      q_tgt = W_tgt sg(z_tgt)
    reconstruction = D(P_src(q_src), sg(y_src)) + D(P_tgt(q_tgt), sg(y_tgt))          P: two perceptrons
    alignment = - sum over concepts of sg(softmax((q_tgt - c) / tau_tgt)) log softmax(q_src / tau_src)

both the mean over the clips. The centre c follows the mean of q_tgt, which keeps one concept from winning everywhere
(DINO, arXiv:2104.14294). W_tgt and P_tgt learn from the reconstruction alone. The source's paper adds c; its code
subtracts it.

Shapes: B clips, M width of the projections, Y width of the features, K concepts.
"""

from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from models.perceptron import perceptron


class ConceptLosses(NamedTuple):
    """Scalars; the source's paper weighs both by 0.01, its configurations by 0.1 and 0.01."""

    reconstruction: Tensor
    alignment: Tensor


class ConceptAlignment(nn.Module):
    """The two losses of concept alignment, with the weights they need, see above.

    Args:
        dim: M.
        feature_dim: Y.
        concepts: K.
        recon: the distance D of features: "cosine", 1 - cosine, or "l2", the squared Euclidean distance.
        source_temperature, target_temperature: tau_src and tau_tgt.
        momentum: of the centre, which moves in training mode only, after use, by the mean over all processes.

    Raises:
        ValueError: `recon` is neither.
    """

    centre: Tensor  # (K,)

    def __init__(
        self,
        dim: int = 256,
        feature_dim: int = 512,
        concepts: int = 4096,
        recon: Literal["cosine", "l2"] = "cosine",
        source_temperature: float = 0.05,
        target_temperature: float = 0.05,
        momentum: float = 0.9,
    ):
        super().__init__()
        if recon not in ("cosine", "l2"):
            raise ValueError(f"recon must be 'cosine' or 'l2', not {recon!r}")
        self.recon, self.momentum = recon, momentum
        self.source_temperature, self.target_temperature = source_temperature, target_temperature
        self.source_concepts, self.target_concepts = (nn.Linear(dim, concepts, bias=False) for _ in range(2))
        self.source_features, self.target_features = (perceptron(concepts, feature_dim, feature_dim) for _ in range(2))
        self.register_buffer("centre", torch.zeros(concepts))
        for linear in (self.source_concepts, self.target_concepts):
            nn.init.normal_(linear.weight, std=0.01)

    def forward(self, z_source: Tensor, y_source: Tensor, z_target: Tensor, y_target: Tensor) -> ConceptLosses:
        """Projections (B, M) and features (B, Y) of both clips to the losses. No gradient goes to z_target or any y."""
        q_source, q_target = self.source_concepts(z_source), self.target_concepts(z_target.detach())  # (B, K)
        reconstruction = self._distance(self.source_features(q_source), y_source.detach()) + self._distance(
            self.target_features(q_target), y_target.detach()
        )
        q_target = q_target.detach()
        probabilities = F.softmax((q_target - self.centre) / self.target_temperature, dim=1)
        alignment = F.cross_entropy(q_source / self.source_temperature, probabilities)
        if self.training:
            self.centre.lerp_(_mean_of_all_processes(q_target).to(self.centre.dtype), 1 - self.momentum)
        return ConceptLosses(reconstruction, alignment)

    def _distance(self, found: Tensor, wanted: Tensor) -> Tensor:
        if self.recon == "cosine":
            return 1 - F.cosine_similarity(found, wanted, dim=1).mean()
        return (found - wanted).square().sum(1).mean()


def _mean_of_all_processes(q: Tensor) -> Tensor:
    """(B, K) to (K,); every process must hold as many clips."""
    mean = q.mean(0)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(mean)
        mean /= dist.get_world_size()
    return mean
