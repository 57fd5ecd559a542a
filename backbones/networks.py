"""The network of a training: built by its settings, and started from weights; and how it sees."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from backbones.classifier import ClipBackbone
from backbones.config import BackboneSettings, NetworkConfig
from backbones.dataset import Item, middle_step
from backbones.items import original_digests
from models.clip_networks import clip_network, published_name
from models.temporal_gates import SqueezeRecursion
from models.vision import torchvision
from recognition.common.command_line import InputError
from recognition.features.backbone import read_seed
from recognition.features.weights_file import Eye, read_eye, read_state
from recognition.training.runs import deciding_settings, describe_environment

SETTINGS = ("width", "dilate_last", "expansion", "stem_pool")


def build_backbone(config: BackboneSettings, with_weights: bool = True) -> tuple[ClipBackbone, set[str]]:
    """The backbone as training starts, and the names of those of its parameters and buffers that came from weights.

    What weights do not give, the seed draws. Raises InputError for settings or weights that do not fit.
    """
    eye = eye_of(config, ())
    weights = config.network.weights if with_weights else None
    is_random = (weights or "").startswith("random:")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(read_seed(str(weights)) if is_random else config.training.seed)
        try:
            network = clip_network(eye.name, temporal_gates=eye.gates, **eye.shape)
        except ValueError as error:
            raise InputError(f"network: {error}") from None
    loaded: set[str] = set()
    if weights and not is_random:
        state = _default_state(eye.name) if weights == "DEFAULT" else read_weights(Path(weights), "network.weights: ")
        loaded = load_what_fits(network, state, config.network)
    return ClipBackbone(network, eye.mean, eye.deviation), loaded


def eye_of(
    config: BackboneSettings, items: Sequence[Item], digests: Sequence[str] = (), classes: Sequence[str] = ()
) -> Eye:
    """What the backbone is and how it sees, to stand in its weights' file, with the SHA-256 of the films that it has
    learned from, and the names of its classes.

    Where clips are counted in frames of films, the rate is that of the middle one of the films that say theirs, and
    none where frames are consecutive. Raises InputError where no film does and frames are apart.
    """
    name, gates = published_name(config.network.name)
    clip, fps = config.clip, config.clip.fps if config.clip.stride is None else None
    if clip.stride is not None and (step := middle_step(0, clip)) > 1 and items:
        if not (rates := [item.fps for item in items if item.fps]):
            raise InputError(f"data.store_fps: is missing; weights are to say how fast frames {step} apart are")
        fps = median(rates) / step
    return Eye(
        name,
        gates=gates if config.network.temporal_gates is None else config.network.temporal_gates,
        **{key: getattr(config.network, key) for key in SETTINGS},
        frames=clip.frames,
        fps=fps,
        side=clip.side,
        keep_aspect=clip.keep_aspect,
        run=str(config.name),
        code_revision=describe_environment("")["git_revision"] or "",
        config_digest=hashlib.sha256(json.dumps(deciding_settings(config)).encode()).hexdigest(),
        classes=tuple(classes),
        films=tuple(digests),
    )


def films_seen(config: BackboneSettings, items: Sequence[Item]) -> list[str]:
    """SHA-256 of the films that the backbone will have learned from: those of items, and those of its first weights, as
    far as their file tells."""
    weights = config.network.weights
    eye = read_eye(weights) if weights and weights != "DEFAULT" and not weights.startswith("random:") else None
    return sorted({*original_digests(items), *(eye.films if eye else ())})


def load_what_fits(network: nn.Module, state: Mapping[str, Tensor], config: NetworkConfig) -> set[str]:
    """Give a network all weights but its last layer's, by name and shape; returns the names of those that it has got.

    Gates that are new to the weights are no misfit. Raises InputError for anything else that does not fit, unless
    `partial`: then it is told.
    """
    gates = tuple(f"{name}." for name, module in network.named_modules() if isinstance(module, SqueezeRecursion))
    state = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    own = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("fc.")}
    fitting = {name for name, tensor in state.items() if name in own and own[name].shape == tensor.shape}
    has_gates = any(name.startswith(gates) for name in state) if gates else False
    absent = [name for name in own if name not in fitting and (has_gates or not (gates and name.startswith(gates)))]
    strange = [name for name in state if name not in fitting]
    if absent or strange:
        told = f"{len(strange)} of its entries fit nothing ({', '.join(strange[:3])}), {len(absent)} are missing "
        told += f"({', '.join(absent[:3])})"
        if not config.partial:
            raise InputError(
                f"network.weights: {config.weights} does not fit {config.name}: {told}; set network.name and what "
                f"stands beside it as the weights were trained, or network.partial=true to load what fits"
            )
        print(f"network.weights: {told}; the rest is loaded")
    network.load_state_dict({name: state[name] for name in fitting}, strict=False)
    return fitting


def read_weights(path: Path, called: str = "") -> dict[str, Tensor]:
    """As `read_state`, but an InputError begins with what the weights are called here, and their path."""
    try:
        return read_state(path)
    except InputError as error:
        raise InputError(str(error).replace("--weights ", called, 1)) from None


def _default_state(name: str) -> Mapping[str, Tensor]:
    """torchvision's weights, downloaded once. Raises InputError where there are none or they cannot be had."""
    try:
        return torchvision.models.get_model_weights(name).DEFAULT.get_state_dict(progress=True)
    except ValueError:
        raise InputError(f"network.weights: DEFAULT: torchvision has none for {name}; name a file") from None
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"network.weights: DEFAULT: could not be downloaded ({error}); name a file, or leave it out to start anew"
        ) from None
