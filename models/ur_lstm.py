"""UR-LSTM as a sequence mixer; the layer itself, with its equations, is the standalone file ur_lstm.py.

Shapes: B episodes, T frames, M model width.
"""

from torch import Tensor

from models.config import Count, MixerConfig
from models.mixer import Mixer
from ur_lstm import URLSTM


class URLSTMMixer(Mixer):
    """One layer of UR-LSTM. Its gates start with time scales from 1 to M / 2 frames and reach further as they learn."""

    class Config(MixerConfig):
        n_layers: Count = 2
        residual: bool = False
        uniform_init: bool = True
        refine: bool = True
        learn_forget_bias: bool = False
        checkpoint_every: Count | None = 256  # frames between kept states; None keeps all of them

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

    def forward(self, x: Tensor, num_last: int | None = None) -> Tensor:
        """x (B, T, M) to (B, T, M), or to the last `num_last` frames alone."""
        x = self.ur_lstm(x)[0]
        return x if num_last is None else x[:, x.shape[1] - num_last :]

    def state_size(self, num_frames: int) -> int:
        """Floats kept from study to probe: hidden and cell."""
        return 2 * self.ur_lstm.hidden_size
