"""Batches of whole films: features of the frames of each clip, and what is said of it.

Shapes: B films, C clips of the film that has most, N frames a clip, D numbers a frame.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from captioning.captions import Caption
from recognition.common.command_line import InputError
from recognition.common.files import is_there
from recognition.features.feature_bank import FeatureBank
from recognition.features.feature_file import DamagedFile, FeatureHeader, read_header, read_times

Frames = Literal["all", "first", "middle", "last"]
Clips = Literal["all", "first"]
TOLERANCE_S = 1.0  # tables tell films' lengths to within this
ROUNDING_S = 1e-6  # of times of frames
STATISTICS_FRAMES = 100_000


class FilmBatch(NamedTuple):
    """Films with their clips in order; behind a film's last clip there are zeros."""

    features: Tensor  # (B, C, N, D) float32
    has_clip: Tensor  # (B, C) bool
    texts: list[list[str]]  # B times the captions of a film's clips
    films: list[int]  # their numbers in the dataset


class CaptionDataset:
    """The films of a split with their captioned clips.

    A clip has the frames from its start up to its end, or the one nearest to its middle where there is none; times are
    those in the feature file. Of them N are taken evenly, the first and the last among them.

    Args:
        captions: as `read_captions` gives them, of all splits.
        folder: with the feature files of the films.
        frames_per_clip: N, if `frames` is "all".
        frames: "first", "middle" or "last" takes that one frame of each clip.
        split: "train", "validation" or "test".
        clips: "first" leaves out all but the first clip of a film.

    Attributes:
        films: the names of the films; `clips` has the captions of each, in order.
        headers: of the films' feature files.
        backbone: what the features are by: its name, and the SHA-256 of its weights.

    Raises:
        InputError: no film in the split, a film without features, features that differ in backbone or number, a segment
            outside its film.
    """

    def __init__(
        self,
        captions: Sequence[Caption],
        folder: str | Path,
        frames_per_clip: int,
        frames: Frames = "all",
        split: str = "train",
        clips: Clips = "all",
    ):
        by_film: dict[str, list[Caption]] = {}
        for caption in captions:
            if caption.split == split:
                by_film.setdefault(caption.film, []).append(caption)
        if not by_film:
            raise InputError(f"data.captions: has no film for {split}")
        self.films = list(by_film)
        self.clips = [of_film[: 1 if clips == "first" else None] for of_film in by_film.values()]
        self.num_frames, self.frames = (frames_per_clip if frames == "all" else 1), frames
        self.headers = headers = [_header(Path(folder), of_film[0]) for of_film in self.clips]
        self.backbone = headers[0].backbone, headers[0].weights_sha256
        for caption, header in zip((of_film[0] for of_film in self.clips), headers, strict=True):
            if (header.backbone, header.weights_sha256) != self.backbone:
                raise InputError(
                    f"{folder}: features of {self.films[0]} are by {headers[0].backbone} ({headers[0].weights}), those "
                    f"of {caption.film} by {header.backbone} ({header.weights}); preprocess all of them alike"
                )
        self.ranges = [  # for each film (clips, 2), the first frame of each clip and its last
            np.array([_frames_of(clip, times, header) for clip in of_film])
            for of_film, header in zip(self.clips, headers, strict=True)
            for times in [read_times(Path(folder) / f"{header.video_id}.h5")]
        ]
        self.bank = FeatureBank(folder, self.films)
        self.num_features = self.bank.num_features

    def __len__(self) -> int:
        return len(self.films)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The films of an epoch in random order, which depends on seed and epoch alone."""
        return np.random.default_rng((seed, epoch)).permutation(len(self))

    def batch(self, numbers: Sequence[int], rng: np.random.Generator | None = None) -> FilmBatch:
        """Some films by their numbers.

        With `rng` frames between a clip's first and last are moved by up to half of the way to the next ones taken: by
        what a film draws for itself, whatever films are beside it, when the generator stands at the same place.
        """
        numbers = [int(number) for number in numbers]
        seed = None if rng is None else int(rng.integers(1 << 63))
        num_clips = max(len(self.clips[number]) for number in numbers)
        features = torch.zeros(len(numbers), num_clips, self.num_frames, self.num_features)
        has_clip = torch.zeros(len(numbers), num_clips, dtype=torch.bool)
        for row, number in enumerate(numbers):
            frames = self.frames_of(number, None if seed is None else np.random.default_rng((seed, number)))
            features[row, : len(frames)] = self.bank.gather(np.full_like(frames, number), frames).float()
            has_clip[row, : len(frames)] = True
        return FilmBatch(features, has_clip, [[c.caption for c in self.clips[number]] for number in numbers], numbers)

    def frames_of(self, number: int, rng: np.random.Generator | None = None) -> np.ndarray:
        """Which frames of a film are taken for each of its clips: (clips, N), see `batch`."""
        first, last = self.ranges[number].T[:, :, None]
        if self.frames != "all":
            return {"first": first, "middle": (first + last) // 2, "last": last}[self.frames]
        shares = np.linspace(0, 1, self.num_frames) if self.num_frames > 1 else np.full(1, 0.5)
        places = first + (last - first) * shares
        if rng is not None:
            gap = (last - first) / max(1, self.num_frames - 1)
            moved = places + rng.uniform(-0.5, 0.5, places.shape) * gap
            places[:, 1:-1] = moved[:, 1:-1]
        return np.floor(places + 0.5).astype(np.int64)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (D,) of features scaled to unit length, over up to 100,000 frames of all clips,
        evenly; 1 for a number that is everywhere the same."""
        frames = [np.unique(np.concatenate([np.arange(a, b + 1) for a, b in ranges])) for ranges in self.ranges]
        film = np.repeat(np.arange(len(self)), [len(of_film) for of_film in frames])
        frame = np.concatenate(frames)
        even = np.linspace(0, len(frame) - 1, min(len(frame), STATISTICS_FRAMES)).astype(np.int64)
        features = F.normalize(self.bank.gather(film[even], frame[even]).double(), dim=1)
        deviation = features.std(0, correction=0)
        is_constant = deviation <= 1e-6 * features.abs().amax(0).clamp(min=1e-30)
        return features.mean(0).float(), deviation.masked_fill(is_constant, 1).float()


def _header(folder: Path, caption: Caption) -> FeatureHeader:
    """What the feature file of a caption's film says. Raises InputError."""
    path = folder / f"{caption.film}.h5"
    if not is_there(path):
        raise InputError(f"{caption.place}: no features of film {caption.film}: {path} is not there; run step 2")
    try:
        return read_header(path)
    except DamagedFile as error:
        raise InputError(f"{error}; run preprocess_videos.py again") from None


def _frames_of(clip: Caption, times: np.ndarray, header: FeatureHeader) -> tuple[int, int]:
    """The first frame of a clip and its last, both counted. Raises InputError for a segment outside the film."""
    end_s = times[-1] + (1 / header.fps if header.fps else 0)
    if clip.start_s >= end_s or clip.end_s > end_s + TOLERANCE_S:
        raise InputError(
            f"{clip.place}: the segment from {clip.start_s:g} to {clip.end_s:g} s is outside film {clip.film}, which "
            f"ends at {end_s:.2f} s"
        )
    first, stop = np.searchsorted(times, np.array([clip.start_s, clip.end_s]) - ROUNDING_S)
    if first < stop:
        return int(first), int(stop - 1)
    nearest = int(np.abs(times - (clip.start_s + clip.end_s) / 2).argmin())
    return nearest, nearest
