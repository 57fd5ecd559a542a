"""Mamba2, a selective state-space layer (Dao and Gu 2024, arXiv:2405.21060).

Shapes: B episodes, T frames, R of them read, Q probes, M model width, I = expand * M, H = I / headdim heads,
S = d_state.
"""

import math
from collections.abc import Callable, Sequence
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
from models.optional import MAMBA2, load


class Mamba2(Mixer):
    """The Mamba2 layer with the parameter names and shapes of `mamba_ssm.Mamba2`, so that weights move both ways.

    Per head, with A < 0 and dt > 0 (scalars), B and C (S) and x (headdim):
        h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t^T        y_t = C_t h_t + D x_t
    On a GPU with mamba-ssm installed its kernel runs this, elsewhere our own chunked form. That kernel is of Triton, so
    an installation without the package's compiled half (MAMBA_SKIP_CUDA_BUILD=TRUE) will do.

    What decides retention is where decays start: a head keeps its memory for about 1 / (dt |A|) frames, with |A|
    drawn uniformly from `A_init_range` and dt log-uniformly from [`dt_min`, `dt_max`]. The source's ranges mean from
    less than one frame to a thousand, tens of frames for most heads.

    With `familiarity` a frame is read before it is written, so that it does not find itself, and the cosine of C h with
    x is told for each head; mamba-ssm's kernel does not do that. `match_init` starts B, C and x as the frame itself, by
    positive and negative parts.
    """

    segment, chunk = 512, 64  # frames at a time; these change speed, memory and rounding only

    class Config(MixerConfig):
        n_layers: Count = 2
        d_state: Count = 64
        d_conv: Count = 4
        expand: Count = 2
        headdim: Count = 64
        A_init_range: Range = (1.0, 16.0)
        dt_min: float = Field(0.001, gt=0)
        dt_max: float = Field(0.1, gt=0)
        dt_init_floor: float = Field(1e-4, ge=0)
        familiarity: bool = False

        @model_validator(mode="after")
        def _check(self) -> "Mamba2.Config":
            if self.expand * self.d_embed % self.headdim:
                raise ValueError(
                    f"expand * d_embed {self.expand * self.d_embed} is no multiple of headdim {self.headdim}"
                )
            if not 0 < self.A_init_range[0] <= self.A_init_range[1]:
                raise ValueError("A_init_range must be [low, high] with 0 < low <= high")
            if self.dt_min > self.dt_max:
                raise ValueError("dt_min must not exceed dt_max")
            return self

    def __init__(self, config: Config):
        super().__init__()
        self.d_inner, self.d_state, self.headdim = config.expand * config.d_embed, config.d_state, config.headdim
        num_heads, num_mixed = self.d_inner // config.headdim, self.d_inner + 2 * config.d_state
        self.in_proj = nn.Linear(config.d_embed, self.d_inner + num_mixed + num_heads, bias=False)
        self.conv1d = nn.Conv1d(num_mixed, num_mixed, config.d_conv, groups=num_mixed, padding=config.d_conv - 1)
        log_low, log_high = math.log(config.dt_min), math.log(config.dt_max)
        dt = torch.exp(torch.empty(num_heads).uniform_(log_low, log_high)).clamp(min=config.dt_init_floor)
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))  # softplus(dt_bias) = dt
        self.A_log = nn.Parameter(torch.empty(num_heads).uniform_(*config.A_init_range).log())
        self.D = nn.Parameter(torch.ones(num_heads))
        self.norm = GatedRMSNorm(self.d_inner)
        self.out_proj = nn.Linear(self.d_inner, config.d_embed, bias=False)
        self.familiarity = Familiarity(num_heads, config.d_embed) if config.familiarity else None
        if config.match_init:
            _, x, b, c, _ = self.in_proj.weight.detach().split([self.d_inner] * 2 + [self.d_state] * 2 + [num_heads])
            match_signed(x)
            match_signed(b)
            c.copy_(b)
            pass_on(self.conv1d)

    def forward(self, x: Tensor, num_last: int | None = None) -> Tensor:
        """x (B, T, M) to (B, T, M), or to the last `num_last` frames alone."""
        scan = None if self.familiarity else _kernel(x)
        if scan is None:
            return in_segments(self.in_proj, self._step, x, num_last, self.segment)[0]
        return self._run_kernel(scan, x, x.shape[1] if num_last is None else num_last)

    def study(self, x: Tensor, ends: Sequence[int], is_read: bool = True) -> tuple[Tensor | None, list[Any]]:
        y, states = in_segments(self.in_proj, self._step, x, None if is_read else 0, self.segment, ends)
        return y if is_read else None, states

    def start(self, num_rows: int) -> tuple:
        num_heads, zeros = len(self.D), self.conv1d.weight.new_zeros
        memory = zeros(num_rows, num_heads, self.d_state, self.headdim), zeros(num_rows, num_heads)
        return zeros(num_rows, self.conv1d.kernel_size[0] - 1, self.conv1d.in_channels), memory

    def step(self, x: Tensor, state: tuple, is_read: bool = True) -> tuple[Tensor | None, tuple]:
        num_read, ends = x.shape[1] if is_read else 0, [x.shape[1]]
        y, [state] = in_segments(self.in_proj, self._step, x, num_read, self.segment, ends, state)
        return y if is_read else None, state

    def read(self, queries: Tensor, state: tuple) -> Tensor:
        past, memory = state
        assert self.conv1d.bias is not None
        z, mixed, dt = self._split(self.in_proj(queries))
        mixed = conv1d_next(mixed, self.conv1d.weight, self.conv1d.bias, past)
        with torch.autocast(queries.device.type, enabled=False):
            c, b, values, decay, log_dt = self._recurrence(mixed, dt)
            y, m = read_next(c, b, values, decay, log_dt, memory, self.familiarity is None)
            y = torch.exp(m)[..., None] * y
        return self._output(y, values, z)

    def _split(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z (B, T, I), then x, b and c together before their convolution, and dt (B, T, H)."""
        z, mixed, dt = projected.split([self.d_inner, self.conv1d.in_channels, len(self.D)], dim=2)
        return z, mixed, dt

    def _step(self, projected: Tensor, num_last: int, state: tuple | None) -> tuple[Tensor, tuple]:
        """One segment; the state is the convolution's past and the heads' memory."""
        past, memory = state or (None, None)
        assert self.conv1d.bias is not None
        num_unread = projected.shape[1] - num_last
        z, mixed, dt = self._split(projected)
        mixed, past = causal_conv1d(mixed, self.conv1d.weight, self.conv1d.bias, past)
        with torch.autocast(projected.device.type, enabled=False):
            c, b, values, decay, log_dt = self._recurrence(mixed, dt)
            args = c, b, values, decay, log_dt, num_last, memory, self.chunk
            y, _, memory = gated_linear_attention(*args, is_stabilised=False, is_written=self.familiarity is None)
        return self._output(y, values[:, :, num_unread:], z[:, num_unread:]), (past, memory)

    def state_size(self, num_frames: int) -> int:
        """Floats kept from study to probe: per head a headdim x S matrix; and the convolution's past."""
        return self.d_inner * self.d_state + (self.conv1d.kernel_size[0] - 1) * self.conv1d.in_channels

    def _recurrence(self, mixed: Tensor, dt: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """From what the convolution gives and dt (B, T, H): c and b (B, 1, T, S), values (B, H, T, headdim), dt A and
        log dt (B, H, T)."""
        A = -torch.exp(at_least_float32(self.A_log))
        values, b, c = at_least_float32(F.silu(mixed)).split([self.d_inner, self.d_state, self.d_state], dim=2)
        values = values.unflatten(2, (-1, self.headdim)).transpose(1, 2)
        dt = F.softplus(at_least_float32(dt) + self.dt_bias).transpose(1, 2)
        log_dt = dt.clamp(min=torch.finfo(dt.dtype).tiny).log()  # dt can round to 0
        return c[:, None], b[:, None], values, dt * A[:, None], log_dt

    def _output(self, y: Tensor, values: Tensor, z: Tensor) -> Tensor:
        """From what is read, y and values (B, H, R, headdim), to (B, R, M)."""
        with torch.autocast(y.device.type, enabled=False):
            mixed = torch.addcmul(y, self.D[:, None, None], values).transpose(1, 2).flatten(2)
        output = self.out_proj(self.norm(mixed, z))
        return output if self.familiarity is None else output + self.familiarity(y, values)

    def _run_kernel(self, scan: Callable, x: Tensor, num_read: int) -> Tensor:
        """All frames at once by mamba-ssm's kernel: x (B, T, M) to (B, R, M)."""
        assert self.conv1d.bias is not None
        num_unread = x.shape[1] - num_read
        z, mixed, dt = self._split(self.in_proj(x))
        mixed, _ = causal_conv1d(mixed, self.conv1d.weight, self.conv1d.bias, None)
        values, b, c = F.silu(mixed).split([self.d_inner, self.d_state, self.d_state], dim=2)
        # Whatever the precision, values, b and c are float32 here, as the convolution leaves them, and dt is what
        # the projection gives: the kernel reads each as float32 and multiplies in TF32.
        values, b, c = values.unflatten(2, (-1, self.headdim)), b[:, :, None], c[:, :, None]  # one group for all heads
        A = -torch.exp(at_least_float32(self.A_log))
        y = scan(values, dt, A, b, c, chunk_size=256, D=self.D, dt_bias=self.dt_bias, dt_softplus=True)
        return self.out_proj(self.norm(y[:, num_unread:].flatten(2), z[:, num_unread:]))


def _kernel(x: Tensor) -> Callable | None:
    """mamba-ssm's `mamba_chunk_scan_combined`, if x is on a GPU and the package is there."""
    module = load(MAMBA2, tell_absent=True) if x.is_cuda else None
    return None if module is None else module.mamba_chunk_scan_combined


class GatedRMSNorm(nn.Module):
    """Root-mean-square norm of y * silu(z): y and z (B, T, I) to (B, T, I)."""

    def __init__(self, width: int, eps: float = 1e-5):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        gated = at_least_float32(y) * F.silu(at_least_float32(z))
        return F.rms_norm(gated, y.shape[2:], self.weight, self.eps)
