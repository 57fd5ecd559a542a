"""What is told of a data set whatever the model: controls, features and the audit, found once for all runs on it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from recognition.common.command_line import InputError
from recognition.episodes.audit import audit, audit_lines
from recognition.episodes.dataset import EpisodeDataset
from recognition.evaluation.controls import all_controls, nearest_frame_at, nearest_frame_similarity
from recognition.features.feature_bank import FeatureBank
from recognition.features.geometry import describe_geometry
from recognition.training.config import DatasetConfig
from recognition.training.data import open_split


class Findings:
    """Controls on the test episodes, and with `audited` what the splits share.

    Attributes:
        controls: scores of each control by its name, see `all_controls`.
        geometry: what `describe_geometry` tells of the training films, None if they are not given, and the test films.
        audit: what `recognition.episodes.audit.audit` found, with the lines that tell it; None if it was not asked for.
    """

    def __init__(
        self,
        config: DatasetConfig,
        test_set: EpisodeDataset,
        device: torch.device,
        training_films: FeatureBank | None,
        audited: bool = False,
    ):
        self.device = device
        validation_set = open_split(config, "validation")
        self.controls = all_controls(validation_set, test_set, device, training_films)
        self.geometry = {"train": training_films and _geometry(training_films), "test": _geometry(test_set.bank)}
        self.audit: dict[str, Any] | None = None
        if audited:
            result = audit(open_split(config, "train"), validation_set, test_set, config.video_path, device)
            self.audit = {**result, "lines": audit_lines(result)}
        self._similarity: np.ndarray | None = None
        self._nearest_frames: dict[Path, dict[str, Any]] = {}

    def similarity(self, test_set: EpisodeDataset) -> np.ndarray:
        """The cosine of every test probe with the nearest studied frame, (N, P)."""
        if self._similarity is None:
            self._similarity = nearest_frame_similarity(test_set, self.device)
        return self._similarity

    def nearest_frame(self, path: Path, dataset: EpisodeDataset) -> dict[str, Any]:
        """Scores of the nearest-frame control on the episodes of another index file, with the threshold found here."""
        if path not in self._nearest_frames:
            threshold = self.controls["nearest_frame"]["threshold"]
            self._nearest_frames[path] = nearest_frame_at(threshold, dataset, self.device)
        return self._nearest_frames[path]


def _geometry(films: FeatureBank) -> dict[str, Any] | None:
    """What `describe_geometry` tells; None if there is nothing to tell."""
    try:
        return describe_geometry(films)
    except InputError:  # all frames are alike
        return None
