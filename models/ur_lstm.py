"""UR-LSTM as a sequence mixer; the layer itself, with its equations, is the standalone file ur_lstm.py.

Shapes: B episodes, T frames, Q probes, M model width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import Count, MixerConfig, Range
from models.familiarity import Familiarity, match
from models.lstm import SMALL
from models.mixer import Mixer, in_pieces
from ur_lstm import URLSTM, URLSTMCell


class URLSTMMixer(Mixer):
    """One layer of UR-LSTM. Its gates start with time scales from 1 to M / 2 frames and reach further as they learn.

    With `familiarity`, which is for probes that do not write, the cosine of the cell with what the probe would write is
    told. `match_init` starts the cell as a running mean of the frames themselves: gates depend on neither frame nor
    hidden state. Their time scales are then better alike, for a mean of few frames is long and would drown the others:
    a bias b of `forget_bias_range` keeps a memory for about exp(b) / 2 frames.
    """

    class Config(MixerConfig):
        n_layers: Count = 2
        residual: bool = False
        uniform_init: bool = True
        refine: bool = True
        learn_forget_bias: bool = False
        forget_bias_range: Range | None = None  # spread evenly over the units, in place of uniform_init
        checkpoint_every: Count | None = 256  # frames between kept states; None keeps all of them
        familiarity: bool = False

    def __init__(self, config: Config):
        super().__init__()
        self.ur_lstm = URLSTM(
            config.d_embed,
            config.d_embed,
            uniform_init=config.uniform_init,
            refine=config.refine,
            learn_forget_bias=config.learn_forget_bias,
            checkpoint_every=config.checkpoint_every,
        )
        if config.forget_bias_range is not None:
            with torch.no_grad():
                self._cell.forget_bias.copy_(torch.linspace(*config.forget_bias_range, config.d_embed))
        self.familiarity = Familiarity(1, config.d_embed) if config.familiarity else None
        self.only_reads = config.familiarity
        if config.match_init:
            cell, width = self._cell, config.d_embed
            match(cell.weight_ih[2 * width : 3 * width], SMALL)
            nn.init.zeros_(cell.weight_ih[: 2 * width])
            nn.init.zeros_(cell.weight_hh[: 3 * width])

    def forward(self, x: Tensor, num_last: int | None = None) -> Tensor:
        """x (B, T, M) to (B, T, M), or to the last `num_last` frames alone."""
        x = self.ur_lstm(x)[0]
        return x if num_last is None else x[:, x.shape[1] - num_last :]

    def study(
        self, x: Tensor, ends: Sequence[int], is_read: bool = True
    ) -> tuple[Tensor | None, list[tuple[Tensor, Tensor]]]:
        return in_pieces(self.ur_lstm, x, ends, is_read)

    def read(self, queries: Tensor, state: tuple[Tensor, Tensor]) -> Tensor:
        cell, x = self._cell, queries.flatten(0, 1)
        h, c = (part[0].repeat_interleave(queries.shape[1], 0) for part in state)  # (B Q, M)
        y = cell(x, (h, c))[0].view_as(queries)
        if self.familiarity is None:
            return y
        rows = slice(2 * cell.hidden_size, 3 * cell.hidden_size)  # of the update
        update = F.linear(x, cell.weight_ih[rows], cell.bias[rows]) + F.linear(h.to(x.dtype), cell.weight_hh[rows])
        remembered, written = (part.view_as(queries)[:, None] for part in (c, torch.tanh(update)))
        return y + self.familiarity(remembered, written)

    def start(self, num_rows: int) -> tuple[Tensor, Tensor]:
        hidden = self._cell.weight_hh.new_zeros(1, num_rows, self.ur_lstm.hidden_size)
        return hidden, torch.zeros_like(hidden)

    def step(
        self, x: Tensor, state: tuple[Tensor, Tensor], is_read: bool = True
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if x.shape[1] != 1:
            return self.ur_lstm(x, state)
        h, c = self._cell(x[:, 0], (state[0][0], state[1][0]))  # what is made for sequences orders its weights first
        return h[:, None], (h[None], c[None])

    @property
    def _cell(self) -> URLSTMCell:
        cell = self.ur_lstm.layers[0]
        assert isinstance(cell, URLSTMCell)
        return cell

    def state_size(self, num_frames: int) -> int:
        """Floats kept from study to probe: hidden and cell."""
        return 2 * self.ur_lstm.hidden_size
