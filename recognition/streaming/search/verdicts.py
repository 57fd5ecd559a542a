"""What a run's own model says of what was found: it studies a piece of the film around the place, and is then asked.

Shapes: Q frames asked about, D features.
"""

import numpy as np
import torch

from recognition.common.command_line import InputError
from recognition.streaming.search.studied import Studied
from recognition.streaming.trained import TrainedRun

AROUND_S = 10.0  # before and behind the place


class Verdicts:
    """A model that is asked about places.

    Args:
        trained: the run.
        studied: the films, by the network of its features.

    Attributes:
        threshold: of the logit, above which it says old: the one that training has found on validation, or else 0.
        reason: why it cannot be asked, "" if it can.
    """

    def __init__(self, trained: TrainedRun, studied: Studied):
        self._studied, self._fps, self._device = studied, trained.fps, trained.device
        self._stream, self.reason = None, ""
        try:
            self._stream = trained.stream()
        except InputError as error:
            self.reason = str(error)
        found = trained.model.threshold
        self.threshold = 0.0 if found is None else float(found)

    def logit(self, film: int, frame: int, asked: np.ndarray) -> float | None:
        """What it says of frames (Q, D), their mean, after studying those of a film from AROUND_S before one to
        AROUND_S behind it, which are as far apart as in training; above `threshold` for old. None if it cannot."""
        if self._stream is None:
            return None
        with torch.inference_mode():
            study = self._studied.features(film, self._around(film, frame))
            state = self._stream.study(self._stream.start(), self._tensor(study))
            return float(self._stream.ask(state, self._tensor(asked)).mean())

    def _around(self, film: int, frame: int) -> np.ndarray:
        """The frames that are studied; the one in the middle is among them."""
        fps = self._studied.fps(film)
        every = max(1, round(fps / self._fps)) if fps and self._fps else 1
        num = round(AROUND_S * (fps or 25.0) / every)
        frames = frame + every * np.arange(-num, num + 1)
        return frames[(frames >= 0) & (frames < len(self._studied.times(film)))]

    def _tensor(self, features: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(features, np.float32))[None].to(self._device)
