"""HebbFF: a layer whose weights change with every frame (Tyulmankov, Yang and Abbott 2022).

Shapes: B episodes, T frames, S study frames, Q probes asked together, M model width, K key width, N hidden units, L
frames a chunk.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.config import Count, MixerConfig
from models.linear_attention import at_least_float32
from models.mixer import Mixer

SPREAD, OFFSET = 8.0, -8.0  # of what units receive by W x + b at the start: one in six is above 0


class Hebbian(Mixer):
    """A feedforward layer with plastic weights, that learns how to learn ("Meta-learning synaptic plasticity and memory
    addressing for continual familiarity detection", Neuron 110, 544-557, doi:10.1016/j.neuron.2021.11.009).

    With x the frame's key, of unit length:
        h_t = sigmoid((W + A_{t-1}) x_t + b)        A_t = decay A_{t-1} + rate h_t x_t^T
    W, b, decay in (0, 1) and rate are learned; A is the memory. Units that are active together with their inputs lose
    the connection where the rate is negative, as it is at the start: a frame that comes again finds them less active,
    which is how neurons answer to what is familiar (repetition suppression). W gives each frame an address, the few
    units that it finds active: only frames of a like address get in each other's way.

    A frame is read before it is written, so no frame finds itself.
    """

    chunk = 128  # frames at a time; changes speed, memory and rounding only

    class Config(MixerConfig):
        d_key: Count = 64
        d_hidden: Count = 128
        rate: float = -4.0  # at the start; negative is anti-Hebbian
        forget_bias: float = 9.0  # decay is its sigmoid at the start: exp(9) = 8,100 frames are kept

    def __init__(self, config: Config):
        super().__init__()
        self.key = nn.Linear(config.d_embed, config.d_key, bias=False)
        self.fixed = nn.Linear(config.d_key, config.d_hidden)
        nn.init.normal_(self.fixed.weight, std=SPREAD)
        nn.init.constant_(self.fixed.bias, OFFSET)
        self.rate = nn.Parameter(torch.tensor(config.rate))
        self.forget_bias = nn.Parameter(torch.tensor(config.forget_bias))
        self.output = nn.Linear(config.d_hidden, config.d_embed)
        if config.match_init:
            nn.init.orthogonal_(self.key.weight)

    def forward(self, x: Tensor, num_last: int | None = None) -> Tensor:
        """x (B, T, M) to (B, T, M), or to the last `num_last` frames alone."""
        h, _ = self._take_in(x, [], self.start(len(x)))
        return self.output(h if num_last is None else h[:, x.shape[1] - num_last :])

    def study(self, x: Tensor, ends: Sequence[int], is_read: bool = True) -> tuple[Tensor | None, list[Tensor]]:
        """As `Mixer` says; a state is (B, N, K)."""
        h, states = self._take_in(x, ends, self.start(len(x)))
        return self.output(h) if is_read else None, states

    def read(self, queries: Tensor, state: Tensor) -> Tensor:
        """Queries (B, Q, M) and a state (B, N, K) to (B, Q, M)."""
        x = self._keys(queries)
        with torch.autocast(queries.device.type, enabled=False):
            h = torch.sigmoid(self.fixed(x) + x @ state.mT)
        return self.output(h)

    def start(self, num_rows: int) -> Tensor:
        return self.fixed.weight.new_zeros(num_rows, *self.fixed.weight.shape)

    def step(self, x: Tensor, state: Tensor, is_read: bool = True) -> tuple[Tensor | None, Tensor]:
        h, [state] = self._take_in(x, [x.shape[1]], state)
        return self.output(h) if is_read else None, state

    def state_size(self, num_frames: int) -> int:
        """Floats kept from study to probe: the plastic weights."""
        return self.fixed.weight.numel()

    def _keys(self, x: Tensor) -> Tensor:
        return F.normalize(at_least_float32(self.key(x)), dim=2)

    def _take_in(self, x: Tensor, ends: Sequence[int], state: Tensor) -> tuple[Tensor, list[Tensor]]:
        """h of all frames, (B, T, N), and A after each number of frames of `ends`; `state` is A before them."""
        x = self._keys(x)
        num_frames, hidden = x.shape[1], []
        marks = sorted({*range(0, num_frames, self.chunk), *ends, num_frames})
        after = {0: state}
        with torch.autocast(x.device.type, enabled=False):
            for start, end in pairwise(marks):
                h, state = self._chunk(x[:, start:end], state)
                hidden.append(h)
                after[end] = state
            return torch.cat(hidden, 1), [after[end] for end in ends]

    def _chunk(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """h of L frames, (B, L, N), and A after them: what A has learned within is a sum over the frames, so that the
        matrix itself is only needed at the start.

        A_{t-1} x_t = decay^t A_0 x_t + rate sum over s < t of decay^(t - 1 - s) (x_s . x_t) h_s, counting from t = 0
        """
        frames = torch.arange(x.shape[1] + 1, device=x.device)
        log_decay = F.logsigmoid(self.forget_bias)
        decay = torch.exp(frames * log_decay)
        since = frames[:-1, None] - frames[None, :-1] - 1
        within = torch.where(since >= 0, self.rate * torch.exp(since.clamp(min=0) * log_decay), 0)
        given = self.fixed(x) + decay[:-1, None] * (x @ state.mT)
        h = units(given, within * (x @ x.mT))
        weighted = self.rate * decay[:-1].flip(0)[:, None] * x
        return h, decay[-1] * state + h.mT @ weighted


def units(given: Tensor, within: Tensor) -> Tensor:
    """h_t = sigmoid(given_t + sum over s < t of within_ts h_s): given (B, L, N), within (B, L, L) to (B, L, N).

    `within` must be zero for s >= t, for what makes it so must stop the gradient there too.
    """
    return _Units.apply(given, within)


class _Units(torch.autograd.Function):
    """Written out, as autograd would keep a graph of all frames. The gradient of `within` is not zero for s >= t."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, within: Tensor) -> Tensor:
        h = torch.empty_like(given)
        for t in range(given.shape[1]):
            h[:, t : t + 1] = torch.baddbmm(given[:, t : t + 1], within[:, t : t + 1, :t], h[:, :t]).sigmoid_()
        ctx.save_for_backward(h, within)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_h: Tensor) -> tuple[Tensor, Tensor]:
        h, within = ctx.saved_tensors
        slope = h * (1 - h)
        d_given = torch.empty_like(h)
        for t in reversed(range(h.shape[1])):
            later = torch.baddbmm(d_h[:, t : t + 1], within[:, t + 1 :, t : t + 1].mT, d_given[:, t + 1 :])
            torch.mul(later, slope[:, t : t + 1], out=d_given[:, t : t + 1])
        return d_given, d_given @ h.mT
