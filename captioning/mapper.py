"""From the frames of a clip to the prefix of its caption: the two mappers of ClipCap (Mokady et al. 2021,
arXiv:2111.09734), for clips of several frames.

Shapes: n clips, N frames each, D numbers a frame, K tokens a frame, P vectors of W numbers in a prefix, T tokens,
H heads.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.norm import LayerNorm


class MlpMapper(nn.Module):
    """Two layers with a tanh between them, D N -> P W / 2 -> P W; a clip's frames are read as one vector.

    Args:
        num_features, width, prefix_length, num_frames: D, W, P and N.
        normed: begin with a layer norm over all numbers of the clip. Published is N = 1 without it.
    """

    def __init__(
        self, num_features: int, width: int, prefix_length: int = 10, num_frames: int = 1, normed: bool = False
    ):
        super().__init__()
        num_inputs, num_outputs = num_frames * num_features, prefix_length * width
        self.width = width
        self.norm = LayerNorm(num_inputs) if normed else nn.Identity()
        self.expand = nn.Linear(num_inputs, num_outputs // 2)
        self.contract = nn.Linear(num_outputs // 2, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """x (n, N, D) to (n, P, W)."""
        return self.contract(torch.tanh(self.expand(self.norm(x.flatten(1))))).unflatten(1, (-1, self.width))


class TransformerMapper(nn.Module):
    """K tokens of each frame and P learned constants see each other in a transformer, whose outputs at the constants
    are the prefix.

    Args:
        num_features, width, prefix_length, clip_length: D, W, P and K.
        n_layers, n_heads: of the transformer.
        num_frames: N; a learned vector then tells a frame's place. Published is one frame without it.

    Raises ValueError if the heads cannot share the width.
    """

    def __init__(
        self,
        num_features: int,
        width: int,
        prefix_length: int = 10,
        clip_length: int = 10,
        n_layers: int = 8,
        n_heads: int = 8,
        num_frames: int | None = None,
    ):
        super().__init__()
        self.tokens = nn.Linear(num_features, clip_length * width)
        self.place = None if num_frames is None else nn.Parameter(0.1 * torch.randn(num_frames, 1, width))
        self.constants = nn.Parameter(torch.randn(prefix_length, width))
        self.layers = nn.ModuleList(MapperLayer(width, n_heads, n_heads, 2 * width, F.relu) for _ in range(n_layers))

    def forward(self, x: Tensor) -> Tensor:
        """x (n, N, D) to (n, P, W)."""
        num_constants, width = self.constants.shape
        tokens = self.tokens(x).unflatten(2, (-1, width))  # (n, N, K, W)
        if self.place is not None:
            tokens = tokens + self.place
        y = torch.cat([tokens.flatten(1, 2), self.constants.expand(len(x), -1, -1)], 1)
        for layer in self.layers:
            y = layer(y)
        return y[:, -num_constants:]


class MapperLayer(nn.Module):
    """x + Attn(LN x), then x + FF(LN x). Queries, keys and values have no bias.

    Args:
        width: W.
        n_heads, kv_heads: H, and how many of keys and values: H, or 1 for all together.
        inner: width between the two layers of FF.
        activation: between them.

    Raises ValueError if the heads cannot share the width.
    """

    def __init__(
        self, width: int, n_heads: int, kv_heads: int, inner: int, activation: Callable[[Tensor], Tensor] = F.gelu
    ):
        super().__init__()
        if width % n_heads:
            raise ValueError(f"a language model of width {width} cannot be shared among n_heads {n_heads}")
        self.n_heads, self.kv_heads, self.activation = n_heads, kv_heads, activation
        self.norm_attention, self.norm_feedforward = LayerNorm(width), LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * kv_heads * (width // n_heads), bias=False)  # all keys first
        self.output = nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (n, T, W) to the same; `bias` (H, T, T) is added to the logits of attention."""
        y = self.norm_attention(x)
        queries = self.query(y).unflatten(2, (self.n_heads, -1)).transpose(1, 2)  # (n, H, T, W / H)
        keys, values = self.key_value(y).unflatten(2, (2, self.kv_heads, -1)).permute(2, 0, 3, 1, 4)
        shared = self.n_heads // self.kv_heads
        keys, values = keys.repeat_interleave(shared, 1), values.repeat_interleave(shared, 1)
        mask = None if bias is None else bias.to(queries)
        read = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        x = x + self.output(read.transpose(1, 2).flatten(2))
        return x + self.contract(self.activation(self.expand(self.norm_feedforward(x))))
