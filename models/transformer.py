"""Transformer encoder layer (Vaswani et al. 2017, arXiv:1706.03762) that can hide each frame from itself.

Shapes: B episodes, T frames, R of them read, M model width, H heads, D = M / H.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from models.config import Count, MixerConfig


class Transformer(nn.Module):
    """Post-norm encoder layer as `torch.nn.TransformerEncoderLayer` with ReLU, plus the masks this task needs.

    Holds on to the keys and values of all frames: state_size grows with their number.
    """

    class Config(MixerConfig):
        d_embed: Count = 64
        n_layers: Count = 2
        residual: bool = False  # the layer brings its own
        n_heads: Count = 1
        d_feedforward: Count | None = None  # 2 * d_embed unless given
        dropout: float = Field(0.0, ge=0, lt=1)
        no_self: bool = True  # hide each frame from itself, so that a probe finds only its earlier showing
        causal: bool = False  # hide later frames

        @model_validator(mode="after")
        def _check_heads(self):
            if self.d_embed % self.n_heads:
                raise ValueError(f"d_embed {self.d_embed} cannot be shared among n_heads {self.n_heads}")
            return self

    def __init__(self, config: Config):
        super().__init__()
        width, inner = config.d_embed, config.d_feedforward or 2 * config.d_embed
        self.n_heads, self.no_self, self.is_causal = config.n_heads, config.no_self, config.causal
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm_attention, self.norm_feedforward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        # As torch.nn.MultiheadAttention: one Xavier bound for the three projections together, no biases.
        nn.init.xavier_uniform_(self.query_key_value.weight)
        nn.init.zeros_(self.query_key_value.bias)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor, num_last: int | None = None) -> Tensor:
        """x (B, T, M) to (B, T, M), or to the last `num_last` frames alone: the others are then only keys."""
        num_read = x.shape[1] if num_last is None else num_last
        weight_q, weight_kv = self.query_key_value.weight.split([x.shape[2], 2 * x.shape[2]])
        bias_q, bias_kv = self.query_key_value.bias.split([x.shape[2], 2 * x.shape[2]])
        keys, values = F.linear(x, weight_kv, bias_kv).unflatten(2, (2, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        x = x[:, x.shape[1] - num_read :]
        queries = F.linear(x, weight_q, bias_q).unflatten(2, (self.n_heads, -1)).transpose(1, 2)  # (B, H, R, D)
        mixed = self._attend(queries, keys, values).transpose(1, 2).flatten(2)  # (B, R, M)
        x = self.norm_attention(x + self.dropout(self.output(mixed)))
        inner = self.dropout(F.relu(self.expand(x)))
        return self.norm_feedforward(x + self.dropout(self.contract(inner)))

    def state_size(self, num_frames: int) -> int:
        """Floats kept from study to probe: keys and values of every frame."""
        return 2 * num_frames * self.output.in_features

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, rows: int = 1024) -> Tensor:
        """Masked attention of the last R of T frames: (B, H, R, D) and twice (B, H, T, D) to (B, H, R, D).

        A mask of T x T would dominate memory at T = 9,180, so attention goes `rows` queries at a time.
        """
        if not (self.no_self or self.is_causal):
            return F.scaled_dot_product_attention(queries, keys, values)
        masks = (self._shifted_masks if queries.is_cpu else self._masks)(queries, keys.shape[2], rows)
        pieces = zip(queries.split(rows, 2), masks, strict=True)
        mixed = [F.scaled_dot_product_attention(piece, keys, values, attn_mask=mask) for piece, mask in pieces]
        return torch.cat(mixed, 2)

    def _masks(self, queries: Tensor, num_keys: int, rows: int) -> Iterator[Tensor]:
        """What each piece of `rows` queries sees: (rows, T), bool."""
        column = torch.arange(num_keys, device=queries.device)
        for row in column[num_keys - queries.shape[2] :].split(rows):
            row = row[:, None]
            visible = column <= row if self.is_causal else torch.ones_like(column == row)
            if self.no_self:
                # The first of a causal sequence would see nothing at all: it alone may see itself.
                visible = visible & ((column != row) | (self.is_causal & (row == 0)))
            yield visible

    def _shifted_masks(self, queries: Tensor, num_keys: int, rows: int) -> Iterator[Tensor]:
        """The same, to be added to the scores: windows of one mask that a piece further down sees further left.

        On the CPU attention turns masks of bools into floats, and gradients keep them; of this one there are no copies.
        GPU kernels want masks that start at round addresses.
        """
        num_read = queries.shape[2]
        mask = queries.new_zeros(min(rows, num_read), num_keys + num_read)
        if self.is_causal:
            mask = mask.fill_(-torch.inf).triu(num_keys + (not self.no_self))
        else:
            mask.diagonal(num_keys).fill_(-torch.inf)
        for start in range(0, num_read, rows):
            piece = mask[: num_read - start, num_read - start :][:, :num_keys]
            if self.is_causal and num_keys - num_read + start == 0:
                piece = piece.clone()
                piece[0, 0] = 0  # as above
            yield piece
