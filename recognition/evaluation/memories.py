"""Memories of fixed size that need no learning: what they keep of whitened frames, and how well they know a probe.

They add frames up, or take the largest, so their order is lost and their size is the same for any number of frames.
They read features that were whitened by the films of training: in features as they are, a few axes drown the others.

Shapes: B episodes, S study frames, P probes, D features, W whitened axes, U units of a code.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recognition.features.feature_bank import FeatureBank
from recognition.features.geometry import principal_axes, whitened

RIDGE = 0.1  # of the novelty filter, in frames: what it takes each axis to have been seen
NUM_UNITS, NUM_ACTIVE = 512, 4  # of the code of the Bloom filter, and how many of them stand for a frame


class Memory(NamedTuple):
    """A memory of whitened frames.

    num_axes: W, how many it reads.
    num_floats: how many it keeps.
    familiarity: study (B, S, W) and probes (B, P, W), of unit length, to how well it knows each probe, (B, P), the
        higher the better.
    """

    num_axes: int
    num_floats: int
    familiarity: Callable[[Tensor, Tensor], Tensor]


class WhitenedMemories:
    """The memories of MEMORIES for which the frames of some films have axes enough, by these films.

    Args:
        films: those of training; whitening is by them alone.
        device: where the memories are asked.

    Attributes:
        memories: by their names; empty where frames have fewer axes than the smallest reads.
    """

    def __init__(self, films: FeatureBank, device: torch.device):
        axes = principal_axes(films)
        self.memories = {name: memory for name, memory in MEMORIES.items() if memory.num_axes <= axes.rank}
        most = max((memory.num_axes for memory in self.memories.values()), default=0)
        self._mean, self._matrix = (part.to(device) for part in axes.whitening(most))

    def familiarity(self, study: Tensor, probes: Tensor) -> list[Tensor]:
        """How well each of them knows the probes, (B, P) each: of study (B, S, D), probes (B, P, D) of unit length."""
        if not self.memories:
            return []
        study, probes = (whitened(features, self._mean, self._matrix) for features in (study, probes))
        found = []
        for num_axes, _, familiarity in self.memories.values():
            found.append(familiarity(*(F.normalize(frames[..., :num_axes], dim=2) for frames in (study, probes))))
        return found


def novelty_filter(study: Tensor, probes: Tensor) -> Tensor:
    """-r q'(C + r)^-1 q with C the sum over frames of k k': what a probe has that no sum of studied frames gives it,
    from -1, all of it, to 0 (Kohonen and Oja 1976, Biol. Cybern. 21, 85-95, with a ridge r).

    C is a sum, not a mean: what one frame shows is known however many were studied. In float64 from there on, as C
    grows with the frames and the ridge does not.
    """
    gram = (study.transpose(1, 2) @ study).double()
    gram.diagonal(dim1=1, dim2=2).add_(RIDGE)
    asked = probes.transpose(1, 2).double()  # (B, W, P)
    solved = torch.cholesky_solve(asked, torch.linalg.cholesky(gram))
    return (-RIDGE * (asked * solved).sum(1)).float()


def hebbian(study: Tensor, probes: Tensor) -> Tensor:
    """q'C q with C the sum over frames of k k': how much all studied frames have in common with a probe, squared
    (Bogacz and Brown 2003, doi 10.1002/hipo.10090, whose network settles on what is familiar to it)."""
    return ((probes @ (study.transpose(1, 2) @ study)) * probes).sum(2)


def bloom(study: Tensor, probes: Tensor) -> Tensor:
    """Mean over the units that stand for a probe of the most that each was ever excited (Dasgupta et al. 2018,
    doi 10.1073/pnas.1814448115, whose units are on or off).

    Units are random directions. The NUM_ACTIVE that a frame excites most stand for it.
    """
    directions = np.random.default_rng((0, NUM_UNITS)).normal(size=(study.shape[2], NUM_UNITS))
    units = F.normalize(torch.from_numpy(directions).float(), dim=0).to(study.device)  # (W, U)
    excited = (study @ units).topk(NUM_ACTIVE, 2)  # (B, S, NUM_ACTIVE)
    state = torch.zeros(len(study), NUM_UNITS, device=study.device)
    state.scatter_reduce_(1, excited.indices.flatten(1), excited.values.flatten(1), "amax")
    asked = (probes @ units).topk(NUM_ACTIVE, 2).indices
    return state.take_along_dim(asked.flatten(1), 1).unflatten(1, asked.shape[1:]).mean(2)


def sum_of_frames(study: Tensor, probes: Tensor) -> Tensor:
    """q's with s the sum of all studied frames k."""
    return (probes @ study.sum(1).unsqueeze(2)).squeeze(2)


MEMORIES = {
    **{f"novelty_filter_{k}": Memory(k, k * (k + 1) // 2, novelty_filter) for k in (64, 128)},  # C is symmetric
    "hebbian_64": Memory(64, 64 * 65 // 2, hebbian),
    f"bloom_{NUM_UNITS}": Memory(64, NUM_UNITS, bloom),
    "sum_64": Memory(64, 64, sum_of_frames),
}
