"""How memorable a frame is to people: the network of ResMem, from pixels to a number between 0 and 1.

People agree on which pictures they remember. ResMem predicts it (Needell and Bainbridge 2022, Comput. Brain Behav. 5,
168-184). Its weights are not ours to give: they are published for non-commercial research, as resmem/model.pt in the
package `resmem` on PyPI and in its repository.

Shapes: N frames.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recognition.common.command_line import InputError, nearest
from recognition.evaluation.activations import record
from recognition.features.backbone import load_weights, read_seed, state_digest, torchvision
from recognition.films.alterations import ALTERATIONS
from recognition.films.video import DECODER, DecodeError, decode

RESIZED, CROPPED = 256, 227  # pixels: frames are squeezed into a square, of which the middle is seen
CHANNELS = (48, 256, 384, 384, 256)  # of the perceptual branch's convolutions
WIDTHS = (4096, 4096, 2048, 1024, 512, 256)  # of the layers that read both branches
PICTURES = f"{DECODER}, resized by Pillow"  # how a frame comes to the network, for files to say
Fit = Literal["squeeze", "letterbox"]


class MemorabilityNet(nn.Module):
    """A perceptual branch like AlexNet's beside a semantic one, a whole ResNet-152, read together.

    Maps pictures (N, 3, 227, 227) with values from 0 to 1, not normalised, to scores (N,) between 0 and 1. Parameters
    bear the names of the published weights: features.*, conv1 to conv5 and fc6 to fc12.

    Args:
        pretrained: a file with weights, see `load_weights`; without one, weights are random.
        semantic: builds the semantic branch, a ResNet of torchvision.
        channels: of the perceptual branch's convolutions.
        widths: of the layers that read both branches.
    """

    def __init__(
        self,
        pretrained: str | Path | None = None,
        *,
        semantic: Callable[..., nn.Module] = torchvision.models.resnet152,
        channels: Sequence[int] = CHANNELS,
        widths: Sequence[int] = WIDTHS,
    ):
        super().__init__()
        self.features = semantic(zero_init_residual=True)  # else random weights give all pictures a score of 1
        first, second, third, fourth, fifth = channels
        self.conv1 = nn.Conv2d(3, first, 11, stride=4)
        self.conv2 = nn.Conv2d(first, second, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(second, third, 3, padding=1, groups=2)
        self.conv4 = nn.Conv2d(third, fourth, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(fourth, fifth, 3, padding=1, groups=2)
        last = self.features.fc
        assert isinstance(last, nn.Linear)
        sizes = (36 * fifth + last.out_features, *widths, 1)
        for number, (num_in, num_out) in enumerate(itertools.pairwise(sizes), 6):
            layer = nn.Linear(num_in, num_out)
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")  # torch's own leaves nearly one score for all
            self.add_module(f"fc{number}", layer)
        if pretrained is not None:
            self.load_weights(pretrained)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1:] != (3, CROPPED, CROPPED):
            raise ValueError(f"pictures of shape (N, 3, {CROPPED}, {CROPPED}) are due, not {tuple(images.shape)}")
        seen = torch.cat([self.perceptual(images).flatten(1), self.features(images)], 1)
        # In half precision the last layers would leave a few hundred different scores, and ranks full of ties.
        with torch.autocast(images.device.type, enabled=False):
            fc6, fc7, *others, fc12 = (self.get_submodule(f"fc{number}") for number in range(6, 13))
            hidden = F.dropout(F.relu(fc6(seen.float())), 0.5, self.training)
            hidden = F.dropout(F.relu(fc7(hidden)), 0.5, self.training)
            for layer in others:
                hidden = F.relu(layer(hidden))
            return torch.sigmoid(fc12(hidden))[:, 0]

    def perceptual(self, images: Tensor) -> Tensor:
        """The perceptual branch: pictures to (N, channels, 6, 6)."""
        for conv in (self.conv1, self.conv2):
            images = F.local_response_norm(F.max_pool2d(F.relu(conv(images)), 3, 2), 5)
        for conv in (self.conv3, self.conv4, self.conv5):
            images = F.relu(conv(images))
        return F.max_pool2d(images, 3, 2)

    def load_weights(self, path: str | Path) -> None:
        """Take all weights from a file with a state dict; no code in it is run. Raises InputError."""
        load_weights(self, Path(path), "the network of ResMem", "not random:SEED")


def memorability_transform(fit: Fit = "squeeze") -> Callable[[Tensor], Tensor]:
    """What turns a frame (3, H, W) uint8 into a picture (3, 227, 227) float32 from 0 to 1.

    "squeeze" gives up the ratio of the sides, as in the network's training; "letterbox" keeps it, between black bars.
    Pillow resizes, as it did for the published weights: other ways of rounding move scores by up to 0.003.
    """
    functional = torchvision.transforms.functional

    def transform(frame: Tensor) -> Tensor:
        if fit == "letterbox":
            height, width = frame.shape[1:]
            x, y = (max(height, width) - width), (max(height, width) - height)
            frame = F.pad(frame, (x // 2, x - x // 2, y // 2, y - y // 2))
        picture = functional.resize(functional.to_pil_image(frame), [RESIZED, RESIZED])
        return functional.to_tensor(functional.center_crop(picture, [CROPPED, CROPPED]))

    return transform


class Scorer:
    """The network with its weights, ready to score frames.

    Args:
        weights: a file with the published weights, or "random:SEED" for a network that has learned nothing.
        device: where the network runs; on a GPU its branches compute in half precision.
        fit: how frames become square, see `memorability_transform`.
        layer: also keep the activations of this module, such as "conv3" or "features.layer4.2.conv3".

    Raises:
        InputError: weights that cannot be had or do not fit; no such layer.
    """

    def __init__(self, weights: str, device: torch.device, fit: Fit = "squeeze", layer: str | None = None):
        self.device, self.fit, self.layer, self.pictures = device, fit, layer, PICTURES
        network, self.weights = load_network(weights)
        self.weights_sha256 = state_digest(network.state_dict())
        network.eval().requires_grad_(False)
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # as in Backbone
        self.transform = memorability_transform(fit)
        modules = dict(network.named_modules())
        if layer is not None and not isinstance(modules.get(layer), nn.Conv2d):
            convs = [name for name, module in modules.items() if isinstance(module, nn.Conv2d)]
            raise InputError(f"--layer {layer}: not a convolution of the network; {nearest(layer, convs)}")
        self._recorded = [] if layer is None else [modules[layer]]

    @torch.inference_mode()
    def score_frames(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (N, 3, 227, 227) from `transform` to scores (N,), and the spatial mean of every filter of the layer
        (N, C); C is 0 without one. Both float32 on the CPU."""
        frames = frames.to(self.device, memory_format=torch.channels_last)
        half = torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda")
        with half, record(*self._recorded, mean=True) as kept:
            score = self.network(frames).cpu()
        activations = [kept[module].float().cpu() for module in self._recorded]
        return score, torch.cat([torch.empty(len(score), 0), *activations], 1)

    def score_film(
        self, path: Path, frame: np.ndarray, alteration: np.ndarray, batch_size: int, times: np.ndarray | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Scores and activations of frames of one film, batch by batch in the order asked for.

        `frame` (n,) counts rows of the film's feature file, from 0, and ascends; `times` of all rows, in seconds, tell
        which frames they are: the middle ones, where rows are windows. Without them it counts the film's frames.
        `alteration` (n,) is 0 for a frame as it is, else counts from 1 in the order of ALTERATIONS.

        Raises DecodeError where the film cannot be read so far or has no such frame.
        """
        pictures = map(self.transform, _pictures(path, frame, alteration, times))
        while batch := list(itertools.islice(pictures, batch_size)):
            score, activations = self.score_frames(torch.stack(batch))
            yield score.numpy(), activations.numpy()


def load_network(weights: str) -> tuple[MemorabilityNet, str]:
    """Build the network with its weights; returns it and what to call the weights. Raises InputError."""
    if not weights.startswith("random:"):
        return MemorabilityNet(weights), Path(weights).name
    seed = read_seed(weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MemorabilityNet(), f"random:{seed}"


def _pictures(path: Path, frame: np.ndarray, alteration: np.ndarray, times: np.ndarray | None) -> Iterator[Tensor]:
    """Frames of a film, (3, H, W) uint8 each, altered where they are to be; see `Scorer.score_film`."""
    if times is not None and frame[-1] >= len(times):
        raise DecodeError(f"its feature file has {len(times)} rows, too few for a probe of frame {frame[-1]}")
    marks, ways, wanted = frame if times is None else times[frame], list(ALTERATIONS.values()), 0
    for number, (image, time_s) in enumerate(decode(path)):
        while wanted < len(marks) and marks[wanted] == (number if times is None else time_s):
            picture, way = torch.from_numpy(image).permute(2, 0, 1), alteration[wanted]
            yield ways[way - 1](picture[None])[0] if way else picture
            wanted += 1
        if wanted == len(marks):
            return
    raise DecodeError(f"has no frame {frame[wanted]}, which is probed; it is not the film that was preprocessed")
