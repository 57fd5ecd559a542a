"""A trained run at work on streams: its model, how its films were seen, and what tells it from other runs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from models.recogniser import Recogniser
from models.streaming import Stream
from recognition.common.command_line import InputError
from recognition.common.files import sha256
from recognition.evaluation.one_run import open_run
from recognition.features.backbone import choose_device
from recognition.features.feature_bank import find_header
from recognition.features.feature_file import FeatureHeader
from recognition.features.same_backbone import same_backbone
from recognition.streaming.eye import Eye
from recognition.training.config import RunConfig
from recognition.training.data import open_split
from recognition.training.model import trained_model
from recognition.training.runs import Run

MOST_LOOKED_AT = 32  # films of the index, to tell their frame rate


class TrainedRun:
    """What a run offers to streams.

    Attributes:
        run, config, device: of it.
        model: with its best weights, in evaluation mode.
        num_features: D.
        fps: rows of features a second that it has learned from: the films' rate, of every n-th frame. None if the
            feature files do not say it.
        digests: of what its answers depend on: weights, and index of the test episodes.
        ring_threshold: cosine from which on the nearest frame says old best on the test episodes; None before
            evaluate.py has scored the run.
    """

    def __init__(self, run: Run, config: RunConfig, device: torch.device):
        self.run, self.config, self.device = run, config, device
        mapped = config.dataset.model_copy(update={"bank": "mapped", "mmap": None})
        test_set = open_split(mapped, "test")
        self.index = test_set.index
        self.model: Recogniser = trained_model(config, run.load_best(), test_set).to(device).eval()
        self.num_features = test_set.bank.num_features
        headers = [find_header(config.dataset.video_path, film) for film in self.index.video_ids[:MOST_LOOKED_AT]]
        self._header: FeatureHeader | None = headers[0]
        rates = [header.fps for header in headers if header and header.fps]
        self.fps = float(np.median(rates)) / test_set.subsample if rates else None
        self.digests = {"weights": sha256(run.best_file), "index": sha256(self.index.path)}
        self.ring_threshold = self._ring_threshold()

    def stream(self, capacity: int | None = None, forget_after: int | None = None) -> Stream:
        """Its model frame by frame, see `Stream`. Raises InputError if a layer cannot."""
        header = self._header
        origin = f"{header.backbone} {header.weights_sha256}" if header else "unknown"
        try:
            return Stream(self.model, capacity, forget_after, origin)
        except ValueError as error:
            raise InputError(f"{self.run.path}: {error}") from None

    def eye(self, weights: str | None = None) -> Eye:
        """What made its features. `weights`: where they are, if they are a file's. Raises InputError."""
        if self._header is None:
            raise InputError(
                f"{self.config.dataset.video_path}: its files do not say which network made them; make features with "
                f"preprocess_videos.py and train a run on those"
            )
        fast = self._header.compute_dtype != "float32"
        try:
            backbone = same_backbone(self._header, self.device, weights, fast)
        except InputError as error:
            raise InputError(f"{self.run.path}: {error}; say where its weights are with --weights PATH") from None
        return Eye(backbone, self._header.dtype)

    def live_digests(self, delay_s: float, fps: float) -> dict[str, str]:
        """All that a calibration depends on."""
        return self.digests | {"delay": f"{delay_s:g}", "fps": f"{fps:g}"}

    def _ring_threshold(self) -> float | None:
        if not self.run.evaluation_file.is_file():
            return None
        threshold = self.run.read_evaluation().get("controls", {}).get("nearest_frame", {}).get("threshold")
        return None if threshold is None else float(threshold)


def open_trained(path: Path, settings: Sequence[str] = (), device: str = "auto") -> TrainedRun:
    """A trained run; `settings` such as dataset.video_path=elsewhere are given anew. Raises InputError, in one line, if
    it is none, is not trained yet, or what it reads is not at hand."""
    run, config = open_run(path, settings)
    return TrainedRun(run, config, choose_device(device))
