"""The feature bank: the features of all films of an index, read as one array."""

import itertools
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recognition.common.command_line import InputError, first_line
from recognition.common.files import is_of_system, is_there, sha256
from recognition.common.machine import granted_memory
from recognition.features.feature_file import DamagedFile, FeatureHeader, map_features, read_header, read_shots
from recognition.features.made_up import MadeUpFilms, is_made_up
from recognition.films.alterations import ALTERATIONS

NOBODY_ELSE = 3  # references that sys.getrefcount counts: the list's, the loop's and its own
Place = Literal["gpu", "memory", "mapped"]


class FeatureBank:
    """Features of films by [video, frame], for all frames of an episode or a batch at once.

    Each film is `folder`/<video_id>.h5 or, in the published data set, `folder`/<video_id>.pt. Held as one flat tensor
    on the GPU or in memory, or memory-mapped film by film. Several threads may gather from it at once. With a name such
    as made-up:1072x20000 for a folder, films and features are made up, see recognition/features/made_up.py.

    Args:
        folder: where the feature files are, or the name of made-up films.
        video_ids: the films, in the order in which an index numbers them.
        num_frames: (V,) what the index says of their lengths, or None if it does not say.
        place: where to hold the features; None takes the first of the three that has twice the room. Made-up ones that
            are "mapped" are not held but made when they are gathered, on `device`.
        device: the GPU meant by "gpu"; on the CPU, "gpu" is "memory".
        alterations: names of the alterations whose features are held too, of every `alter_every`-th frame.
        num_processes: on this machine, that open the same films.

    Raises:
        InputError: a film is missing, damaged, of another length than `num_frames` says, or lacks altered frames.
    """

    def __init__(
        self,
        folder: str | Path,
        video_ids: Sequence[str],
        num_frames: np.ndarray | None = None,
        place: Place | None = None,
        device: torch.device = torch.device("cpu"),
        alterations: Sequence[str] = (),
        num_processes: int = 1,
    ):
        self.folder = Path(folder)
        films: Films = (
            MadeUpFilms(folder, video_ids, device) if is_made_up(folder) else _FilmsOnDisk(self.folder, video_ids)
        )
        self.digests: tuple[str | None, ...] = films.digests  # of FeatureHeader; None in the published data set
        self.num_frames = films.lengths
        if num_frames is not None and (wrong := np.nonzero(self.num_frames != num_frames)[0]).size:
            k = wrong[0]
            raise InputError(
                f"{folder}: {video_ids[k]} has {self.num_frames[k]} frames and its index says {num_frames[k]}; "
                f"run generate_dataset.py again"
            )
        self.num_features, self.dtype = films.num_features, films.dtype
        self._num_alterations = len(alterations)
        if alterations:
            self.alter_every = films.add_altered(alterations)
        self._starts = np.concatenate([[0], np.cumsum(films.lengths)])
        self.num_bytes = int(self._starts[-1]) * self.num_features * self.dtype.itemsize
        self.place = place or choose_place(self.num_bytes, device, num_processes)
        self._buffers: list[np.ndarray] = []
        where = {"gpu": "on the GPU", "memory": "in memory", "mapped": films.elsewhere}[self.place]
        self._told = f"{self.num_bytes / 1e9:.2f} GB of {films.kind} {where}"
        self._films: Films | None = films if self.place == "mapped" else None
        self._flat: Tensor | None = None if self.place == "mapped" else self._read_all(films, device)
        self.device = films.device if self._flat is None else self._flat.device  # of what is gathered

    def __str__(self) -> str:
        return self._told

    def gather(self, video: np.ndarray, frame: np.ndarray, alteration: np.ndarray | None = None) -> Tensor:
        """Features of frames: video and frame of one shape (...) to (..., num_features), of the files' own dtype.

        Where `alteration` (...) is k > 0, those of the frame in the k-th of `alterations`; the frame must then be a
        multiple of `alter_every`.
        """
        if alteration is not None and (is_altered := alteration > 0).any():
            assert (frame[is_altered] % self.alter_every == 0).all()
            altered_film = len(self.num_frames) + video * self._num_alterations + alteration - 1
            video, frame = np.where(is_altered, (altered_film, frame // self.alter_every), (video, frame))
        if self._flat is not None:
            return self._gather_flat(self._flat, torch.from_numpy(self._starts[video] + frame))
        assert self._films is not None  # one or the other
        return self._films.gather(video, frame)

    def _gather_flat(self, flat: Tensor, rows: Tensor) -> Tensor:
        """Features of frames by their places in the flat tensor: (...) to (..., num_features)."""
        if flat.is_cuda:
            return flat[rows.to(flat.device)]
        held, rows_flat = flat.numpy(), rows.flatten()
        buffer = self._buffer(rows.numel(), held.dtype)
        features = torch.from_numpy(buffer)
        if threading.current_thread() is threading.main_thread():
            torch.index_select(flat, 0, rows_flat, out=features)
        else:  # beside others that gather and beside the network: on one core; "clip" spares the check of the rows
            np.take(held, rows_flat.numpy(), axis=0, out=buffer, mode="clip")
        return features.unflatten(0, rows.shape)

    def _buffer(self, num_frames: int, dtype: np.dtype) -> np.ndarray:
        """Memory for features, (num_frames, D), of an earlier batch that nobody holds any more, or new.

        Getting new memory from the system takes longer than filling it. numpy asks for huge pages, torch does not.
        """
        for buffer in self._buffers:
            if len(buffer) == num_frames and sys.getrefcount(buffer) == NOBODY_ELSE:
                return buffer
        buffer = np.empty((num_frames, self.num_features), dtype)
        self._buffers = [*self._buffers[-1:], buffer]
        return buffer

    def statistics(self, num_frames: int = 100_000) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (num_features,) of unit-length features, over up to `num_frames` even frames."""
        features = self.even_frames(num_frames)
        return features.mean(0), features.std(0)

    def even_frames(self, num_frames: int) -> Tensor:
        """Features of up to `num_frames` evenly spaced frames of all films, of unit length: (N, num_features)."""
        total = self.num_frames.sum()
        rows = np.linspace(0, total - 1, min(num_frames, total)).astype(np.int64)
        video = np.searchsorted(self._starts, rows, side="right") - 1
        return torch.nn.functional.normalize(self.gather(video, rows - self._starts[video]).float(), dim=1)

    def _read_all(self, films: "Films", device: torch.device) -> Tensor:
        device = device if self.place == "gpu" else torch.device("cpu")
        flat = torch.empty(int(self._starts[-1]), self.num_features, dtype=self.dtype, device=device)
        show_bar = self.num_bytes > 1 << 30
        numbers = range(len(films.lengths))
        for k in tqdm(numbers, f"holding {films.kind}", unit="film", disable=not show_bar):
            flat[self._starts[k] : self._starts[k + 1]] = films.film(k)
        return flat


class _FilmsOnDisk:
    """Feature files, memory-mapped. Their altered frames can be added: those of a film, in one alteration, are one more
    film after all others.

    Raises InputError: a film is missing or damaged, or they differ in number or type of features.
    """

    kind, elsewhere = "features", "memory-mapped"
    device = torch.device("cpu")

    def __init__(self, folder: Path, video_ids: Sequence[str]):
        self._folder, self._video_ids = folder, video_ids
        films, self.digests = zip(*(_map_film(folder, video_id) for video_id in video_ids), strict=True)
        self._films = list(films)
        self.num_features = films[0].shape[1]
        self.dtype = torch.from_numpy(films[0][:1].copy()).dtype
        if any(film.shape[1] != self.num_features or film.dtype != films[0].dtype for film in films):
            raise InputError(f"{folder}: the films' features differ in number or type; preprocess all of them alike")

    @property
    def lengths(self) -> np.ndarray:
        """Frames of each film."""
        return np.array([len(film) for film in self._films])

    def add_altered(self, alterations: Sequence[str]) -> int:
        """Add the altered frames, those of film 0, of film 1, ...; returns of how many frames one is altered."""
        alter_every = _alter_every(self._folder, self._video_ids)
        self._films += _map_altered(self._folder, self._video_ids, alterations)
        return alter_every

    def film(self, k: int) -> Tensor:
        """Features of all frames of a film, (num_frames, D)."""
        return torch.from_numpy(np.array(self._films[k]))

    def gather(self, video: np.ndarray, frame: np.ndarray) -> Tensor:
        """Features of frames: video and frame of one shape (...) to (..., D)."""
        flat_video, flat_frame = np.reshape(video, -1), np.reshape(frame, -1)
        features = torch.empty(len(flat_video), self.num_features, dtype=self.dtype)
        view = features.numpy()
        edges = np.concatenate([[0], np.nonzero(np.diff(flat_video))[0] + 1, [len(flat_video)]])
        for begin, end in itertools.pairwise(edges):  # a run of frames of one film
            view[begin:end] = self._films[flat_video[begin]][flat_frame[begin:end]]
        return features.reshape(*np.shape(video), -1)


Films = _FilmsOnDisk | MadeUpFilms


def find_header(folder: str | Path, video_id: str) -> FeatureHeader | None:
    """What is known of a film and its features; None in the published data set, whose files say nothing.

    Raises as `read_header` does, and InputError for made-up films that there are not.
    """
    if is_made_up(folder):
        return MadeUpFilms(folder, [video_id]).header(video_id)
    path = Path(folder) / f"{video_id}.h5"
    return read_header(path) if is_there(path) else None


def read_all_shots(folder: str | Path, video_ids: Sequence[str]) -> list[np.ndarray]:
    """First frames of the shots of each film. Raises InputError where a file does not say them."""
    if is_made_up(folder):
        return MadeUpFilms(folder, video_ids).shots()
    shots = []
    for video_id in video_ids:
        path = Path(folder) / f"{video_id}.h5"
        try:
            found = read_shots(path) if is_there(path) else None
        except DamagedFile as error:
            raise InputError(f"{error}; run preprocess_videos.py again") from None
        if found is None:
            raise InputError(f"{path}: does not say where shots begin; run preprocess_videos.py --overwrite")
        shots.append(found)
    return shots


def choose_place(num_bytes: int, device: torch.device, num_processes: int = 1) -> Place:
    """Where features of this size go: the GPU, else the memory granted here, if they take at most half; else the disk.

    Several processes map the files instead of each filling memory of its own: mapped pages are theirs in common, so a
    machine reads the films once.
    """
    if device.type == "cuda" and num_bytes <= torch.cuda.mem_get_info(device)[0] / 2:
        return "gpu"
    if num_processes == 1 and num_bytes <= granted_memory() / 2:
        return "memory"
    return "mapped"


def _map_film(folder: Path, video_id: str) -> tuple[np.ndarray, str | None]:
    """Memory-map one film's features, (num_frames, D); also the digest of how they were made."""
    path = folder / f"{video_id}.h5"
    if is_there(path):
        try:
            header = read_header(path)
        except DamagedFile as error:
            raise InputError(f"{error}; run preprocess_videos.py again") from None
        return map_features(path), header.digest
    published = folder / f"{video_id}.pt"
    if is_there(published):
        try:
            features = torch.load(published, mmap=True, weights_only=True, map_location="cpu").numpy()
        except Exception as error:  # torch.load raises many kinds for a damaged file
            if is_of_system(error):
                raise
            sha256(published)  # torch has no number of the system's errors; this raises them
            raise InputError(f"{published}: cannot be read as a tensor: {first_line(error)}") from None
        if features.ndim != 2 or 0 in features.shape:
            raise InputError(f"{published}: must be of shape (num_frames, num_features), found {features.shape}")
        if features.dtype.kind != "f":
            raise InputError(f"{published}: must hold numbers with a fraction, such as float32, found {features.dtype}")
        return features, None
    raise InputError(f"{path}: no such feature file; run preprocess_videos.py or set dataset.video_path")


def _alter_every(folder: Path, video_ids: Sequence[str]) -> int:
    """Of how many frames one is altered, in all films alike."""
    paths = [folder / f"{video_id}.h5" for video_id in video_ids]
    every = [read_header(path).alter_every if is_there(path) else 0 for path in paths]
    for path, number in zip(paths, every, strict=True):
        if number == 0:
            raise InputError(f"{path}: has no altered frames; make them with preprocess_videos.py --alter_every")
        if number != every[0]:
            raise InputError(f"{folder}: some films have more altered frames than others; preprocess all of them alike")
    return every[0]


def _map_altered(folder: Path, video_ids: Sequence[str], alterations: Sequence[str]) -> list[np.ndarray]:
    """Memory-map the altered frames of all films, (num_altered, D) for every film and, within it, alteration."""
    stored = [map_features(folder / f"{video_id}.h5", "altered") for video_id in video_ids]
    return [altered[list(ALTERATIONS).index(name)] for altered in stored for name in alterations]
