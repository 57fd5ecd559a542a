"""Neural Bloom filter: sparse codes of all frames, laid over each other (Dasgupta et al. 2018, doi
10.1073/pnas.1814448115).

Shapes: B episodes, T frames, R of them read, N units, M model width.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.config import Count, MixerConfig
from models.linear_attention import at_least_float32, in_segments
from models.mixer import Mixer


class Bloom(Mixer):
    """A set of units that stay on once a frame has turned them on, as a Bloom filter's bits do.

    With z = W x / |x| the drive of the N units, the `winners` most active ones win; they are the frame's code. By how
    much one wins is its *margin*, from midway between the last winner and the first of the others. s is on where a unit
    has won in any frame so far. What the layer gives is a linear map of two numbers: the answer, which is the mean of s
    over the winners and so 1 for each frame that was seen, and the load, the mean of s over all units.

    Units of which more than half are on by chance answer 1 for new frames too: N must grow with what is studied.

    Codes are hard, 0 or 1, with the gradient of soft ones, sigmoid(margin / temperature); or soft throughout. Both grow
    with the margin, so the state is each unit's largest margin so far. All of it in float32.
    """

    segment = 1024  # frames at a time; changes speed and memory only

    class Config(MixerConfig):
        residual: bool = False
        units: Count = 512
        winners: Count = 4
        code: Literal["hard", "soft"] = "soft"
        temperature: float = Field(0.03, gt=0)  # drives have a deviation of 1 at the start

        @model_validator(mode="after")
        def _check(self) -> "Bloom.Config":
            if self.winners >= self.units:
                raise ValueError(f"winners {self.winners} must be fewer than units {self.units}")
            return self

    def __init__(self, config: Config):
        super().__init__()
        self.winners, self.is_hard, self.temperature = config.winners, config.code == "hard", config.temperature
        self.drive = nn.Linear(config.d_embed, config.units, bias=False)
        nn.init.normal_(self.drive.weight)
        self.output = nn.Linear(2, config.d_embed)

    def forward(self, x: Tensor, num_last: int | None = None) -> Tensor:
        """x (B, T, M) to (B, T, M), or to the last `num_last` frames alone. A frame is read before it is added."""
        return in_segments(at_least_float32, self._step, x, num_last, self.segment)[0]

    def _step(self, x: Tensor, num_last: int, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """One segment; the state is each unit's largest margin so far, (B, N)."""
        margins = self._margins(x)
        unread, margins = margins.split([x.shape[1] - num_last, num_last], 1)
        state = _largest(self.start(len(x)) if state is None else state, unread)
        passed = torch.cat([state[:, None], margins], 1).cummax(1).values  # (B, 1 + R, N)
        return self._tell(margins, passed[:, :-1]), passed[:, -1].clone()  # a view would keep all of them

    def study(self, x: Tensor, ends: Sequence[int], is_read: bool = True) -> tuple[Tensor | None, list[Tensor]]:
        state, states, start = self.start(len(x)), [], 0
        for end in ends:
            for segment in x[:, start:end].split(self.segment, 1):
                if torch.is_grad_enabled() and x.shape[1] > self.segment:  # keeps the frames, not all units of each
                    state = checkpoint(self._take_in, state, segment, use_reentrant=False, preserve_rng_state=False)
                else:
                    state = self._take_in(state, segment)
            states.append(state)
            start = end
        return self(x) if is_read else None, states

    def read(self, queries: Tensor, state: Tensor) -> Tensor:
        return self._tell(self._margins(queries), state[:, None])

    def start(self, num_rows: int) -> Tensor:
        return self.drive.weight.new_full((num_rows, self.drive.out_features), -torch.inf)

    def step(self, x: Tensor, state: Tensor, is_read: bool = True) -> tuple[Tensor | None, Tensor]:
        num_read, ends = x.shape[1] if is_read else 0, [x.shape[1]]
        y, [state] = in_segments(at_least_float32, self._step, x, num_read, self.segment, ends, state)
        return y if is_read else None, state

    def state_size(self, num_frames: int) -> int:
        """Floats kept from study to probe: one a unit."""
        return self.drive.out_features

    def _take_in(self, state: Tensor, x: Tensor) -> Tensor:
        """The state after these frames: (B, N) and (B, T, M) to (B, N)."""
        return _largest(state, self._margins(x))

    def _margins(self, x: Tensor) -> Tensor:
        """How far each unit is above where winning begins, a constant to autograd: (B, T, M) to (B, T, N)."""
        with torch.autocast(x.device.type, enabled=False):
            drive = self.drive(F.normalize(at_least_float32(x), dim=2))
            return drive - drive.detach().topk(self.winners + 1, 2).values[..., -2:].mean(2, keepdim=True)

    def _code(self, margins: Tensor) -> Tensor:
        """1 or above one half for winners, 0 or below one half for others."""
        soft = torch.sigmoid(margins / self.temperature)
        return (margins > 0).to(soft.dtype) + (soft - soft.detach()) if self.is_hard else soft

    def _tell(self, margins: Tensor, largest: Tensor) -> Tensor:
        """Of frames by their margins (B, R, N), with the largest before them (B, R or 1, N), to (B, R, M)."""
        with torch.autocast(margins.device.type, enabled=False):
            code, is_on = self._code(margins), self._code(largest)
            answer = (is_on * code).sum(2) / code.sum(2)
            load = is_on.mean(2).expand_as(answer)
            return self.output(torch.stack([answer, load], 2))


def _largest(state: Tensor, margins: Tensor) -> Tensor:
    """The state after frames with these margins, if any: (B, N) and (B, T, N) to (B, N)."""
    return torch.maximum(state, margins.amax(1)) if margins.shape[1] else state
