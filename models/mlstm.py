"""mLSTM: an LSTM with a matrix for a cell and exponential input gates (Beck et al. 2024, arXiv:2405.04517).

Shapes: B episodes, T frames, R of them read, M model width, I inner width, H heads, D = I / H.
"""

import math

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from models.config import Count, MixerConfig, Range
from models.linear_attention import State, at_least_float32, causal_conv1d, gated_linear_attention, in_segments
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
    """

    segment, chunk = 1024, 128  # frames at a time; these change speed, memory and rounding only

    class Config(MixerConfig):
        num_heads: Count = 1
        proj_factor: float = Field(1.0, gt=0)  # inner width over model width, rounded up to a multiple of 64
        conv1d_kernel_size: Count = 2
        forget_bias_range: Range = (3.0, 6.0)

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
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Parameter(torch.empty(inner // BLOCK, BLOCK, BLOCK)) for _ in range(3)
        )
        self.input_gate, self.forget_gate = (nn.Linear(3 * inner, config.num_heads) for _ in range(2))
        self.norm_weight = nn.Parameter(torch.ones(inner))
        self.skip = nn.Parameter(torch.ones(inner))
        self.proj_down = nn.Linear(inner, width, bias=False)

        nn.init.normal_(self.proj_up.weight, std=math.sqrt(2 / (5 * width)))
        nn.init.normal_(self.proj_down.weight, std=2 / (config.n_layers * math.sqrt(width)))
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            nn.init.normal_(projection, std=math.sqrt(2 / (5 * BLOCK)))
        for gate in (self.input_gate, self.forget_gate):
            nn.init.zeros_(gate.weight)
        nn.init.normal_(self.input_gate.bias, std=0.1)
        with torch.no_grad():
            self.forget_gate.bias.copy_(torch.linspace(*config.forget_bias_range, config.num_heads))

    def forward(self, x: Tensor, num_last: int | None = None) -> Tensor:
        """x (B, T, M) to (B, T, M), or to the last `num_last` frames alone."""
        return in_segments(self.proj_up, self._step, x, num_last, self.segment)

    def _step(self, projected: Tensor, num_last: int, state: tuple | None) -> tuple[Tensor, tuple]:
        """One segment; the state is the convolution's past and the heads' memory."""
        past, memory = state or (None, None)
        assert self.conv1d.bias is not None
        num_unread = projected.shape[1] - num_last
        inner, gate = projected.chunk(2, dim=2)  # (B, T, I) each
        convolved, past = causal_conv1d(inner, self.conv1d.weight, self.conv1d.bias, past)
        convolved = F.silu(convolved)  # (B, T, I)
        q, k = _headwise(convolved, self.q_proj), _headwise(convolved, self.k_proj)
        v = _headwise(inner, self.v_proj)
        mixed, memory = self._cell(q, k, v, num_last, memory)  # (B, R, I)
        convolved, gate = convolved[:, num_unread:], gate[:, num_unread:]
        return self.proj_down((mixed + self.skip * convolved) * F.silu(gate)), (past, memory)

    def state_size(self, num_frames: int) -> int:
        """Floats kept from study to probe: per head a D x D matrix, normaliser and scale; the convolution's past."""
        head = self.d_inner // self.num_heads
        return self.num_heads * (head * head + head + 1) + (self.conv1d.kernel_size[0] - 1) * self.d_inner

    def _cell(self, q: Tensor, k: Tensor, v: Tensor, num_read: int, memory: State | None) -> tuple[Tensor, State]:
        """The gated memory and its norm: q, k, v (B, T, I) to (B, R, I)."""
        with torch.autocast(q.device.type, enabled=False):
            q, k, v = (at_least_float32(x) for x in (q, k, v))
            gates = torch.cat([q, k, v], 2)
            log_input = self.input_gate(gates).transpose(1, 2)  # (B, H, T)
            log_forget = F.logsigmoid(self.forget_gate(gates)).transpose(1, 2)
            q, k, v = (x.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
            k = k / math.sqrt(k.shape[3])
            v = F.pad(v, (0, 1), value=1.0)  # one more column of ones gathers the normaliser n . q
            y, m, memory = gated_linear_attention(q, k, v, log_forget, log_input, num_read, memory, self.chunk)
            h, normaliser = y[..., :-1], y[..., -1]  # (B, H, R, D), (B, H, R)
            h = h / (torch.maximum(normaliser.abs(), torch.exp(-m)) + 1e-6)[..., None]
            h = F.layer_norm(h, h.shape[3:])  # each head by itself
            return h.transpose(1, 2).flatten(2) * self.norm_weight, memory


def _headwise(x: Tensor, weight: Tensor) -> Tensor:
    """A block-diagonal linear map: x (B, T, I), weight (I / 4, 4, 4) to (B, T, I)."""
    return torch.einsum("btgi,goi->btgo", x.unflatten(2, weight.shape[:2]), weight).flatten(2)
