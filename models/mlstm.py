"""mLSTM: an LSTM with a matrix for a cell and exponential input gates (Beck et al. 2024, arXiv:2405.04517).

Shapes: B episodes, T frames, R of them read, Q probes, M model width, I inner width, H heads, D = I / H.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from models.config import Count, MixerConfig, Range
from models.familiarity import Familiarity, match_signed, pass_on
from models.linear_attention import (
    at_least_float32,
    causal_conv1d,
    conv1d_next,
    gated_linear_attention,
    in_segments,
    read_next,
)
from models.mixer import Mixer

BLOCK = 4  # queries, keys and values are projected in blocks of this width


class MLSTM(Mixer):
    """The mLSTM layer of the paper's figure 11: up-projection, convolution, cell, gated output, down-projection.

    Per head, with q, k, v (D) and pre-activations i, f of the gates (scalars):
        C_t = sigmoid(f) C_{t-1} + exp(i) v k^T / sqrt(D)        n_t = sigmoid(f) n_{t-1} + exp(i) k / sqrt(D)
        h_t = C_t q / max(|n_t . q|, 1)
    computed chunk by chunk in float32, never with a T x T matrix.

    A forget-gate bias b keeps a memory for about exp(b) frames: `forget_bias_range` [low, high] spreads the heads
    evenly. The source's range, 3 to 6, means 20 to 400 frames.

    With `familiarity` a frame is read before it is written, so that it does not find itself, and the cosine of C q with
    v and log(1 + |n . q|) are told for each head. `match_init` starts q and k as the frame itself, by positive and
    negative parts, and v too.
    """

    segment, chunk = 1024, 128  # frames at a time; these change speed, memory and rounding only

    class Config(MixerConfig):
        num_heads: Count = 1
        proj_factor: float = Field(1.0, gt=0)  # inner width over model width, rounded up to a multiple of 64
        conv1d_kernel_size: Count = 2
        forget_bias_range: Range = (3.0, 6.0)
        tie_qk: bool = False  # queries are projected as keys are
        familiarity: bool = False

        @property
        def d_inner(self) -> int:
            return 64 * math.ceil(self.proj_factor * self.d_embed / 64)

        @model_validator(mode="after")
        def _check_heads(self) -> "MLSTM.Config":
            if self.d_inner % self.num_heads:
                raise ValueError(f"inner width {self.d_inner} cannot be shared among num_heads {self.num_heads}")
            return self

    def __init__(self, config: Config):
        super().__init__()
        width, inner = config.d_embed, config.d_inner
        self.num_heads, self.d_inner = config.num_heads, inner
        self.proj_up = nn.Linear(width, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, config.conv1d_kernel_size, groups=inner)
        self.q_proj = None if config.tie_qk else nn.Parameter(torch.empty(inner // BLOCK, BLOCK, BLOCK))
        self.k_proj, self.v_proj = (nn.Parameter(torch.empty(inner // BLOCK, BLOCK, BLOCK)) for _ in range(2))
        self.input_gate, self.forget_gate = (nn.Linear(3 * inner, config.num_heads) for _ in range(2))
        self.norm_weight = nn.Parameter(torch.ones(inner))
        self.skip = nn.Parameter(torch.ones(inner))
        self.proj_down = nn.Linear(inner, width, bias=False)

        nn.init.normal_(self.proj_up.weight, std=math.sqrt(2 / (5 * width)))
        nn.init.normal_(self.proj_down.weight, std=2 / (config.n_layers * math.sqrt(width)))
        projections = [*([] if self.q_proj is None else [self.q_proj]), self.k_proj, self.v_proj]
        for projection in projections:
            nn.init.normal_(projection, std=math.sqrt(2 / (5 * BLOCK)))
        for gate in (self.input_gate, self.forget_gate):
            nn.init.zeros_(gate.weight)
        nn.init.normal_(self.input_gate.bias, std=0.1)
        with torch.no_grad():
            self.forget_gate.bias.copy_(torch.linspace(*config.forget_bias_range, config.num_heads))
        self.familiarity = Familiarity(config.num_heads, width, 1) if config.familiarity else None
        if config.match_init:
            match_signed(self.proj_up.weight[:inner])
            pass_on(self.conv1d)
            with torch.no_grad():
                for projection in projections:
                    projection.copy_(torch.eye(BLOCK))

    def forward(self, x: Tensor, num_last: int | None = None) -> Tensor:
        """x (B, T, M) to (B, T, M), or to the last `num_last` frames alone."""
        return in_segments(self.proj_up, self._step, x, num_last, self.segment)[0]

    def study(self, x: Tensor, ends: Sequence[int], is_read: bool = True) -> tuple[Tensor | None, list[Any]]:
        y, states = in_segments(self.proj_up, self._step, x, None if is_read else 0, self.segment, ends)
        return y if is_read else None, states

    def start(self, num_rows: int) -> tuple:
        head, zeros = self.d_inner // self.num_heads, self.conv1d.weight.new_zeros
        memory = zeros(num_rows, self.num_heads, head, head + 1), zeros(num_rows, self.num_heads)
        return zeros(num_rows, self.conv1d.kernel_size[0] - 1, self.d_inner), memory

    def step(self, x: Tensor, state: tuple, is_read: bool = True) -> tuple[Tensor | None, tuple]:
        num_read, ends = x.shape[1] if is_read else 0, [x.shape[1]]
        y, [state] = in_segments(self.proj_up, self._step, x, num_read, self.segment, ends, state)
        return y if is_read else None, state

    def read(self, queries: Tensor, state: tuple) -> Tensor:
        past, memory = state
        assert self.conv1d.bias is not None
        inner, gate = self.proj_up(queries).chunk(2, dim=2)
        convolved = F.silu(conv1d_next(inner, self.conv1d.weight, self.conv1d.bias, past))
        q, k, v, log_forget, log_input = self._cell(convolved, inner)
        with torch.autocast(queries.device.type, enabled=False):
            found = read_next(q, k, v, log_forget, log_input, memory, self.familiarity is None)
        return self._output(*found, v, convolved, gate)

    def _step(self, projected: Tensor, num_last: int, state: tuple | None) -> tuple[Tensor, tuple]:
        """One segment; the state is the convolution's past and the heads' memory."""
        past, memory = state or (None, None)
        assert self.conv1d.bias is not None
        num_unread = projected.shape[1] - num_last
        inner, gate = projected.chunk(2, dim=2)  # (B, T, I) each
        convolved, past = causal_conv1d(inner, self.conv1d.weight, self.conv1d.bias, past)
        convolved = F.silu(convolved)  # (B, T, I)
        is_written, args = self.familiarity is None, self._cell(convolved, inner)
        with torch.autocast(projected.device.type, enabled=False):
            y, m, memory = gated_linear_attention(*args, num_last, memory, self.chunk, is_written=is_written)
        v, convolved, gate = args[2][:, :, num_unread:], convolved[:, num_unread:], gate[:, num_unread:]
        return self._output(y, m, v, convolved, gate), (past, memory)

    def state_size(self, num_frames: int) -> int:
        """Floats kept from study to probe: per head a D x D matrix, normaliser and scale; the convolution's past."""
        head = self.d_inner // self.num_heads
        return self.num_heads * (head * head + head + 1) + (self.conv1d.kernel_size[0] - 1) * self.d_inner

    def _cell(self, convolved: Tensor, inner: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What goes into the memory, from (B, T, I) each: q and k (B, H, T, D), v (B, H, T, D + 1), and the logarithms
        of forget and input gates, (B, H, T)."""
        k, v = _headwise(convolved, self.k_proj), _headwise(inner, self.v_proj)
        q = k if self.q_proj is None else _headwise(convolved, self.q_proj)
        with torch.autocast(k.device.type, enabled=False):
            q, k, v = (at_least_float32(x) for x in (q, k, v))
            gates = torch.cat([q, k, v], 2)
            log_input = self.input_gate(gates).transpose(1, 2)
            log_forget = F.logsigmoid(self.forget_gate(gates)).transpose(1, 2)
            q, k, v = (x.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
            k = k / math.sqrt(k.shape[3])
            v = F.pad(v, (0, 1), value=1.0)  # one more column of ones gathers the normaliser n . q
        return q, k, v, log_forget, log_input

    def _output(self, y: Tensor, m: Tensor, v: Tensor, convolved: Tensor, gate: Tensor) -> Tensor:
        """From what is read, y exp(-m) (B, H, R, D + 1) and m (B, H, R), to (B, R, M)."""
        with torch.autocast(y.device.type, enabled=False):
            h, normaliser = y[..., :-1], y[..., -1]  # (B, H, R, D), (B, H, R)
            h = h / (torch.maximum(normaliser.abs(), torch.exp(-m)) + 1e-6)[..., None]
            h = F.layer_norm(h, h.shape[3:])  # each head by itself
            mixed = h.transpose(1, 2).flatten(2) * self.norm_weight  # (B, R, I)
        output = self.proj_down((mixed + self.skip * convolved) * F.silu(gate))
        if self.familiarity is not None:
            log_normaliser = torch.log(normaliser.abs() + torch.exp(-m)) + m  # log(1 + |n . q|), whatever m
            output = output + self.familiarity(y[..., :-1], v[..., :-1], log_normaliser)
        return output


def _headwise(x: Tensor, weight: Tensor) -> Tensor:
    """A block-diagonal linear map: x (B, T, I), weight (I / 4, 4, 4) to (B, T, I)."""
    return torch.einsum("btgi,goi->btgo", x.unflatten(2, weight.shape[:2]), weight).flatten(2)
