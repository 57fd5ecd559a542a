"""Frozen networks that turn frames into features, one by one or in windows of 16: any classifier of images or of videos
in torchvision, without its last layer."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from models.vision import torchvision
from recognition.common.command_line import InputError, first_line, nearest
from recognition.common.files import is_of_system

F, F2 = torchvision.transforms.functional, torchvision.transforms.v2.functional
LFS_POINTER = b"version https://git-lfs"  # what such a file begins with
CLIP_FRAMES = 16  # as torchvision's networks for videos are trained and tested with


class Preprocessing:
    """torchvision's own preprocessing of a classifier, in two halves: the first can run where frames are decoded.

    `crop` then `normalise` equals `get_model_weights(name).DEFAULT.transforms()` applied to the image as Pillow holds
    it, or to the video as a uint8 tensor. Of a resized image one value in 100 may be rounded another way.

    A network for images reads frame by frame. One for videos reads windows of `window` = 16 consecutive frames, the
    first frames of which are `stride` apart; None takes 16 too, so that no frame is in two windows. A window stands for
    its frame `middle`, counted from 0: that one's time is its time.

    Raises:
        InputError: an unknown name, or a stride for a network for images.
    """

    def __init__(self, name: str, stride: int | None = None):
        self.preset = default_weights(name).transforms()
        self.window = CLIP_FRAMES if name in _networks_for_videos() else 1
        if stride is not None and self.window == 1:
            raise InputError(f"--window_stride {stride}: {name} reads single frames, not windows; leave it out")
        self.stride, self.middle = stride or self.window, self.window // 2

    def crop(self, frame: Tensor) -> Tensor:
        """Resize and centre-crop one frame: (3, H, W) uint8 to (3, crop, crop) uint8."""
        preset = self.preset
        if self.window == 1:  # in whole numbers as Pillow does, with which these networks were trained, and fast
            frame = F2.resize(frame, preset.resize_size, interpolation=preset.interpolation, antialias=True)
        else:  # in floating point, for these were trained on tensors
            frame = F.resize(frame, preset.resize_size, interpolation=preset.interpolation, antialias=False)
        return F.center_crop(frame, preset.crop_size)

    def normalise(self, frames: Tensor) -> Tensor:
        """uint8 (N * window, 3, crop, crop), windows one after the other, to what the network reads, float32: mean and
        standard deviation taken out, images (N, 3, crop, crop) or videos (N, 3, window, crop, crop)."""
        mean, deviation = (
            255 * torch.tensor(x, device=frames.device)[:, None, None] for x in (self.preset.mean, self.preset.std)
        )
        frames = frames.to(torch.float32, memory_format=torch.channels_last).sub_(mean).div_(deviation)
        return frames if self.window == 1 else frames.unflatten(0, (-1, self.window)).transpose(1, 2)


class Backbone:
    """A frozen classifier without its last linear layer.

    Args:
        name: a classifier of torchvision.models, such as "resnet18", or of torchvision.models.video, such as "r3d_18"
            (512 features both).
        weights: "DEFAULT" (torchvision's best, downloaded once), "random:SEED", or a file with the classifier's
            state dict (.pt, .pth or .safetensors).
        device: where the network runs.
        fast: compute in half precision where the device has it. Features then differ from float32's by rounding
            (cosine similarity above 0.9999 for resnet18).
        stride: of the windows of a network for videos, see `Preprocessing`.
        change: called with the network to change it in place. It has torchvision's weights already, but weights from
            a file are those of the changed network. What it draws at random is set by SEED, or else by seed 0.
        change_name: what to call the change.

    `name` then says all that features depend on but the weights.

    Raises:
        InputError: an unknown name, weights that cannot be had or do not fit, a stride without windows.
    """

    def __init__(
        self,
        name: str,
        weights: str,
        device: torch.device,
        fast: bool = True,
        stride: int | None = None,
        change: Callable[[nn.Module], object] | None = None,
        change_name: str = "",
    ):
        self.device = device
        self.preprocessing = Preprocessing(name, stride)
        network, self.weights = _load(name, weights, change)
        self.weights_sha256 = state_digest(network.state_dict())
        self.num_features = _cut_last_linear(network, name)
        network.eval().requires_grad_(False)
        self.name = f"{name} with {change_name}" if change else name
        # Batch norms become part of the convolutions before them, and channels lie together: the same sums, faster.
        if self.preprocessing.window == 1:
            network, layout = fuse(network), torch.channels_last
        else:  # whose convolutions are classes of their own, which are not fused
            self.name += f", {self.preprocessing.window} frames every {self.preprocessing.stride}"
            layout = torch.channels_last_3d
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


def default_weights(name: str) -> Any:
    """A classifier's recommended weights, of torchvision's `WeightsEnum`. Raises InputError for an unknown name."""
    names = [*torchvision.models.list_models(module=torchvision.models), *_networks_for_videos()]
    if name not in names:
        raise InputError(f"--backbone {name}: not a classifier of torchvision; {nearest(name, names)}")
    return torchvision.models.get_model_weights(name).DEFAULT


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


def _networks_for_videos() -> list[str]:
    """Names of the classifiers that read videos."""
    return torchvision.models.list_models(module=torchvision.models.video)


def _load(name: str, weights: str, change: Callable[[nn.Module], object] | None) -> tuple[nn.Module, str]:
    """Build the classifier, change it and give it its weights; returns it and what to call the weights."""
    default, seed = default_weights(name), 0
    if weights.startswith("random:"):
        seed = read_seed(weights)

    def build(**options: Any) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = torchvision.models.get_model(name, **options)
            if change:
                change(network)
            return network

    if weights == "DEFAULT":
        try:
            return build(weights=default), str(default)
        except (URLError, OSError, RuntimeError) as error:
            raise InputError(
                f"--weights DEFAULT: {default} could not be downloaded ({error}); give a file with --weights PATH, "
                f"or --weights random:0 for a network that has learned nothing"
            ) from None
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}  # spares their warning
    network = build(weights=None, **options)
    if weights.startswith("random:"):
        return network, f"random:{seed}"
    load_weights(network, Path(weights), name, "neither DEFAULT nor random:SEED")
    return network, Path(weights).name


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


def load_weights(network: nn.Module, path: Path, name: str, others: str) -> None:
    """Give a network all its weights from a file with a state dict; no code in it is run.

    Raises InputError, for which `name` says what they are to fit, and `others` what else weights may be called.
    """
    try:
        network.load_state_dict(_read_state(path, others))
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"--weights {path}: does not fit {name}: {reason[:200]}") from None


def _read_state(path: Path, others: str) -> dict[str, Tensor]:
    """Read a state dict without unpickling code. Raises InputError."""
    if not path.is_file():
        raise InputError(f"--weights {path}: no such file, and {others}")
    with open(path, "rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise InputError(f"--weights {path}: is a pointer of Git LFS, not the weights; fetch with git lfs pull")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both readers raise many kinds for a damaged file
        if is_of_system(error):
            raise
        raise InputError(f"--weights {path}: cannot be read as weights: {first_line(error)}") from None


def _cut_last_linear(network: nn.Module, name: str) -> int:
    """Replace the classifier's last linear layer by the identity; returns how many features it was given."""
    linears = [(path, module) for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise InputError(f"--backbone {name}: has no linear layer to read features from; choose another")
    path, last = linears[-1]
    network.set_submodule(path, nn.Identity())
    return last.in_features
