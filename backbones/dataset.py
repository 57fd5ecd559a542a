"""The films of a training as items of an epoch, and the clips that are read from them.

What is random in a clip depends on the seed, the epoch and the item alone, so it is the same whichever process reads it
and wherever a run was resumed.

Shapes: N clips of one film, T frames, S pixels a side.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backbones.augmentation import Augmentation, still
from backbones.clips import clip_numbers, clip_span, random_pair, random_start, segments, view_starts
from backbones.config import BackboneSettings, ClipConfig
from backbones.frame_store import FilmReader
from recognition.common.command_line import InputError
from recognition.features.preprocessing import frame_step

MOST_OPEN = 32  # films that a process keeps open


@dataclass(frozen=True)
class Item:
    """A piece of a film, or a whole one: frames from `first` to before `end`."""

    path: Path
    label: int  # number of the class; -1 where there is none
    source: str  # what it was cut from: items of one source must not be on both sides of a split
    num_frames: int  # of the film
    fps: float
    first: int
    end: int


@dataclass(frozen=True)
class Draw:
    """A clip to be drawn: of which item, in which epoch, of which shape."""

    item: int
    epoch: int
    frames: int
    side: int


class ClipDataset:
    """Items, and their clips.

    Args:
        items: the pieces of films.
        config: how clips are taken and changed.
        readers: of all their films.
    """

    def __init__(
        self,
        items: Sequence[Item],
        config: BackboneSettings,
        readers: Mapping[Path, FilmReader],
    ):
        self.items, self.config, self.readers = list(items), config, readers
        self.augmentation = Augmentation(config.augmentation, config.clip)
        self._open: OrderedDict[Path, FilmReader] = OrderedDict()  # the last that were read, oldest first

    def __len__(self) -> int:
        return len(self.items)

    def names(self, numbers: Sequence[int]) -> list[str]:
        """The films of items, for messages."""
        return [str(self.items[number].path) for number in numbers]

    def drawn(self, draw: Draw, num_clips: int = 1) -> Tensor:
        """Clips of an item for training, each from a place of its own and changed in a way of its own:
        (num_clips, T, 3, S, S) uint8."""
        item, clip = self.items[draw.item], self.config.clip
        seed = self.config.training.seed, draw.epoch, draw.item
        rng = np.random.default_rng(seed)
        steps = [self._drawn_step(item, draw.frames, rng) for _ in range(num_clips)]
        span = clip_span(draw.frames, max(steps))
        if num_clips == 2 and clip.apart_s:
            starts = random_pair(item.first, item.end, span, round(clip.apart_s * item.fps), rng)
        else:
            starts = [random_start(item.first, item.end, span, rng) for _ in steps]
        clips = []
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which also notes for GPUs where it was called: half of a small clip's time.
            torch.default_generator.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
            for start, step in zip(starts, steps, strict=True):
                frames = self._read(item, start, draw.frames, step)
                scale = draw.side / clip.side
                clips.append(self.augmentation.colour(self.augmentation.crop(frames, draw.side, scale)))
        return torch.stack(clips)

    def middle(self, number: int) -> Tensor:
        """The middle clip of an item, the middle of its picture: (1, T, 3, S, S) uint8."""
        return self.views(number, 1, 1)

    def views(self, number: int, num_clips: int, crops: int, side: int | None = None) -> Tensor:
        """Clips evenly in time of an item, so many crops of each: (num_clips * crops, T, 3, S, S) uint8."""
        item, clip = self.items[number], self.config.clip
        step = middle_step(item.fps, clip)
        starts = view_starts(item.end - item.first, clip_span(clip.frames, step), num_clips)
        views = [
            still(
                self._read(item, item.first + int(start), clip.frames, step), side or clip.side, clip.keep_aspect, crops
            )
            for start in starts
        ]
        return torch.cat(views)

    def _read(self, item: Item, start: int, num_frames: int, step: int) -> Tensor:
        """Frames of an item, the last repeated where it is too short: (T, 3, H, W) uint8."""
        numbers = clip_numbers(start, num_frames, step, item.end)
        frames = self._reader(item.path).frames(numbers.tolist())
        return torch.from_numpy(frames).permute(0, 3, 1, 2)

    def _reader(self, path: Path) -> FilmReader:
        """The reader of a film; those that were not used for long are closed."""
        reader = self._open[path] = self._open.pop(path, self.readers[path])
        if len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)[1].close()
        return reader

    def _drawn_step(self, item: Item, num_frames: int, rng: np.random.Generator) -> int:
        """Frames from one of a clip to its next. Of several strides one is drawn; a clip of fewer frames than the
        configured ones draws how far apart they are, up to the span of a full clip."""
        stride, full = self.config.clip.stride, self.config.clip.frames
        step = int(rng.choice(stride)) if isinstance(stride, list) else middle_step(item.fps, self.config.clip)
        return step if num_frames == full else int(rng.integers(step, step * full // num_frames, endpoint=True))


def middle_step(fps: float, clip: ClipConfig) -> int:
    """Frames from one of a clip to its next where nothing is drawn: of several strides the middle one."""
    if clip.stride is None:
        assert clip.fps is not None  # or the settings would have been refused
        return frame_step(fps, clip.fps)
    return sorted(clip.stride)[len(clip.stride) // 2] if isinstance(clip.stride, list) else clip.stride


def cut(item: Item, segment_s: float | None) -> list[Item]:
    """The pieces of `segment_s` seconds of an item; what is left at its end belongs to the last."""
    pieces = segments(item.end - item.first, item.fps, segment_s)
    return [replace(item, first=item.first + first, end=item.first + end) for first, end in pieces]


def check_rates(items: Sequence[Item], clip: ClipConfig) -> None:
    """Raise InputError for a film that does not say its frame rate where one is needed."""
    if clip.stride is None and (unknown := next((item for item in items if not item.fps), None)):
        raise InputError(
            f"{unknown.path}: does not say its frame rate; set data.store_fps, or clip.stride in place of clip.fps"
        )
