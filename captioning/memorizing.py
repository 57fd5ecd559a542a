"""The mapper of MemClipCap (2023), frame by frame: a causal transformer two of whose layers remember the tokens of all
earlier frames (Wu et al. 2022, "Memorizing Transformers", arXiv:2203.08913).

Shapes: B films, C clips of N frames each, D numbers a frame, K tokens a frame, P vectors of W numbers in a prefix,
H heads, E neighbours.
"""

import math
from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from captioning.mapper import MapperLayer
from captioning.remembering import Found
from models.external_memory import ExternalMemory
from models.knn_memory import NUM_BUCKETS, KNNMemory, relative_buckets


class MemorizingMapper(nn.Module):
    """A frame's K tokens, then P constants, go through causal layers; outputs at the constants are its prefix.

    Layers have one head of keys and values, a feed-forward width of 4 W with GELU, and T5's bias of relative positions,
    of which there is one table for the layers with a memory and one for the others. A layer with a memory is a
    `KNNMemory` of joint softmax: each token also sees the E most similar ones of earlier frames, and then all K + P are
    stored, without gradient. A clip's prefix is that of its last frame.

    Args:
        num_features, width, prefix_length, clip_length: D, W, P and K.
        n_layers, n_heads: of the transformer.
        memory_layers: which of the layers, counted from 1, have a memory.
        capacity: tokens in each memory; the oldest leave first.
        k: E.

    Attributes:
        retrieved: after a call in evaluation mode, the frames of the film whose tokens the prefix of each clip found in
            the last memory, (B, C, P, H E).

    Raises ValueError if the heads cannot share the width, or there is no such layer.
    """

    def __init__(
        self,
        num_features: int,
        width: int,
        prefix_length: int = 10,
        clip_length: int = 10,
        n_layers: int = 8,
        n_heads: int = 8,
        memory_layers: Sequence[int] = (4, 5),
        capacity: int = 64_000,
        k: int = 32,
    ):
        super().__init__()
        if not 1 <= min(memory_layers) <= max(memory_layers) <= n_layers:
            raise ValueError(f"layers {', '.join(map(str, memory_layers))} remember, so n_layers must be at least that")
        self.tokens = nn.Linear(num_features, clip_length * width)
        self.constants = nn.Parameter(torch.randn(prefix_length, width))
        self.relative_bias = nn.Parameter(torch.zeros(NUM_BUCKETS, n_heads))
        self.num_tokens = clip_length + prefix_length
        settings = KNNMemory.Config(
            d_embed=width,
            n_heads=n_heads,
            k=k,
            capacity=capacity,
            segment=self.num_tokens,
            fusion="joint",
            causal=True,
            relative_bias=True,
            tie_qk=False,
            familiarity=False,
            memory_grad="none",
        )
        self.layers = nn.ModuleList(
            _memory_layer(settings) if number in memory_layers else MapperLayer(width, n_heads, 1, 4 * width)
            for number in range(1, n_layers + 1)
        )
        self.memory_layers = tuple(layer for layer in self.layers if isinstance(layer, KNNMemory))
        for layer in self.memory_layers:
            layer.relative_bias = self.memory_layers[0].relative_bias
        self.retrieved: Found | None = None

    def forward(self, features: Tensor, has_clip: Tensor | None = None) -> Tensor:
        """Films, features (B, C, N, D), to prefixes of their clips (B, C, P, W), from empty memories on.

        Clips that are not, in has_clip (B, C), are not read, and get zeros. Only the last frame of a clip is trained.
        """
        num_films, num_clips, num_frames, _ = features.shape
        memories = self.build_memories(num_films, num_clips * num_frames, features.device)
        prefixes, frames, weights = [], [], []
        for clip in range(num_clips):
            rows = torch.arange(num_films, device=features.device)
            rows = rows if has_clip is None else rows[has_clip[:, clip]]
            with ExitStack() as chosen:
                for memory in memories:
                    chosen.enter_context(memory.rows(rows))
                with torch.no_grad():
                    for frame in range(num_frames - 1):
                        self.step(features[rows, clip, frame], memories, is_read=False)
                torch.clear_autocast_cache()  # else gradients would miss the weights that were rounded up there
                prefix = self.step(features[rows, clip, -1], memories)
            prefixes.append(_of_films(prefix, rows, num_films))
            if not self.training:
                found = self._found()
                frames.append(_of_films(found.frames, rows, num_films, -1))
                weights.append(_of_films(found.weights, rows, num_films))
        self.retrieved = Found(torch.stack(frames, 1), torch.stack(weights, 1)) if frames else None
        return torch.stack(prefixes, 1)

    def build_memories(self, num_films: int, num_frames: int, device: torch.device) -> list[ExternalMemory]:
        """An empty memory for each layer that has one, for films of up to so many frames; more push the first out."""
        return [layer.build_memory(num_films, num_frames * self.num_tokens, device) for layer in self.memory_layers]

    def step(self, frame: Tensor, memories: Sequence[ExternalMemory], is_read: bool = True) -> Tensor:
        """Read the next frame of films (B, D) and store it: its prefix (B, P, W). Without `is_read` it is stored alone,
        and what comes back is not the prefix."""
        num_constants, width = self.constants.shape
        tokens = self.tokens(frame).unflatten(1, (-1, width))  # (B, K, W)
        x = torch.cat([tokens, self.constants.expand(len(frame), -1, -1)], 1)
        bias = self._bias()
        waiting = list(memories)
        for layer in self.layers:
            if isinstance(layer, KNNMemory):
                x = layer.step_of_segment(x, waiting.pop(0))
            elif waiting or is_read:
                x = layer(x, bias)
        return x[:, -num_constants:]

    def _found(self) -> Found:
        """What the prefix just read found in the last memory, of films (B, P, H E)."""
        last = self.memory_layers[-1]
        assert last.retrieved is not None
        assert last.weights is not None
        tokens, weights = (found[:, -len(self.constants) :] for found in (last.retrieved, last.weights))
        return Found(tokens.div(self.num_tokens, rounding_mode="floor"), weights)

    def _bias(self) -> Tensor:
        """Of layers without a memory, (H, K + P, K + P): what comes later is hidden."""
        size, (_, n_heads) = self.num_tokens, self.relative_bias.shape
        scale = math.sqrt(self.constants.shape[1] // n_heads)
        bias = scale * self.relative_bias[relative_buckets(size, True, self.constants.device)].movedim(2, 0)
        return bias.masked_fill(torch.ones(size, size, dtype=torch.bool, device=bias.device).triu(1), -torch.inf)


def _of_films(x: Tensor, rows: Tensor, num_films: int, fill: int = 0) -> Tensor:
    """What x says of the films in `rows`, and `fill` of the others."""
    return x.new_full((num_films, *x.shape[1:]), fill).index_copy(0, rows, x)


def _memory_layer(settings: KNNMemory.Config) -> KNNMemory:
    layer = KNNMemory(settings)
    del layer.offset  # which the published one has not
    layer.register_buffer("offset", torch.zeros(settings.d_embed), persistent=False)
    return layer
