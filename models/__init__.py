"""Models of recognition memory. A family is one file with a `Mixer` and its `Config`, and one line in MODELS."""

from models.bloom import Bloom
from models.config import StackConfig
from models.delta import Delta
from models.hebbian import Hebbian
from models.key_value_memory import KeyValueMixer
from models.knn_memory import KNNMemory
from models.lstm import LSTM
from models.mamba2 import Mamba2
from models.mixed import mixed_config
from models.mixer import Mixer
from models.mlstm import MLSTM
from models.novelty_filter import NoveltyFilter
from models.recogniser import Layout, Recogniser
from models.temporal_gates import TemporalGate
from models.transformer import Transformer
from models.ur_lstm import URLSTMMixer

MODELS: dict[str, type[Mixer]] = {
    "transformer": Transformer,
    "lstm": LSTM,
    "ur_lstm": URLSTMMixer,
    "mlstm": MLSTM,
    "mamba2": Mamba2,
    "temporal_gate": TemporalGate,
    "knn_memory": KNNMemory,
    "delta": Delta,
    "novelty_filter": NoveltyFilter,
    "bloom": Bloom,
    "hebbian": Hebbian,
}
_of_one_family = {name: mixer.Config for name, mixer in MODELS.items()}
CONFIGS: dict[str, type[StackConfig]] = {**_of_one_family, "mixed": mixed_config(_of_one_family)}
# Names in the published study's configuration files; its "LSTM" stacked UR-LSTM layers.
PUBLISHED_NAMES = {"TransformerEncoder": "transformer", "LSTM": "ur_lstm", "xLSTM": "mlstm", "Mamba": "mamba2"}


def build_model(name: str, config: StackConfig, layout: Layout) -> Recogniser:
    """Build a recogniser of the layers of `build_mixers`; torch's generator draws weights.

    The layout's `clip_frames` is for layers that look at clips and whose settings do not say how long these are. Raises
    ValueError as `Recogniser` does.
    """
    mixers, residual = build_mixers(name, config)
    return Recogniser(mixers, layout, config.d_embed, residual, config.match_init)


def build_mixers(name: str, config: StackConfig) -> tuple[list[Mixer], list[bool]]:
    """The layers that `config`, one of CONFIGS[name], asks for, and which of them are to be in a residual block.

    With key-value slots each layer follows a key-value memory of its own.
    """
    mixers: list[Mixer] = []
    residual = []
    for family, settings in config.layers_of(name):
        if config.key_value_slots:
            mixers.append(KeyValueMixer(config.d_embed, config.key_value_slots))
            residual.append(True)
        mixers.append(MODELS[family](settings))
        residual.append(settings.residual)
    return mixers, residual
