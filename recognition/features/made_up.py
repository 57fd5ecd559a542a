"""Made-up features: those of films that nobody has filmed, as many and as long as wanted, computed when asked for.

`made-up:1072x20000` in place of a folder of feature files stands for 1,072 films of 20,000 frames. They need no disk
and no memory, since any frame of any film is computed by itself: integers are drawn by hashing the seed and the frame's
place, as counter-based random numbers are (Salmon et al. 2011, doi 10.1145/2063384.2063405). A frame is a point in 48
dimensions whose variances fall by a power law, so that a few directions hold nearly all of the variance, as in features
of a ResNet18. The point is the sum of

    its film's own place
    the place of its set: each film has a few, and returns to them
    the place of its shot: each begins at a cut and shows one set
    two drifts within the shot, a slow and a quick one: straight lines between places that are drawn at key frames
    noise of the frame

and is laid out over the features by a fixed matrix, then rectified. The numbers were set by what features of real and
of synthetic films look like: docs/made_up.md, by `python -m benchmarks.made_up`.

All of it is whole numbers until the last step, and the one matrix product is of whole numbers in float64, where every
partial sum is exact. So features are equal to the last bit on any device, with any number of threads, in any order.

Shapes: N frames, K dimensions of a place, D features.
"""

import functools
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recognition.common.command_line import LARGEST_NUMBER, InputError, shown
from recognition.features.feature_file import FeatureHeader

VERSION = 1  # of the numbers below, which decide the features; other numbers are another version
PREFIX = "made-up:"
FORM = f"{PREFIX}FILMSxFRAMES, such as {PREFIX}1072x20000, with ,seed=N or ,features=N behind it if wanted"
FPS = 30.0
NUM_FEATURES = 512  # if the name does not say
MOST_FILMS, MOST_FEATURES = 99_999, 65_536
VIDEO_ID = re.compile(r"made_up_([0-9]{5})")

CELL, CELLS = 64, 8  # a cut falls into a cell of so many frames or not; of so many cells one always has a cut
FRAMES_A_SET = 512  # of the film, for each of its sets; at least MIN_SETS
MIN_SETS = 3
NUM_DIMENSIONS = 48  # K; a multiple of 4
DECAY, NOISE_DECAY = 1.1, 0.25  # dimension k has a deviation of k^-DECAY; noise is nearly as strong in all of them
SPECTRUM, NOISE = 1024, 6000  # those of the first dimension
# Deviations of what a place is the sum of, in 256ths. Of drifts with key frames 2^6 and 2^3 frames apart.
FILM, SET, SHOT, DRIFTS = 110, 170, 130, {6: 80, 3: 70}
SHIFT = 16  # places are rounded to multiples of 2^SHIFT
MEAN = 1400  # of the first dimension: without it the mean of all features would be 0
LEAST_MEAN = 4  # means of features are 4 to 258 times MEAN; with smaller ones there are more zeros
EVENNESS = 32  # deviations of features are as their means and so much more, which makes them more alike
SCALE = 2.0**-16  # a power of 2, by which nothing is rounded

GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # 2^64 / golden ratio, odd, as a signed number
TWO_BYTES, EVERY_SECOND_BYTE = 0xFFFF, 0x00FF00FF00FF00FF
BLOCK_FRAMES = {"cpu": 2048, "cuda": 32768}  # computed at once: 8 MB of features before they are rounded, or 134 MB
# Numbers that tell draws apart.
OF_CUTS, OF_CHOICE, OF_FILM, OF_SET, OF_SHOT, OF_FRAME, OF_FEATURES, OF_MEANS, OF_DRIFT = range(9)


