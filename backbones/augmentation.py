"""What makes each clip of a film another one: random crops, mirrors and colours; and the crops of tests.

A whole clip, one tensor (T, C, H, W), has one draw, so that nothing flickers. All draws come from torch's global
generator on the CPU, whatever the device of the clip; what is switched off draws nothing.

BYOL's recipe (arXiv:2006.07733) with the settings of Li et al. 2023 (doi:10.1145/3581783.3612131), who change the
colours of whole pictures before the crop. After it they cost a sixth, and a crop's mean brightness, which jitter of
contrast refers to, is its own.

Shapes: T frames, C channels, H x W pixels, S pixels a side of the square that a network sees.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from backbones.config import AugmentationConfig, ClipConfig
from models.vision import torchvision
from recognition.features.preprocessing import PRESET_SIZE, fitted

F, transforms = torchvision.transforms.functional, torchvision.transforms.v2
BLUR_SIZE, BLUR_SIGMA = 11, (0.1, 2.0)  # pixels; 2.5 deviations to either side
MIX_UP, CUT_MIX = 0.8, 1.0  # alpha of their beta distributions


class Augmentation:
    """Random crops and colours, as settings say.

    Crops are, in this order of what the settings have: of a picture resized to a random `short_side`; of a random
    `area` and `aspect`, resized to S x S; at a random place of the picture that `still` would crop. Without
    `keep_aspect` the picture is squeezed first, so that networks learn the geometry in which they are read.
    """

    def __init__(self, config: AugmentationConfig, clip: ClipConfig):
        self.config, self.side, self.keep_aspect = config, clip.side, clip.keep_aspect
        self._flip = transforms.RandomHorizontalFlip(config.flip) if config.flip else None
        self._colours = {None: _byol_colours, "srtg": _srtg_colours, "none": lambda config: []}[config.preset](config)

    def crop(self, clip: Tensor, side: int | None = None, scale: float = 1.0) -> Tensor:
        """A random crop, mirrored or not, of a clip uint8 (T, C, H, W): uint8 (T, C, S, S), S = `side` or clip.side.

        Args:
            scale: times the lower bound of short_side. With S smaller by this factor, the smallest crop still shows as
                much of the picture as at full size (Wu et al. 2020, arXiv:1912.00998).
        """
        config, side = self.config, side or self.side
        if config.short_side:
            shortest, longest = round(config.short_side[0] * scale), round(config.short_side[1])
            shortest = max(shortest, side)
            short = int(torch.randint(shortest, max(shortest, longest) + 1, ()))
            clip = transforms.RandomCrop(side)(_resized(clip, short, self.keep_aspect))
        elif config.area:
            clip = clip if self.keep_aspect else fitted(clip, side, False)
            clip = transforms.RandomResizedCrop(side, config.area, config.aspect, antialias=True)(clip)
        else:
            clip = transforms.RandomCrop(side)(fitted(clip, side, self.keep_aspect))
        return self._flip(clip) if self._flip else clip

    def colour(self, clip: Tensor) -> Tensor:
        """Other colours for a clip (T, C, S, S), uint8 or floating point from 0 to 1; of the same type."""
        if not self._colours:
            return clip
        x = clip if clip.is_floating_point() else clip.float() / 255  # whole numbers take twice the time
        for transform in self._colours:
            x = transform(x)
        return x if clip.is_floating_point() else (x * 255).round_().clamp_(0, 255).to(clip.dtype)


def still(frames: Tensor, side: int, keep_aspect: bool, crops: int = 1) -> Tensor:
    """The crops of a test: frames uint8 (T, C, H, W) to uint8 (crops, T, C, S, S).

    One is the middle; three lie at the left or top, in the middle, and at the right or bottom of the longer side, all
    in the middle of the other. The picture is resized so that its short side is S or, without `keep_aspect`, squeezed
    to torchvision's preset for videos: one crop at 112 then equals the preset's.
    """
    frames = fitted(frames, side, keep_aspect)
    height, width = frames.shape[-2:]
    top, left = round((height - side) / 2), round((width - side) / 2)  # as torchvision's center_crop rounds
    if crops == 1:
        corners = [(top, left)]
    elif width >= height:
        corners = [(top, at) for at in (0, left, width - side)]
    else:
        corners = [(at, left) for at in (0, top, height - side)]
    return torch.stack([frames[..., y : y + side, x : x + side] for y, x in corners])


def mixed(clips: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mix each clip of a batch with its neighbour, all by mix-up or all by cut-mix, at equal odds.

    clips (B, ..., H, W) of floating point, five dimensions; labels (B,) become shares (B, num_classes). One weight or
    one box for the batch (arXiv:1710.09412, arXiv:1905.04899).
    """
    mix = transforms.CutMix(alpha=CUT_MIX, num_classes=num_classes)
    if torch.rand(()) < 0.5:
        mix = transforms.MixUp(alpha=MIX_UP, num_classes=num_classes)
    clips, shares = mix(torchvision.tv_tensors.Video(clips), labels)
    return clips.as_subclass(Tensor), shares


def _byol_colours(config: AugmentationConfig) -> list[Callable[[Tensor], Tensor]]:
    colours = []
    if config.jitter_share and any(config.jitter):
        colours.append(transforms.RandomApply([transforms.ColorJitter(*config.jitter)], config.jitter_share))
    if config.grey:
        colours.append(transforms.RandomGrayscale(config.grey))
    if config.blur:
        colours.append(transforms.RandomApply([transforms.GaussianBlur(BLUR_SIZE, BLUR_SIGMA)], config.blur))
    return colours


def _srtg_colours(config: AugmentationConfig) -> list[Callable[[Tensor], Tensor]]:
    """Those of Stergiou et al. 2021 (arXiv:2006.08247), as far as their code has them on: often a set, of which each
    member is applied with odds of its own."""
    often = partial(transforms.RandomApply, p=0.4)
    members = [
        transforms.GaussianBlur(3, (0.1, 0.3)),
        _ShiftChannels(-5 / 255, 15 / 255),
        transforms.ColorJitter(hue=16 / 255, saturation=16 / 255),
        transforms.ColorJitter(contrast=(0.85, 1.115)),
        transforms.RandomChoice(
            [
                transforms.RandomPerspective(0.1, p=1.0),  # corners move by up to 0.05 of the side
                transforms.RandomRotation(10, interpolation=transforms.InterpolationMode.BILINEAR),
            ]
        ),
        transforms.ColorJitter(brightness=0.2),
    ]
    return [transforms.RandomApply([often([member]) for member in members], p=0.8)]


class _ShiftChannels(nn.Module):
    """Adds to each channel of a clip its own number between two bounds."""

    def __init__(self, least: float, most: float):
        super().__init__()
        self.least, self.most = least, most

    def forward(self, clip: Tensor) -> Tensor:
        shift = torch.empty(clip.shape[-3], 1, 1).uniform_(self.least, self.most)
        return (clip + shift.to(clip)).clamp(0, 1)


def _resized(clip: Tensor, short: int, keep_aspect: bool) -> Tensor:
    """A clip with a given short side, as wide as it was for its height or as torchvision's preset makes it."""
    if keep_aspect:
        return fitted(clip, short, True)
    height, width = PRESET_SIZE
    return F.resize(clip, [short, round(short * width / height)], antialias=False)
