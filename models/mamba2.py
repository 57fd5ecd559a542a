"""Mamba2, a selective state-space layer (Dao and Gu 2024, arXiv:2405.21060).

Shapes: B episodes, T frames, R of them read, M model width, I = expand * M, H = I / headdim heads, S = d_state.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from models.config import Count, MixerConfig, Range
from models.linear_attention import State, at_least_float32, causal_conv1d, gated_linear_attention, in_segments
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

    def forward(self, x: Tensor, num_last: int | None = None) -> Tensor:
        """x (B, T, M) to (B, T, M), or to the last `num_last` frames alone."""
        size = self.segment if _kernel(x) is None else x.shape[1]
        return in_segments(self.in_proj, self._step, x, num_last, size)

    def _step(self, projected: Tensor, num_last: int, state: tuple | None) -> tuple[Tensor, tuple]:
        """One segment; the state is the convolution's past and the heads' memory."""
        past, memory = state or (None, None)
        assert self.conv1d.bias is not None
        num_unread = projected.shape[1] - num_last
        sizes = [self.d_inner, self.conv1d.in_channels, len(self.D)]
        z, mixed, dt = projected.split(sizes, dim=2)
        mixed, past = causal_conv1d(mixed, self.conv1d.weight, self.conv1d.bias, past)
        values, b, c = F.silu(mixed).split([self.d_inner, self.d_state, self.d_state], dim=2)
        values = values.unflatten(2, (-1, self.headdim))  # (B, T, H, headdim)
        y, memory = self._scan(values, dt, b, c, num_last, memory)  # (B, R, I)
        return self.out_proj(self.norm(y, z[:, num_unread:])), (past, memory)

    def state_size(self, num_frames: int) -> int:
        """Floats kept from study to probe: per head a headdim x S matrix; and the convolution's past."""
        return self.d_inner * self.d_state + (self.conv1d.kernel_size[0] - 1) * self.conv1d.in_channels

    def _scan(
        self, values: Tensor, dt: Tensor, b: Tensor, c: Tensor, num_read: int, memory: State | None
    ) -> tuple[Tensor, State | None]:
        """The state-space recurrence: values (B, T, H, headdim), dt (B, T, H), b and c (B, T, S) to (B, R, I)."""
        A = -torch.exp(at_least_float32(self.A_log))
        num_unread = values.shape[1] - num_read
        if scan := _kernel(values):
            # Whatever the precision, values, b and c are float32 here, as the convolution leaves them, and dt is what
            # the projection gives: the kernel reads each as float32 and multiplies in TF32.
            b, c = b[:, :, None], c[:, :, None]  # one group for all heads
            y = scan(values, dt, A, b, c, chunk_size=256, D=self.D, dt_bias=self.dt_bias, dt_softplus=True)
            return y[:, num_unread:].flatten(2), None
        with torch.autocast(values.device.type, enabled=False):
            dt = F.softplus(at_least_float32(dt) + self.dt_bias).transpose(1, 2)  # (B, H, T)
            values = at_least_float32(values).transpose(1, 2)  # (B, H, T, headdim)
            b, c = at_least_float32(b)[:, None], at_least_float32(c)[:, None]
            log_dt = dt.clamp(min=torch.finfo(dt.dtype).tiny).log()  # dt can round to 0
            y, _, memory = gated_linear_attention(
                c, b, values, dt * A[:, None], log_dt, num_read, memory, self.chunk, is_stabilised=False
            )
            y = torch.addcmul(y, self.D[:, None, None], values[:, :, num_unread:])
            return y.transpose(1, 2).flatten(2), memory


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
