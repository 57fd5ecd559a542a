"""Models of recognition memory. A family is one file with a mixer class and its `Config`, and one line in MODELS."""

from models.config import MixerConfig
from models.lstm import LSTM
from models.mamba2 import Mamba2
from models.mlstm import MLSTM
from models.recogniser import Recogniser
from models.transformer import Transformer
from models.ur_lstm import URLSTMMixer

MODELS = {
    "transformer": Transformer,
    "lstm": LSTM,
    "ur_lstm": URLSTMMixer,
    "mlstm": MLSTM,
    "mamba2": Mamba2,
}
CONFIGS = {name: mixer.Config for name, mixer in MODELS.items()}
# Names in the published study's configuration files; its "LSTM" stacked UR-LSTM layers.
PUBLISHED_NAMES = {"TransformerEncoder": "transformer", "LSTM": "ur_lstm", "xLSTM": "mlstm", "Mamba": "mamba2"}


def build_model(name: str, config: MixerConfig, num_features: int, num_probes: int, repeat_test: int = 1) -> Recogniser:
    """Build a recogniser of `config.n_layers` layers of one family; torch's generator draws the weights."""
    mixers = [MODELS[name](config) for _ in range(config.n_layers)]
    return Recogniser(mixers, num_features, config.d_embed, num_probes, config.residual, repeat_test)
