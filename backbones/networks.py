"""The network of a training, built by its settings, and the weights it starts from."""

from pathlib import Path

import torch
from models.clip_networks import clip_network, published_name
from models.vision import torchvision
from torch import Tensor, nn

from backbones.classifier import ClipBackbone
from backbones.config import BackboneSettings, NetworkConfig
from recognition.common.command_line import InputError
from recognition.features.backbone import read_seed, read_state, video_preset


def build_backbone(config: BackboneSettings) -> tuple[ClipBackbone, set[str]]:
    """The backbone as training starts, and the names of those of its parameters and buffers that came from weights.

    What weights do not give, the seed draws. Raises InputError for settings or weights that do not fit.
    """
    network, loaded = build_network(config.network, config.training.seed)
    preset = video_preset(published_name(config.network.name)[0])
    return ClipBackbone(network, preset.mean, preset.std), loaded


def build_network(config: NetworkConfig, seed: int) -> tuple[nn.Module, set[str]]:
    """The network with the weights that settings name, and the names of what came from them; see `build_backbone`."""
    name, gates = published_name(config.name)
    settings = config.temporal_gates if config.temporal_gates is not None else gates
    seed = read_seed(config.weights) if (config.weights or "").startswith("random:") else seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network = clip_network(
                name,
                width=config.width,
                dilate_last=config.dilate_last,
                expansion=config.expansion,
                stem_pool=config.stem_pool,
                temporal_gates=settings,
            )
        except ValueError as error:
            raise InputError(f"network: {error}") from None
    if config.weights is None or config.weights.startswith("random:"):
        return network, set()
    state = _default_state(name) if config.weights == "DEFAULT" else read_state(Path(config.weights), "network.weights")
    return network, load_what_fits(network, state, config)


def load_what_fits(network: nn.Module, state: dict[str, Tensor], config: NetworkConfig) -> set[str]:
    """Give a network all weights but its last layer's, by name and shape; returns the names of those that it has got.

    New temporal gates are no misfit: they are not in the weights of a network without. Raises InputError for anything
    else that does not fit, unless `partial`: then it is told.
    """
    state = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    own = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("fc.")}
    fitting = {name for name, tensor in state.items() if name in own and own[name].shape == tensor.shape}
    has_gates = any("gate" in name for name in state)
    absent = [name for name in own if name not in fitting and (has_gates or "gate" not in name)]
    strange = [name for name in state if name not in fitting]
    if absent or strange:
        told = f"{len(strange)} entries fit nothing ({', '.join(strange[:3])}), {len(absent)} are not in it "
        told += f"({', '.join(absent[:3])})"
        if not config.partial:
            raise InputError(
                f"network.weights: {config.weights}: does not fit {config.name}: {told}; set network.name and its "
                f"other settings as the weights were trained, or network.partial=true to load what fits"
            )
        print(f"network.weights: {told}; the rest is loaded")
    network.load_state_dict({name: state[name] for name in fitting}, strict=False)
    return fitting


def _default_state(name: str) -> dict[str, Tensor]:
    """Of torchvision's weights, downloaded once. Raises InputError where there are none or they cannot be had."""
    try:
        return torchvision.models.get_model_weights(name).DEFAULT.get_state_dict(progress=True)
    except ValueError:
        raise InputError(f"network.weights: DEFAULT: torchvision has none for {name}; name a file") from None
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"network.weights: DEFAULT: could not be downloaded ({error}); name a file, or leave it out to start anew"
        ) from None
