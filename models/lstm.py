"""LSTM (Hochreiter and Schmidhuber 1997; forget gates: Gers et al. 2000), torch's own kernels.

Shapes: B episodes, T frames, Q probes, M model width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import Count, MixerConfig, Range
from models.familiarity import Familiarity, match
from models.mixer import Mixer, in_pieces

SMALL = 0.1  # what match_init multiplies frames by, so that tanh hardly bends them


class LSTM(Mixer):
    """One layer of `torch.nn.LSTM` whose gates can start open for as long as the task lasts.

    torch starts all gates near one half, a memory of about two frames. A forget-gate bias b keeps a memory for about
    exp(b) frames: `forget_bias_range` [low, high] spreads the units' biases evenly from low to high, and
    `input_bias_range` does so for the input gates; with the negated range these start as shut as the forget gates
    are open (chrono initialisation, Tallec and Ollivier 2018, arXiv:1804.11188). None leaves torch's values.

    With `familiarity`, which is for probes that do not write, the cosine of the cell with what the probe would add to
    it is told. `match_init` starts the cell as a sum of the frames themselves: gates depend on neither frame nor hidden
    state.
    """

    class Config(MixerConfig):
        n_layers: Count = 2
        residual: bool = False
        forget_bias_range: Range | None = None
        input_bias_range: Range | None = None
        familiarity: bool = False

    def __init__(self, config: Config):
        super().__init__()
        self.lstm = nn.LSTM(config.d_embed, config.d_embed, batch_first=True)
        width = config.d_embed
        for first, bias_range in ((0, config.input_bias_range), (width, config.forget_bias_range)):
            if bias_range is not None:
                of_input, of_hidden = (self.lstm.get_parameter(f"bias_{name}_l0") for name in ("ih", "hh"))
                with torch.no_grad():  # torch orders the gates i, f, g, o and adds two biases
                    of_input[first : first + width] = torch.linspace(*bias_range, width)
                    of_hidden[first : first + width] = 0
        self.familiarity = Familiarity(1, width) if config.familiarity else None
        self.only_reads = config.familiarity
        if config.match_init:
            frame_weight, hidden_weight, *biases = self.lstm.all_weights[0]
            match(frame_weight[2 * width : 3 * width], SMALL)
            nn.init.zeros_(frame_weight[: 2 * width])
            nn.init.zeros_(hidden_weight[: 3 * width])
            for bias in biases:
                nn.init.zeros_(bias[2 * width : 3 * width])

    def forward(self, x: Tensor, num_last: int | None = None) -> Tensor:
        """x (B, T, M) to (B, T, M), or to the last `num_last` frames alone."""
        x = self.lstm(x)[0]
        return x if num_last is None else x[:, x.shape[1] - num_last :]

    def study(
        self, x: Tensor, ends: Sequence[int], is_read: bool = True
    ) -> tuple[Tensor | None, list[tuple[Tensor, Tensor]]]:
        return in_pieces(self.lstm, x, ends, is_read)

    def read(self, queries: Tensor, state: tuple[Tensor, Tensor]) -> Tensor:
        h, c = (part.transpose(0, 1) for part in state)  # (B, 1, M)
        of_frame, of_hidden, frame_bias, hidden_bias = self.lstm.all_weights[0]
        gates = F.linear(queries, of_frame, frame_bias) + F.linear(h.to(queries.dtype), of_hidden, hidden_bias)
        i, f, g, o = gates.chunk(4, dim=2)  # (B, Q, M)
        added = torch.sigmoid(i) * torch.tanh(g)
        y = torch.sigmoid(o) * torch.tanh(torch.sigmoid(f) * c + added)
        if self.familiarity is None:
            return y
        return y + self.familiarity(c.expand_as(added)[:, None], added[:, None])

    def start(self, num_rows: int) -> tuple[Tensor, Tensor]:
        hidden = self.lstm.all_weights[0][1].new_zeros(1, num_rows, self.lstm.hidden_size)
        return hidden, torch.zeros_like(hidden)

    def step(
        self, x: Tensor, state: tuple[Tensor, Tensor], is_read: bool = True
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if x.shape[1] != 1:
            return self.lstm(x, state)
        # torch's kernel for sequences orders all weights anew at every call, which takes longer than a frame.
        h, c = torch.lstm_cell(x[:, 0], tuple(part[0] for part in state), *self.lstm.all_weights[0])
        return h[:, None], (h[None], c[None])

    def state_size(self, num_frames: int) -> int:
        """Floats kept from study to probe: hidden and cell."""
        return 2 * self.lstm.hidden_size
