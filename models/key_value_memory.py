"""Learned key-value memory (Li et al. 2023, doi:10.1145/3581783.3612131): what was learned over all episodes.

A mixer's state holds one episode, these slots what training found worth knowing of all films: a semantic memory beside
the episodic one. With an input cut into one query x_h for each head h,

    A_h = softmax over s of scale * cos(x_h, key_hs)        y = concat over h of sum over s of A_hs value_hs

Shapes: B clips or episodes, T frames, M width, H heads, S slots, shared among the heads, V width of the values.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.mixer import Mixer
from models.perceptron import perceptron


class KeyValueMemory(nn.Module):
    """A mixture of learned values, addressed by the cosine of the input with learned keys.

    Args:
        dim: width of the input, all heads together.
        slots: S, all heads together.
        heads: H; each has dim / H numbers of the input, S / H slots and value_dim / H numbers of the output.
        scale: sharpness of the addressing. The source's paper says 64, its configurations 16.
        value_dim: V, width of the output; dim if None.

    Raises:
        ValueError: dim, slots or value_dim cannot be shared among the heads.
    """

    def __init__(self, dim: int, slots: int, heads: int = 1, scale: float = 16.0, value_dim: int | None = None):
        super().__init__()
        value_dim = dim if value_dim is None else value_dim
        for name, size in (("dim", dim), ("slots", slots), ("value_dim", value_dim)):
            if size % heads or size < 1:
                raise ValueError(f"{name} {size} cannot be shared among heads {heads}")
        self.scale = scale
        self.keys = nn.Parameter(torch.empty(heads, slots // heads, dim // heads))
        self.values = nn.Parameter(torch.empty(heads, slots // heads, value_dim // heads))
        nn.init.normal_(self.keys, std=0.01)
        nn.init.trunc_normal_(self.values, std=0.02)

    def forward(self, x: Tensor, return_addresses: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """x (..., dim) to (..., value_dim); on request also the addresses A (..., H, S / H), which sum to 1."""
        heads = self.keys.shape[0]
        rows = x.reshape(-1, *x.shape[-2:]) if x.ndim > 2 else x.reshape(1, -1, x.shape[-1])  # (B, T, dim)
        queries = F.normalize(rows.unflatten(2, (heads, -1)).transpose(1, 2), dim=3)  # (B, H, T, dim / H)
        keys = F.normalize(self.keys, dim=2)
        if return_addresses:
            addresses = torch.softmax(self.scale * queries @ keys.transpose(1, 2), 3)  # (B, H, T, S / H)
            read = addresses @ self.values
        else:  # the same without ever holding the addresses of all frames
            keys, values = (z.expand(len(rows), -1, -1, -1) for z in (keys, self.values))
            read = F.scaled_dot_product_attention(queries, keys, values, scale=self.scale)
        read = read.transpose(1, 2).reshape(*x.shape[:-1], -1)
        return (read, addresses.transpose(1, 2).reshape(*x.shape[:-1], heads, -1)) if return_addresses else read


class KeyValueMixer(Mixer):
    """A key-value memory as a layer of a stack: W KV(x), frame by frame.

    Carries nothing from study to probe: its slots are weights.
    """

    def __init__(self, width: int, slots: int):
        super().__init__()
        self.memory = KeyValueMemory(width, slots)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, num_last: int | None = None) -> Tensor:
        """x (B, T, M) to (B, T, M), or to the last `num_last` frames alone."""
        x = x if num_last is None else x[:, x.shape[1] - num_last :]
        return self.output(self.memory(x))

    def study(self, x: Tensor, ends: Sequence[int], is_read: bool = True) -> tuple[Tensor | None, list[None]]:
        return self(x) if is_read else None, [None] * len(ends)

    def read(self, queries: Tensor, state: None) -> Tensor:
        return self(queries)

    def start(self, num_rows: int) -> None:
        return None

    def step(self, x: Tensor, state: None, is_read: bool = True) -> tuple[Tensor | None, None]:
        return self(x) if is_read else None, None

    def state_size(self, num_frames: int) -> int:
        return 0


class MemoryPredictor(nn.Module):
    """Predicts what a target network says of another clip of the same video, from what the online network says of one.

    The predictor of BYOL (arXiv:2006.07733), a perceptron, makes the queries of a key-value memory here: its keys lie
    in the online network's space, its values in the target's.

    Args:
        dim: width of both networks' projections; 256 in the source.
        slots, heads, scale: of the memory; each head gets a query of width `dim`. Cosines of random directions
            deviate by 1 / sqrt(dim), so that scale 16 at dim 256 is as sharp as 5.7 at dim 32, where that learned more.
        has_output: each head's value is as wide as `dim`, and another perceptron makes the prediction of them.
    """

    def __init__(
        self, dim: int = 256, slots: int = 4096, heads: int = 1, scale: float = 16.0, has_output: bool = False
    ):
        super().__init__()
        self.query = perceptron(dim, dim, heads * dim)
        self.memory = KeyValueMemory(heads * dim, slots, heads, scale, heads * dim if has_output else dim)
        self.output = perceptron(heads * dim, dim, dim) if has_output else nn.Identity()

    def forward(self, z: Tensor, return_addresses: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """z (B, dim), the online network's projections, to predictions (B, dim); on request also A (B, H, S / H)."""
        if not return_addresses:
            return self.output(self.memory(self.query(z)))
        read, addresses = self.memory(self.query(z), return_addresses=True)
        return self.output(read), addresses


def prediction_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Minus the cosine of predictions (B, M) with a target network's projections (B, M), mean over the clips.

    No gradient goes to the target.
    """
    return -F.cosine_similarity(predicted, target.detach(), dim=1).mean()
