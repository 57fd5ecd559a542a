"""LSTM (Hochreiter and Schmidhuber 1997; forget gates: Gers et al. 2000), torch's own kernels.

Shapes: B episodes, T frames, M model width.
"""

import torch
from torch import Tensor, nn

from models.config import Count, MixerConfig, Range
from models.mixer import Mixer


class LSTM(Mixer):
    """One layer of `torch.nn.LSTM` whose gates can start open for as long as the task lasts.

    torch starts all gates near one half, a memory of about two frames. A forget-gate bias b keeps a memory for about
    exp(b) frames: `forget_bias_range` [low, high] spreads the units' biases evenly from low to high, and
    `input_bias_range` does so for the input gates; with the negated range these start as shut as the forget gates
    are open (chrono initialisation, Tallec and Ollivier 2018, arXiv:1804.11188). None leaves torch's values.
    """

    class Config(MixerConfig):
        n_layers: Count = 2
        residual: bool = False
        forget_bias_range: Range | None = None
        input_bias_range: Range | None = None

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

    def forward(self, x: Tensor, num_last: int | None = None) -> Tensor:
        """x (B, T, M) to (B, T, M), or to the last `num_last` frames alone."""
        x = self.lstm(x)[0]
        return x if num_last is None else x[:, x.shape[1] - num_last :]

    def state_size(self, num_frames: int) -> int:
        """Floats kept from study to probe: hidden and cell."""
        return 2 * self.lstm.hidden_size
