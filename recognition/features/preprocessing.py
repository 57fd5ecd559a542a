"""What becomes of a film's frames before a network reads them: which make a window, and how they are cropped."""

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from models.clip_networks import NETWORKS
from models.vision import torchvision
from recognition.common.command_line import InputError, nearest
from recognition.features.weights_file import Eye

F, F2 = torchvision.transforms.functional, torchvision.transforms.v2.functional
CLIP_FRAMES = 16  # as torchvision's networks for videos are trained and tested with
ROUNDING_S = 1e-6  # of times of frames
PRESET_SIDE, PRESET_SIZE = 112, (128, 171)  # of most of those: every picture becomes 128 x 171, of which 112 x 112


Image = TypeVar("Image")


class Pictures(NamedTuple):
    """How single frames are prepared for a network."""

    resize: list[int]  # pixels of the short side, or height and width
    crop: list[int]  # pixels of the side of the square in the middle
    interpolation: Any  # of torchvision's `InterpolationMode`
    mean: tuple[float, ...]  # of red, green and blue, from 0 to 1
    deviation: tuple[float, ...]
    rounds_down: bool = False  # an odd margin's larger half is always right of the square, or below it

    def told(self) -> dict[str, Any]:
        """The same in plain values."""
        return self._asdict() | {"interpolation": self.interpolation.value}


class Windows(NamedTuple):
    """How windows lie in a film; all in frames of the film."""

    size: int = 1  # frames of a window that the network reads
    step: int = 1  # from one of those to the next
    stride: int = 1  # from the first of a window to the first of the next window

    @property
    def span(self) -> int:
        """From the first frame of a window to its last, both counted."""
        return (self.size - 1) * self.step + 1

    @property
    def middle(self) -> int:
        """The frame for which a window stands, counted from its first: that one's time is its time."""
        return self.size // 2 * self.step


