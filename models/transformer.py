"""Transformer encoder layer (Vaswani et al. 2017, arXiv:1706.03762) that can hide each frame from itself.

Shapes: B episodes, T frames, R of them read, Q probes, M model width, H heads, D = M / H.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from models import flex_attention
from models.config import Count, MixerConfig
from models.external_memory import ExternalMemory
from models.familiarity import Familiarity, match
from models.mixer import Mixer
from models.norm import LayerNorm

ROWS = 1024  # queries that are masked at a time
TEMPERATURE = 20.0  # of the softmax of cosines that match_init starts with


class Transformer(Mixer):
    """Post-norm encoder layer as `torch.nn.TransformerEncoderLayer` with ReLU, plus the masks this task needs.

    Holds on to the keys and values of all frames: state_size grows with their number, up to the `window` if there is
    one.

    With `familiarity` the cosine of what each head reads with the frame's own value is told. `match_init` starts
    queries, keys and values as the frame itself, compared at a temperature so high that the nearest frame is read.
    """

    limit = "window"

    class Config(MixerConfig):
        d_embed: Count = 64
        n_layers: Count = 2
        residual: bool = False  # the layer brings its own
        n_heads: Count = 1
        d_feedforward: Count | None = None  # 2 * d_embed unless given
        dropout: float = Field(0.0, ge=0, lt=1)
        no_self: bool = True  # hide each frame from itself, so that a probe finds only its earlier showing
        causal: bool = False  # hide later frames
        window: Count | None = None  # of causal ones: hide what is more than so many frames back
        familiarity: bool = False

        @model_validator(mode="after")
        def _check_heads(self) -> "Transformer.Config":
            if self.d_embed % self.n_heads:
                raise ValueError(f"d_embed {self.d_embed} cannot be shared among n_heads {self.n_heads}")
            if self.window and not self.causal:
                raise ValueError(f"window {self.window} needs causal: true")
            return self

    def __init__(self, config: Config):
        super().__init__()
        width, inner = config.d_embed, config.d_feedforward or 2 * config.d_embed
        self.n_heads, self.no_self, self.is_causal = config.n_heads, config.no_self, config.causal
        self.looks_ahead, self.window = not config.causal, config.window
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm_attention, self.norm_feedforward = LayerNorm(width), LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        # As torch.nn.MultiheadAttention: one Xavier bound for the three projections together, no biases.
        nn.init.xavier_uniform_(self.query_key_value.weight)
        nn.init.zeros_(self.query_key_value.bias)
        nn.init.zeros_(self.output.bias)
        self.familiarity = Familiarity(config.n_heads, width) if config.familiarity else None
        if config.match_init:
            # Frames come with a mean square of 1, and cosines are divided by sqrt(D): this makes the scores of a layer
            # TEMPERATURE times the cosine.
            scale = math.sqrt(TEMPERATURE / math.sqrt(width / config.n_heads))
            for weight, factor in zip(self.query_key_value.weight.split(width), (scale, scale, 1.0), strict=True):
                match(weight, factor)

    def forward(self, x: Tensor, num_last: int | None = None) -> Tensor:
        """x (B, T, M) to (B, T, M), or to the last `num_last` frames alone: the others are then only keys."""
        num_read = x.shape[1] if num_last is None else num_last
        keys, values = self._keys_values(x)
        x = x[:, x.shape[1] - num_read :]
        queries = self._queries(x)
        if num_read > ROWS and (self.no_self or self.is_causal) and self.window is None:
            mixed = flex_attention.attend(self._attend, queries, keys, values, self.no_self, self.is_causal)
        else:  # one mask, of which there is little, or one that FlexAttention does not know
            mixed = self._attend(queries, keys, values)
        return self._finish(x, mixed, values[:, :, values.shape[2] - num_read :])

    def study(
        self, x: Tensor, ends: Sequence[int], is_read: bool = True
    ) -> tuple[Tensor | None, list[tuple[Tensor, Tensor]]]:
        keys, values = self._keys_values(x)
        seen = [slice(0 if self.window is None else max(0, end - self.window), end) for end in ends]
        return self(x) if is_read else None, [(keys[:, :, frames], values[:, :, frames]) for frames in seen]

    def read(self, queries: Tensor, state: tuple[Tensor, Tensor] | ExternalMemory) -> Tensor:
        return self._answer(queries, self._keys_values(queries), state)

    def start(self, num_rows: int) -> ExternalMemory:
        assert self.window is not None
        weight, heads = self.output.weight, self.n_heads
        width = len(weight) // heads
        return ExternalMemory(num_rows, self.window, width, heads, dtype=weight.dtype, device=weight.device)

    def step(self, x: Tensor, state: ExternalMemory, is_read: bool = True) -> tuple[Tensor | None, ExternalMemory]:
        keys, values = self._keys_values(x)
        if not is_read:
            state.add(keys, values)
            return None, state
        y = []
        for frame, *own in zip(x.split(1, 1), keys.split(1, 2), values.split(1, 2), strict=True):
            y.append(self._answer(frame, (own[0], own[1]), state))
            state.add(*own)
        return torch.cat(y, 1), state

    def cannot_stream(self, is_last: bool) -> str | None:
        if not self.is_causal:
            return "it attends to later frames too; it would need causal true"
        return None if self.window else "it keeps every frame, without end; give it a capacity"

    def change(self, **settings: Any) -> None:
        """window: what was learned serves with any, though not equally well."""
        if others := settings.keys() - {"window"}:
            raise ValueError(f"a transformer that has learned cannot change {', '.join(sorted(others))}")
        if not self.is_causal:
            raise ValueError(f"window {settings['window']} needs causal: true")
        self.window = settings["window"]

    def _answer(
        self, queries: Tensor, own: tuple[Tensor, Tensor], state: tuple[Tensor, Tensor] | ExternalMemory
    ) -> Tensor:
        """What each query gets to know, by itself: (B, Q, M), their keys and values, and those of the frames seen."""
        keys, values = state.held() if isinstance(state, ExternalMemory) else state
        own_keys, own_values = own
        asked = self._queries(queries)
        if self.no_self and keys.shape[2] == 0:  # the first frame, which sees itself
            mixed = own_values
        elif self.no_self:
            mixed = F.scaled_dot_product_attention(asked, keys, values)
        else:  # a probe sees itself too, and no other one
            scores = torch.cat([asked @ keys.mT, torch.linalg.vecdot(asked, own_keys)[..., None]], 3)
            weights = (scores / math.sqrt(asked.shape[3])).softmax(3)
            mixed = weights[..., :-1] @ values + weights[..., -1:] * own_values
        return self._finish(queries, mixed, own_values)

    def _queries(self, x: Tensor) -> Tensor:
        """x (B, R, M) to (B, H, R, D)."""
        width = x.shape[2]
        queries = F.linear(x, self.query_key_value.weight[:width], self.query_key_value.bias[:width])
        return queries.unflatten(2, (self.n_heads, -1)).transpose(1, 2)

    def _keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, M) to keys and values, (B, H, T, D) each."""
        width = x.shape[2]
        both = F.linear(x, self.query_key_value.weight[width:], self.query_key_value.bias[width:])
        keys, values = both.unflatten(2, (2, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        return keys, values

    def _finish(self, x: Tensor, mixed: Tensor, values: Tensor) -> Tensor:
        """What follows attention: x (B, R, M), what it has read and the frames' own values (B, H, R, D) to
        (B, R, M)."""
        y = self.dropout(self.output(mixed.transpose(1, 2).flatten(2)))
        if self.familiarity is not None:
            y = y + self.familiarity(mixed, values)
        x = self.norm_attention(x + y)
        inner = self.dropout(F.relu(self.expand(x)))
        return self.norm_feedforward(x + self.dropout(self.contract(inner)))

    def state_size(self, num_frames: int) -> int:
        """Floats kept from study to probe: keys and values of every frame in the window."""
        num_kept = num_frames if self.window is None else min(num_frames, self.window)
        return 2 * num_kept * self.output.in_features

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, rows: int = ROWS) -> Tensor:
        """Masked attention of the last R of T frames: (B, H, R, D) and twice (B, H, T, D) to (B, H, R, D).

        A mask of T x T would dominate memory at T = 9,180, so attention goes `rows` queries at a time. Going backwards
        torch's CPU kernel has one thread for each head: where heads are few, several pieces go beside each other, as
        if they were heads.
        """
        heads, num_read, num_keys = queries.shape[:2], queries.shape[2], keys.shape[2]
        beside = max(1, torch.get_num_threads() // heads.numel()) if queries.is_cpu else 1
        queries = F.pad(queries.flatten(0, 1), (0, 0, 0, -num_read % beside))
        keys, values = (x.flatten(0, 1)[:, None].expand(-1, beside, -1, -1) for x in (keys, values))
        if self.no_self or self.is_causal:
            make = self._shifted_masks if queries.is_cpu else self._masks
            masks: Iterator[Tensor | None] = make(queries, num_read, num_keys, rows, beside)
        else:
            rows, masks = queries.shape[1] // beside, iter([None])
        mixed = []
        for piece, mask in zip(queries.split(rows * beside, 1), masks, strict=True):
            piece = piece.unflatten(1, (beside, -1)).flip(1)  # (B H, beside, rows, D)
            mixed.append(F.scaled_dot_product_attention(piece, keys, values, attn_mask=mask).flip(1).flatten(1, 2))
        return torch.cat(mixed, 1)[:, :num_read].unflatten(0, heads)

    def _masks(self, queries: Tensor, num_read: int, num_keys: int, rows: int, beside: int) -> Iterator[Tensor]:
        """What the queries (B H, R or more, D) see, `beside` pieces of `rows` of them at a time, the last piece first:
        (1, beside, rows, T), bool."""
        column = torch.arange(num_keys, device=queries.device)
        first = num_keys - num_read
        for row in torch.arange(first, first + queries.shape[1], device=queries.device).split(rows * beside):
            row = row.unflatten(0, (beside, -1)).flip(0)[None, ..., None]
            visible = column <= row if self.is_causal else torch.ones_like(column == row)
            if self.window is not None:
                visible = visible & (column >= row - self.window)
            if self.no_self:
                # The first of a causal sequence would see nothing at all: it alone may see itself.
                visible = visible & ((column != row) | (self.is_causal & (row == 0)))
            yield visible

    def _shifted_masks(self, queries: Tensor, num_read: int, num_keys: int, rows: int, beside: int) -> Iterator[Tensor]:
        """The same, to be added to the scores: windows of one mask that a piece further down sees further left.

        On the CPU attention turns masks of bools into floats, and gradients keep them; of this one there are no copies.
        GPU kernels want masks that start at round addresses.
        """
        num_rows = queries.shape[1]
        diagonal = num_keys + num_rows - num_read
        mask = queries.new_zeros(min(rows, num_rows // beside), num_keys + num_rows)
        if self.is_causal:
            hidden = mask.fill_(-torch.inf)
            mask = hidden.triu(diagonal + (not self.no_self))
            if self.window is not None:
                mask += hidden.tril(diagonal - self.window - 1)
        else:
            mask.diagonal(diagonal).fill_(-torch.inf)
        for stop in range(num_rows, 0, -rows * beside):
            size = min(rows, stop // beside)
            windows = mask[:, stop - (beside - 1) * size :].as_strided(
                (1, beside, size, num_keys), (0, size, mask.stride(0), 1)
            )
            if self.is_causal and stop == num_rows and num_keys == num_read:
                windows = windows.clone()
                windows[0, -1, 0, 0] = 0  # as above
            yield windows
