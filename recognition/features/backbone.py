"""Frozen networks that turn frames into features, one by one or in windows: any classifier of images or of videos in
torchvision, and any network of `models.clip_networks`, without its last layer; and the picture half of CLIP."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from models.clip_networks import NETWORKS, clip_network, published_name
from models.temporal_gates import insert_temporal_gates
from models.vision import torchvision
from recognition.common.command_line import InputError, first_line
from recognition.features.clip_model import ClipModel, is_clip, read_clip
from recognition.features.preprocessing import Preprocessing, default_weights
from recognition.features.weights_file import Eye, read_eye, read_state


class Backbone:
    """A frozen classifier without its last linear layer.

    Args:
        name: a classifier of torchvision.models, such as "resnet18", or of torchvision.models.video, such as "r3d_18"
            (512 features both), or a network of `models.clip_networks`; "srtg_NAME" has temporal gates as published.
            A name with a slash, or a folder with config.json, is a CLIP, see `clip_model`, with weights of its own.
        weights: "DEFAULT" (torchvision's best, downloaded once), "random:SEED", or a file with the classifier's
            state dict (.pt, .pth or .safetensors). Its last linear layer may be missing, or of other classes. A file
            that says how its network sees (see `weights_file`) decides on what is not said here.
        device: where the network runs.
        fast: compute in half precision where the device has it. Features then differ from float32's by rounding
            (cosine similarity above 0.9999 for resnet18).
        stride, fps: of the windows of a network for videos, see `Preprocessing`.
        frame_fps: of a network for images, see `Preprocessing`.
        gates: settings of the temporal gates of a network of `models.clip_networks`, see `insert_temporal_gates`.
            Weights from a file are those of the network with its gates; DEFAULT has none for them. What is drawn at
            random is set by SEED, or else by seed 0.

    `name` then says all that features depend on but the weights, `eye` what a network for clips is and how it sees
    (None of torchvision's others), and `films` has the SHA-256 of the films that it has learned from, as far as its
    file tells.

    Raises:
        InputError: an unknown name, weights that cannot be had, do not fit or are of another network, gates that cannot
            be had, windows for a network for images.
    """

    def __init__(
        self,
        name: str,
        weights: str,
        device: torch.device,
        fast: bool = True,
        stride: int | None = None,
        fps: float | None = None,
        gates: Mapping[str, Any] | None = None,
        frame_fps: float | None = None,
    ):
        self.device = device
        clip = _clip(name, weights, gates)
        self.eye = eye = None if clip else _eye(name, weights, gates)
        name = clip.name if clip else eye.name if eye else name
        self.preprocessing = Preprocessing(name, stride, eye, fps, frame_fps, clip.pictures if clip else None)
        self.films = frozenset(eye.films if eye else ())
        if clip:
            network, self.num_features, self.weights = clip.network, clip.num_features, weights
            self.weights_sha256 = state_digest(network.state_dict())
        else:
            network, self.weights = _build(name, weights, eye), _called(weights, name)
            last, self.num_features = _last_linear(network, name)
            state = network.state_dict()
            if _is_file(weights):
                state = load_weights(network, Path(weights), name, "neither DEFAULT nor random:SEED", last)
            self.weights_sha256 = state_digest(state)
            network.set_submodule(last, nn.Identity())
        network.eval().requires_grad_(False)
        self.name = str(eye or name)
        if self.preprocessing.window > 1 or frame_fps:
            self.name += f", {self.preprocessing}"
        # Batch norms become part of the convolutions before them, and channels lie together: the same sums, faster.
        layout = torch.channels_last
        if self.preprocessing.window > 1:  # whose convolutions are classes of their own, which are not fused
            layout = torch.channels_last_3d
        elif not clip:
            network = fuse(network)
        self.network = network.to(device, memory_format=layout)  # type: ignore[call-overload]  # not in torch's stub
        self.compute_dtype = fast_dtype(device) if fast else torch.float32
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                module.to(self.compute_dtype)  # as autocast would for every batch anew

    @torch.inference_mode()
    def features(self, frames: Tensor) -> Tensor:
        """uint8 (N * window, 3, crop, crop) from `Preprocessing.crop`, windows one after the other, to their features
        (N, num_features) float32 on the CPU."""
        frames = self.preprocessing.normalise(frames.to(self.device, non_blocking=True))
        with torch.autocast(self.device.type, self.compute_dtype, enabled=self.compute_dtype != torch.float32):
            return self.network(frames).flatten(1).float().cpu()


def choose_device(name: str) -> torch.device:
    """The device of a command line's --device; "auto" takes a GPU if there is one. Raises InputError.

    Of several GPUs, each of the processes that torchrun starts gets its own.
    """
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        if device == torch.device("cuda"):  # without a number
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.empty(0, device=device)
        return device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: {first_line(error)}") from None


def fast_dtype(device: torch.device) -> torch.dtype:
    """The precision in which convolutions run fastest: float16 on GPUs, bfloat16 on CPUs built for it, else float32."""
    if device.type == "cuda":
        return torch.float16
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return torch.bfloat16 if "avx512_bf16" in flags or "amx_bf16" in flags else torch.float32


def state_digest(state: dict[str, Tensor]) -> str:
    """SHA-256 of a network's weights: of every name and every tensor's bytes, in order of names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _clip(name: str, weights: str, gates: Mapping[str, Any] | None) -> ClipModel | None:
    """The CLIP of this name, or None if it is a network of another kind. Raises InputError."""
    if not is_clip(name):
        return None
    if weights != "DEFAULT":
        raise InputError(f"--weights {weights}: {name} has weights of its own; leave the option out")
    if gates is not None:
        raise InputError(f"--temporal_gates: temporal gates are for residual networks for clips; {name} is none")
    return read_clip(name)


def _is_file(weights: str) -> bool:
    """Whether weights are to be read from a file."""
    return weights != "DEFAULT" and not weights.startswith("random:")


def _eye(name: str, weights: str, gates: Mapping[str, Any] | None) -> Eye | None:
    """What a network for clips is and how it sees, by its weights' file or as usual; None of torchvision's others.

    Raises InputError where the file is of another network, or there are gates for one that cannot have them.
    """
    network, published = published_name(name)
    gates = published if gates is None else dict(gates)
    if _is_file(weights) and (eye := read_eye(weights)):
        if eye.name != network:
            raise InputError(f"--backbone {name}: {weights} is of {eye.name}; say --backbone {eye.name}")
        if gates not in (None, eye.gates):
            its_gates = "none" if eye.gates is None else json.dumps(eye.gates)
            raise InputError(f"--temporal_gates: {weights} has other ones ({its_gates}); leave the option out")
        return eye
    if network in NETWORKS:
        return Eye(network, gates=gates)
    if gates is not None:
        raise InputError(f"--temporal_gates: temporal gates are for residual networks for clips; {network} is none")
    return None


def _build(name: str, weights: str, eye: Eye | None) -> nn.Module:
    """The classifier, with its weights but for those from a file. Raises InputError."""
    seed = read_seed(weights) if weights.startswith("random:") else 0
    options: dict[str, Any] = {}
    if weights == "DEFAULT":
        options = {"weights": default_weights(name)}
    elif name in ("googlenet", "inception_v3"):
        options = {"init_weights": True}  # spares their warning
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if eye and weights != "DEFAULT":
                return clip_network(name, temporal_gates=eye.gates, **eye.shape)
            network = torchvision.models.get_model(name, **options)
            return insert_temporal_gates(network, **eye.gates) if eye and eye.gates is not None else network
    except ValueError as error:
        raise InputError(f"--temporal_gates: {error}") from None
    except (URLError, OSError, RuntimeError) as error:
        if weights != "DEFAULT":
            raise
        raise InputError(
            f"--weights DEFAULT: {options['weights']} could not be downloaded ({error}); give a file with --weights "
            f"PATH, or --weights random:0 for a network that has learned nothing"
        ) from None


def _called(weights: str, name: str) -> str:
    """What to call the weights of a network."""
    if weights == "DEFAULT":
        return str(default_weights(name))
    return f"random:{read_seed(weights)}" if weights.startswith("random:") else Path(weights).name


def read_seed(weights: str) -> int:
    """The seed in "random:SEED". Raises InputError."""
    try:
        seed = int(weights.removeprefix("random:"))
        torch.Generator().manual_seed(seed)
    except (ValueError, RuntimeError):  # the second is torch's for more than 64 bits
        raise InputError(
            f"--weights {weights}: the seed after 'random:' must be a whole number of at most 64 bits"
        ) from None
    return seed


def load_weights(network: nn.Module, path: Path, name: str, others: str, free: str = "") -> dict[str, Tensor]:
    """Give a network all its weights from a file with a state dict; no code in it is run. Those of the layer `free`
    stay as they are, whether or not the file has some.

    Returns all of the file's weights, as the network has them. Raises InputError, for which `name` says what they are
    to fit, and `others` what else weights may be called.
    """
    found = read_state(path, others)
    own = {key: value for key, value in network.state_dict().items() if free and key.startswith(f"{free}.")}
    try:
        of_free = {key: found[key].to(value.dtype) for key, value in own.items() if key in found}
        network.load_state_dict({**found, **own})
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"--weights {path}: does not fit {name}: {reason[:200]}") from None
    return {key: value for key, value in network.state_dict().items() if key not in own} | of_free


def _last_linear(network: nn.Module, name: str) -> tuple[str, int]:
    """The name of the classifier's last linear layer, and how many features it is given. Raises InputError."""
    linears = [(path, module) for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise InputError(f"--backbone {name}: has no linear layer to read features from; choose another")
    path, last = linears[-1]
    return path, last.in_features