class Preprocessing:
    """The preprocessing that a network was trained with, in two halves: the first can run where frames are decoded.

    Of torchvision's classifiers `crop` then `normalise` equals `get_model_weights(name).DEFAULT.transforms()` applied
    to the image as Pillow holds it, or to the video as a uint8 tensor. Of a resized image one value in 100 may be
    rounded another way.

    A network for images reads frame by frame, one for videos windows of `window` frames, 16 unless `eye` has others.

    Args:
        name: of the network.
        stride: frames from the start of a window to that of the next; None lets no frame be in two windows.
        eye: how a network of `NETWORKS` sees; None for as torchvision's were trained.
        fps: let windows have so many frames a second, or what is nearest of each film's every n-th frames; None takes
            consecutive frames whatever their rate, or what `eye` says.
        frame_fps: of single frames, read those that come nearest to so many a second, evenly; None reads all.
        pictures: how frames are prepared, for a network for images that is not of torchvision.

    Raises:
        InputError: an unknown name, windows for a network for images, single frames for one that reads windows, another
            rate than that of `eye`.
    """

    def __init__(
        self,
        name: str,
        stride: int | None = None,
        eye: Eye | None = None,
        fps: float | None = None,
        frame_fps: float | None = None,
        pictures: Pictures | None = None,
    ):
        if eye is None and name in NETWORKS:
            eye = Eye(name)
        self.stride, self.fps, self.frame_fps, self.eye = stride, fps, frame_fps, eye
        is_for_videos = eye is not None or name in networks_for_videos()
        if frame_fps is not None and is_for_videos:
            raise InputError(f"--fps {frame_fps:g}: {name} reads windows, not single frames; say --clip_fps")
        self.mean: tuple[float, ...]
        self.deviation: tuple[float, ...]
        if eye is not None:
            if fps and eye.fps not in (None, fps):
                raise InputError(f"--clip_fps {fps:g}: these weights were trained at {eye.fps:g} a second")
            self.window, self.fps = eye.frames, eye.fps or fps
            self.mean, self.deviation, self.crop_size = eye.mean, eye.deviation, [eye.side]
            return
        if pictures is None:
            preset = default_weights(name).transforms()
            pictures = Pictures(
                preset.resize_size, preset.crop_size, preset.interpolation, tuple(preset.mean), tuple(preset.std)
            )
        self.window = CLIP_FRAMES if is_for_videos else 1
        self.resize_size, self.crop_size, self.interpolation, self.mean, self.deviation, self.rounds_down = pictures
        for option, value in (("--window_stride", stride), ("--clip_fps", fps)):
            if value is not None and self.window == 1:
                raise InputError(f"{option} {value:g}: {name} reads single frames, not windows; leave it out")

    def windows(self, film_fps: float) -> Windows:
        """How windows lie in a film of so many frames a second. Raises ValueError where they depend on it and it is not
        known, which is 0."""
        step = frame_step(film_fps, self.fps) if self.fps else 1
        return Windows(self.window, step, self.stride or self.window * step)

    def rate(self, film_fps: float) -> float:
        """Rows of features a second of a film of so many frames a second, 0 if that is not known."""
        if self.frame_fps:
            return min(self.frame_fps, film_fps or self.frame_fps)
        return film_fps / self.windows(film_fps).stride

    def __str__(self) -> str:
        """How windows, or single frames that are not all of them, lie in films, in words."""
        if self.frame_fps:
            return f"{self.frame_fps:g} frames a second"
        if self.fps:
            return f"{self.window} frames at {self.fps:g} a second every {self.stride or f'{self.window} of these'}"
        return f"{self.window} frames every {self.stride or self.window}"

    def crop(self, frame: Tensor) -> Tensor:
        """Resize and centre-crop one frame: (3, H, W) uint8 to (3, crop, crop) uint8."""
        if self.eye is not None:
            frame = fitted(frame, self.eye.side, self.eye.keep_aspect)
        elif self.window == 1:  # in whole numbers as Pillow does, with which these networks were trained, and fast
            frame = F2.resize(frame, self.resize_size, interpolation=self.interpolation, antialias=True)
            if self.rounds_down:
                side = self.crop_size[0]
                top, left = ((length - side) // 2 for length in frame.shape[-2:])
                return frame[:, top : top + side, left : left + side]
        else:  # in floating point, for these were trained on tensors
            frame = F.resize(frame, self.resize_size, interpolation=self.interpolation, antialias=False)
        return F.center_crop(frame, self.crop_size)

    def normalise(self, frames: Tensor) -> Tensor:
        """uint8 (N * window, 3, crop, crop), windows one after the other, to what the network reads, float32: mean and
        standard deviation taken out, images (N, 3, crop, crop) or videos (N, 3, window, crop, crop)."""
        mean, deviation = (
            255 * torch.tensor(x, device=frames.device)[:, None, None] for x in (self.mean, self.deviation)
        )
        frames = frames.to(torch.float32, memory_format=torch.channels_last).sub_(mean).div_(deviation)
        return frames if self.window == 1 else frames.unflatten(0, (-1, self.window)).transpose(1, 2)


def on_grid(frames: Iterable[tuple[Image, float]], fps: float | None) -> Iterator[tuple[Image, float, bool]]:
    """Frames with their times in seconds, ascending, and whether each comes nearest to one of `fps` even times a second
    from the first frame's time to the last one's; all do without `fps`. No frame does so twice.

    Frames come one later than they are given, for the next one may be nearer. Of two as near it is the later one.
    """
    if fps is None:
        yield from ((image, time_s, True) for image, time_s in frames)
        return
    due, start_s = 0, None  # the number of the next even time
    held: tuple[Image, float] | None = None
    for image, time_s in frames:
        if held is None or start_s is None:
            start_s = time_s
        else:
            middle_s = (held[1] + time_s) / 2
            is_nearest = start_s + due / fps < middle_s - ROUNDING_S
            yield *held, is_nearest
            if is_nearest:
                due = max(due + 1, math.ceil((middle_s - start_s - ROUNDING_S) * fps))
        held = image, time_s
    if held is not None and start_s is not None:
        yield *held, start_s + due / fps <= held[1] + ROUNDING_S


def frame_step(film_fps: float, fps: float) -> int:
    """Every how many-th frame of a film of `film_fps` comes nearest to `fps` frames a second: at least 1.

    Raises ValueError if the film's rate is not known, which is 0.
    """
    if not film_fps > 0:
        raise ValueError(f"does not say its frame rate, which windows of {fps:g} frames a second need")
    return max(1, math.floor(film_fps / fps + 0.5))


def fitted(frames: Tensor, side: int, keep_aspect: bool) -> Tensor:
    """Pictures uint8 (..., H, W) in the size of which the middle is cropped to side x side.

    Their short side is as long or, without `keep_aspect`, they are squeezed to 128 x 171, in proportion to the side,
    which is 112 there: as torchvision's preset for videos does it, without a filter where pictures get smaller.
    """
    if not keep_aspect:
        return F.resize(frames, [round(side * size / PRESET_SIDE) for size in PRESET_SIZE], antialias=False)
    size = [max(side, math.floor(side * length / min(frames.shape[-2:]) + 0.5)) for length in frames.shape[-2:]]
    return F2.resize(frames, size, antialias=True)


def networks_for_videos() -> list[str]:
    """Names of torchvision's classifiers that read videos."""
    return torchvision.models.list_models(module=torchvision.models.video)


def default_weights(name: str) -> Any:
    """A classifier's recommended weights, of torchvision's `WeightsEnum`. Raises InputError for an unknown name, and
    where there are none."""
    names = [*torchvision.models.list_models(module=torchvision.models), *networks_for_videos()]
    if name in names:
        return torchvision.models.get_model_weights(name).DEFAULT
    if name in NETWORKS:
        raise InputError(f"--weights DEFAULT: there are none of {name}; give a file with --weights PATH, or random:0")
    known = [*names, *(network for network in NETWORKS if network not in names)]
    raise InputError(f"--backbone {name}: not a classifier of torchvision, nor one of ours; {nearest(name, known)}")
