"""Alterations of frames, whose features can be probes: who takes one for old knows the frame only roughly."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # their names are asked for where torch, which takes a second to load, is not needed
    from torch import Tensor

KEPT_SHARE = 0.75  # of height and width, by cropping
BRIGHTNESS = 1.5


def mirrored(frames: "Tensor") -> "Tensor":
    """Left and right exchanged: (N, 3, H, W) to the same shape."""
    return frames.flip(-1)


def cropped(frames: "Tensor") -> "Tensor":
    """The middle three quarters of height and width, enlarged to the full size: (N, 3, H, W) uint8 to the same."""
    from torch.nn.functional import interpolate

    height, width = frames.shape[-2:]
    kept_height, kept_width = (max(1, round(KEPT_SHARE * size)) for size in (height, width))
    top, left = (height - kept_height) // 2, (width - kept_width) // 2
    middle = frames[..., top : top + kept_height, left : left + kept_width].float()
    return interpolate(middle, (height, width), mode="bilinear").round().byte()


def brightened(frames: "Tensor") -> "Tensor":
    """Half as bright again, white where that is too much: (N, 3, H, W) uint8 to the same."""
    return (BRIGHTNESS * frames.float()).clamp(max=255).round().byte()


# In the order in which feature files store them: new ones come last.
ALTERATIONS: dict[str, Callable[["Tensor"], "Tensor"]] = {
    "mirrored": mirrored,
    "cropped": cropped,
    "brightened": brightened,
}
