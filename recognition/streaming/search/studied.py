"""Films that were studied: their features, frame by frame, read from files where they are asked for.

Shapes: F films, n frames of one, K shots of it, D features.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from recognition.common.command_line import InputError
from recognition.features.backbone import Backbone
from recognition.features.feature_file import (
    DamagedFile,
    FeatureHeader,
    feature_files,
    map_features,
    read_header,
    read_shots,
    read_times,
)


class Studied(Protocol):
    """Films by their numbers, 0 to F - 1."""

    @property
    def names(self) -> Sequence[str]:
        """Of the films, (F,)."""

    @property
    def digests(self) -> Sequence[str]:
        """Of what decides the features of each, (F,)."""

    @property
    def num_features(self) -> int:
        """D."""

    def fps(self, film: int) -> float:
        """Frames a second, 0 where that is not known."""

    def times(self, film: int) -> np.ndarray:
        """Times of all frames in seconds, (n,), ascending."""

    def shots(self, film: int) -> np.ndarray:
        """First frames of the shots, (K,), ascending from 0; [0] where they are not known."""

    def features(self, film: int, frames: np.ndarray) -> np.ndarray:
        """Of some frames, given their numbers (m,): (m, D) of any floating type."""


class StudiedFiles:
    """Feature files of preprocess_videos.py, which are mapped when something of them is asked for.

    Args:
        folder: where they are.
        headers: of the films, by the names of their files.
        num_features: D.
    """

    def __init__(self, folder: Path, headers: Mapping[str, FeatureHeader], num_features: int):
        self.folder, self.num_features = folder, num_features
        self.names, self.headers = list(headers), list(headers.values())
        self.digests = [header.digest for header in self.headers]
        self._features: dict[int, np.ndarray] = {}
        self._times: dict[int, np.ndarray] = {}

    def fps(self, film: int) -> float:
        return self.headers[film].fps

    def times(self, film: int) -> np.ndarray:
        if film not in self._times:
            self._times[film] = read_times(self._path(film))
        return self._times[film]

    def shots(self, film: int) -> np.ndarray:
        try:
            shots = read_shots(self._path(film))
        except DamagedFile as error:
            raise InputError(f"{error}; run preprocess_videos.py again") from None
        return np.zeros(1, np.int64) if shots is None else shots

    def features(self, film: int, frames: np.ndarray) -> np.ndarray:
        if film not in self._features:
            self._features[film] = map_features(self._path(film))
        return self._features[film][frames]

    def _path(self, film: int) -> Path:
        return self.folder / f"{self.names[film]}.h5"


def read_headers(folder: Path, backbone: Backbone) -> dict[str, FeatureHeader]:
    """What the feature files of a folder say, by their names. Raises InputError if one is damaged, or of another
    network than this."""
    headers = {}
    for path in feature_files(folder):
        try:
            headers[path.stem] = header = read_header(path)
        except DamagedFile as error:
            raise InputError(f"{error}; run preprocess_videos.py again") from None
        if (header.backbone, header.weights_sha256) != (backbone.name, backbone.weights_sha256):
            raise InputError(
                f"{path} was made with {header.backbone} ({header.weights}), the run's films with {backbone.name} "
                f"({backbone.weights}): features of two networks cannot be compared; name another folder"
            )
    return headers