class MadeUpFilms:
    """Made-up films by the name of all of them, such as made-up:1072x20000.

    Args:
        name: see FORM.
        video_ids: the films meant, in the order in which an index numbers them; None for all of them.
        device: where features are computed.

    Raises:
        InputError: the name is not of that form, or there is no such film.
    """

    kind, elsewhere = "made-up features", "made as needed"

    def __init__(
        self, name: str | Path, video_ids: Sequence[str] | None = None, device: torch.device = torch.device("cpu")
    ):
        self.name, self.device, self.dtype = str(name), device, torch.float16
        num_films, self._length, self._seed, self.num_features = self._parameters = _parse(self.name)
        self.video_ids = [f"made_up_{k:05d}" for k in range(num_films)] if video_ids is None else list(video_ids)
        numbers = [int(match[1]) if (match := VIDEO_ID.fullmatch(word)) else num_films for word in self.video_ids]
        if max(numbers) >= num_films:
            missing = self.video_ids[np.argmax(numbers)]
            raise InputError(f"{name}: has no film {missing}; run generate_dataset.py --input_dir {name}")
        self._numbers = np.array(numbers)

    @property
    def lengths(self) -> np.ndarray:
        """Frames of each film."""
        return np.full(len(self.video_ids), self._length)

    @property
    def digests(self) -> tuple[str, ...]:
        """Of FeatureHeader, of each film: another number of films or frames, or another seed, gives others."""
        return tuple(self.header(video_id).digest for video_id in self.video_ids)

    def header(self, video_id: str) -> FeatureHeader:
        """What a feature file would say of a film."""
        of_all, of_film = (
            hashlib.sha256(repr((VERSION, *self._parameters, *film)).encode()).hexdigest() for film in ((), (video_id,))
        )
        return FeatureHeader(
            video_id=video_id,
            video_sha256=of_film,
            num_frames=self._length,
            fps=FPS,
            width=0,
            height=0,
            backbone="made up",
            weights=self.name,
            weights_sha256=of_all,
            decoder="none",
            dtype="float16",
            compute_dtype="int64",
        )

    def add_altered(self, alterations: Sequence[str]) -> int:
        """Raises InputError: made-up frames have no altered versions."""
        raise InputError(f"{self.name}: made-up films have no altered frames; ask for other kinds of new probes")

    def shots(self) -> list[np.ndarray]:
        """First frames of the shots of each film, ascending from 0."""
        group = torch.arange(-(-self._length // (CELL * CELLS)))
        found = []
        for number in self._numbers:
            start, is_cut = self._cuts(torch.full_like(group, int(number)), group)
            starts = start[is_cut].numpy()
            found.append(np.unique([0, *starts[starts < self._length]]))
        return found

    def film(self, k: int) -> Tensor:
        """Features of all frames of a film, (num_frames, D) float16."""
        return self.gather(np.full(self.lengths[k], k), np.arange(self.lengths[k]))

    def gather(self, video: np.ndarray, frame: np.ndarray) -> Tensor:
        """Features of frames: video and frame of one shape (...) to (..., D) float16, on `device`."""
        film, frames = (torch.from_numpy(np.ravel(x).astype(np.int64)) for x in (self._numbers[video], frame))
        film, frames = film.to(self.device), frames.to(self.device)
        features = torch.empty(len(film), self.num_features, dtype=self.dtype, device=self.device)
        basis = _basis(self._seed, self.num_features, self.device)
        block = BLOCK_FRAMES[self.device.type]
        for begin in range(0, len(film), block):
            places = self._places(film[begin : begin + block], frames[begin : begin + block])
            features[begin : begin + block] = (places.double() @ basis).clamp_(min=0)
        return features.reshape(*np.shape(video), -1)

    def _places(self, film: Tensor, frame: Tensor) -> Tensor:
        """Places of frames: film and frame (N,) to (N, K) int64."""
        shot = self._shot_start(film, frame)
        first, run = _runs(film, shot)
        place = self._place_of_shot(film[first], shot[first])[run]
        for bits, deviation in DRIFTS.items():
            place += deviation * self._drift(film, shot, frame, bits)
        noise = _bells(self._key(OF_FRAME, film, frame))
        place = place * _power_law(SPECTRUM, DECAY, film.device) + noise * _power_law(NOISE, NOISE_DECAY, film.device)
        place >>= SHIFT
        place[:, 0] += MEAN
        return place

    def _place_of_shot(self, film: Tensor, shot: Tensor) -> Tensor:
        """What does not change within a shot, for shots by film and first frame (R,): (R, K)."""
        num_sets = max(MIN_SETS, self._length // FRAMES_A_SET)
        which = (self._key(OF_CHOICE, film, shot) >> 1 & LARGEST_NUMBER) % num_sets
        return (
            FILM * _bells(self._key(OF_FILM, film))
            + SET * _bells(self._key(OF_SET, film, which))
            + SHOT * _bells(self._key(OF_SHOT, film, shot))
        )

    def _drift(self, film: Tensor, shot: Tensor, frame: Tensor, bits: int) -> Tensor:
        """How far frames (N,) have drifted within their shots, (N, K): on the way from one key frame to the next,
        2^bits frames later."""
        key_frame, since = frame >> bits, frame & (1 << bits) - 1
        first, run = _runs(film, shot, key_frame)
        film, shot, key_frame = film[first], shot[first], key_frame[first]
        here, there = (_bells(self._key(OF_DRIFT + bits, film, shot, key_frame + later)) for later in (0, 1))
        return here[run] + ((there - here)[run] * since[:, None] >> bits)

    def _shot_start(self, film: Tensor, frame: Tensor) -> Tensor:
        """First frames of the shots in which frames lie, (N,): the last cut before them in their group of cells or, if
        there is none, in the group before."""
        group = frame // (CELL * CELLS)
        latest = torch.zeros_like(frame)
        for earlier in (0, 1):
            start, is_cut = self._cuts(film, group - earlier)
            start = torch.where(is_cut & (start <= frame[:, None]), start, 0)
            latest = torch.maximum(latest, start.amax(1))
        return latest

    def _cuts(self, film: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
        """Where cuts may be in groups of cells, and whether they are there: film and group (N,) to (N, CELLS) each. The
        first of a group always is."""
        cell = torch.arange(CELLS, device=film.device)
        byte = self._key(OF_CUTS, film, group)[:, None] >> 8 * cell
        return (group[:, None] * CELLS + cell) * CELL + byte % CELL, (byte & CELL > 0) | (cell == 0)

    def _key(self, kind: int, *numbers: Tensor) -> Tensor:
        return _key(self._seed, kind, *numbers)


def is_made_up(name: str | Path) -> bool:
    """Whether this is the name of made-up films, or is meant to be one, and not a folder."""
    return str(name).startswith(PREFIX)


def _parse(name: str) -> tuple[int, int, int, int]:
    """Number of films and of frames, seed and number of features. Raises InputError, saying the form."""
    match = re.fullmatch(PREFIX + r"(\d{1,9})x(\d{1,9})(?:,seed=(\d{1,9}))?(?:,features=(\d{1,9}))?", name, re.ASCII)
    films, frames, seed, features = (int(text or 0) for text in match.groups()) if match else (0, 0, 0, 0)
    if match and match[4] is None:
        features = NUM_FEATURES
    if not (0 < films <= MOST_FILMS and frames and 0 < features <= MOST_FEATURES):
        raise InputError(
            f"{shown(name)}: is not of the form {FORM}; there can be 1 to {MOST_FILMS} films of 1 frame or more, and 1 "
            f"to {MOST_FEATURES} features"
        )
    return films, frames, seed, features


def _key(seed: int, kind: int, *numbers: Tensor) -> Tensor:
    """A hash of the seed, of what is drawn and of its place, all numbers (N,): (N,) int64."""
    key = _mixed(torch.full_like(numbers[0][:1], seed * 1024 + kind))
    for number in numbers:
        key = _mixed(key + number * GOLDEN)
    return key


def _mixed(number: Tensor) -> Tensor:
    """Each 64-bit number well mixed, as the last step of splitmix64 does (Steele, Lea and Flood 2014,
    doi 10.1145/2660193.2660195). Shifts to the right bring in zeros; those of torch repeat the sign."""
    number = (number ^ (number >> 30 & (1 << 34) - 1)) * (0xBF58476D1CE4E5B9 - (1 << 64))
    number = (number ^ (number >> 27 & (1 << 37) - 1)) * (0x94D049BB133111EB - (1 << 64))
    return number ^ (number >> 31 & (1 << 33) - 1)


def _bells(key: Tensor, num: int = NUM_DIMENSIONS) -> Tensor:
    """Whole numbers from -255 to 255, more often small ones: the sum of two bytes, less its mean. (N,) to (N, num).

    Their deviation is 104.5."""
    steps = torch.arange(1, -(-num // 4) + 1, device=key.device)
    drawn = _mixed(key[:, None] + steps * GOLDEN)
    sums = (drawn & EVERY_SECOND_BYTE) + (drawn >> 8 & EVERY_SECOND_BYTE)
    return torch.cat([(sums >> shift & TWO_BYTES) - 255 for shift in (0, 16, 32, 48)], 1)[:, :num]


def _runs(*columns: Tensor) -> tuple[Tensor, Tensor]:
    """Runs of consecutive rows with equal numbers (N,): the first row of each, (R,), and the run of each row, (N,)."""
    is_first = torch.ones_like(columns[0], dtype=torch.bool)
    is_first[1:] = torch.stack([column[1:] != column[:-1] for column in columns]).any(0)
    return is_first.nonzero().flatten(), is_first.cumsum(0) - 1


@functools.cache
def _power_law(first: int, decay: float, device: torch.device) -> Tensor:
    """first * k^-decay for k = 1 to K, rounded: (K,) int64."""
    return torch.tensor([round(first * k**-decay) for k in range(1, NUM_DIMENSIONS + 1)], device=device)


@functools.cache
def _basis(seed: int, num_features: int, device: torch.device) -> Tensor:
    """How places are laid out over features: (K, D), in float64, whole numbers from -258 to 258 times SCALE.

    The first dimension has the direction of the features' means, so that it makes them all larger or smaller together.
    """
    rows = _bells(_key(seed, OF_FEATURES, torch.arange(NUM_DIMENSIONS)), num_features)
    drawn = _key(seed, OF_MEANS, torch.arange(num_features))
    mean = LEAST_MEAN + ((drawn & 255) * (drawn >> 8 & 255) >> 8)
    basis = rows * (mean + EVENNESS) // (255 + EVENNESS)
    basis[0] = mean
    return SCALE * basis.double().to(device)
