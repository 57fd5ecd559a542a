"""The feature bank: the features of all films of an index, read as one array."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recognition.command_line import InputError
from recognition.feature_file import DamagedFile, map_features, read_header


class FeatureBank:
    """Features of films by [video, frame], for all frames of an episode or a batch at once.

    Each film is `folder`/<video_id>.h5 or, in the published data set, `folder`/<video_id>.pt. Held in memory as one
    flat tensor, or memory-mapped film by film; either way it can be shared with forked worker processes, which hold
    no HDF5 handle.

    Args:
        folder: where the feature files are.
        video_ids: the films, in the order in which an index numbers them.
        num_frames: (V,) what the index says of their lengths, or None if it does not say.
        memory_map: True or False; None holds the bank in memory if it takes less than half of this machine's.

    Raises:
        InputError: a film is missing, damaged or of another length than `num_frames` says.
    """

    def __init__(
        self,
        folder: str | Path,
        video_ids: Sequence[str],
        num_frames: np.ndarray | None = None,
        memory_map: bool | None = None,
    ):
        films = [_map_film(Path(folder), video_id) for video_id in video_ids]
        lengths = np.array([len(film) for film in films])
        if num_frames is not None and (wrong := np.nonzero(lengths != num_frames)[0]).size:
            k = wrong[0]
            raise InputError(
                f"{folder}: {video_ids[k]} has {lengths[k]} frames and its index says {num_frames[k]}; "
                f"run generate_dataset.py again"
            )
        self.num_frames = lengths
        self.num_features = films[0].shape[1]
        self.dtype = torch.from_numpy(films[0][:1].copy()).dtype
        self.num_bytes = int(lengths.sum()) * self.num_features * self.dtype.itemsize
        if any(film.shape[1] != self.num_features or film.dtype != films[0].dtype for film in films):
            raise InputError(f"{folder}: the films' features differ in number or type; preprocess all of them alike")
        if memory_map is None:
            memory_map = self.num_bytes > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        self._films = films if memory_map else None
        self._flat = None if memory_map else self._read_all(films)

    @property
    def in_memory(self) -> bool:
        """Whether the bank is one tensor in memory."""
        return self._flat is not None

    def gather(self, video: np.ndarray, frame: np.ndarray) -> Tensor:
        """Features of frames: video and frame of one shape (...) to (..., num_features), of the files' own dtype."""
        if self._flat is not None:
            # numpy asks for huge pages where torch does not, and fetching pages would take most of the time.
            return torch.from_numpy(self._flat.numpy().take(self._starts[video] + frame, axis=0))
        flat_video, flat_frame = np.reshape(video, -1), np.reshape(frame, -1)
        features = torch.empty(len(flat_video), self.num_features, dtype=self.dtype)
        view = features.numpy()
        edges = np.concatenate([[0], np.nonzero(np.diff(flat_video))[0] + 1, [len(flat_video)]])
        for begin, end in itertools.pairwise(edges):  # a run of frames of one film
            view[begin:end] = self._films[flat_video[begin]][flat_frame[begin:end]]
        return features.reshape(*np.shape(video), -1)

    def statistics(self, num_frames: int = 100_000) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (num_features,) of unit-length features, over up to `num_frames` even frames."""
        rows = np.linspace(0, self._starts[-1] - 1, min(num_frames, self._starts[-1])).astype(np.int64)
        video = np.searchsorted(self._starts, rows, side="right") - 1
        features = torch.nn.functional.normalize(self.gather(video, rows - self._starts[video]).float(), dim=1)
        return features.mean(0), features.std(0)

    def _read_all(self, films: list[np.ndarray]) -> Tensor:
        flat = torch.empty(int(self._starts[-1]), self.num_features, dtype=self.dtype)
        show_bar = self.num_bytes > 1 << 30
        for k, film in enumerate(tqdm(films, "reading features", unit="film", disable=not show_bar)):
            flat.numpy()[self._starts[k] : self._starts[k + 1]] = film
        return flat


def _map_film(folder: Path, video_id: str) -> np.ndarray:
    """Memory-map one film's features, (num_frames, D)."""
    path = folder / f"{video_id}.h5"
    if path.exists():
        try:
            read_header(path)
        except DamagedFile as error:
            raise InputError(f"{error}; run preprocess_videos.py again") from None
        return map_features(path)
    published = folder / f"{video_id}.pt"
    if published.exists():
        try:
            features = torch.load(published, mmap=True, weights_only=True, map_location="cpu").numpy()
        except Exception as error:  # torch.load raises many kinds for a damaged file
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise InputError(f"{published}: cannot be read as a tensor: {reason}") from None
        if features.ndim != 2:
            raise InputError(f"{published}: must be of shape (num_frames, num_features), found {features.shape}")
        return features
    raise InputError(f"{path}: no such feature file; run preprocess_videos.py or set dataset.video_path")
