"""The eye of a stream: its pictures become features exactly as preprocessing made those that a run has learned from."""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from recognition.features.backbone import Backbone
from recognition.streaming.frames import Frame


class Eye:
    """A frozen network before a memory.

    Args:
        backbone: the network.
        dtype: in which the run's features were stored, "float16" or "float32"; those made here are rounded alike.

    Attributes:
        num_features: D.
        window: how many pictures the network reads at once, 1 of single frames.
    """

    def __init__(self, backbone: Backbone, dtype: str):
        self.backbone, self.dtype, self.num_features = backbone, np.dtype(dtype), backbone.num_features
        self.window = backbone.preprocessing.window
        self._recent: deque[tuple[Frame, torch.Tensor]] = deque(maxlen=self.window)
        self._num_taken = self._num_dropped = 0

    def reads_at(self, fps: float) -> float | None:
        """Pictures a second that the eye wants for `fps` features a second; None for all that come."""
        return fps if self.window == 1 else self.backbone.preprocessing.fps

    def take(self, frame: Frame) -> Frame | None:
        """Take the next frame of a stream. Returns the frame that `now` has features of from here on: this one or, of a
        window that ends with it, the one in the middle. None where no window does."""
        self._recent.append((frame, self._cropped(frame.picture)))
        self._num_taken += 1
        self._num_dropped += frame.dropped_before
        if self._num_taken < self.window or (self._num_taken - self.window) % self._stride:
            return None
        taken = replace(self._recent[self.window // 2][0], dropped_before=self._num_dropped)
        self._num_dropped = 0
        return taken

    def now(self) -> np.ndarray:
        """Features (D,) float32 of the frame that `take` has returned last."""
        return self._features([picture for _, picture in self._recent])[0]

    def features(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Features (N, D) float32 of pictures (H, W, 3) uint8 RGB or, of a network for clips, of windows of so many
        pictures, one after the other."""
        return self._features([self._cropped(picture) for picture in pictures])

    @property
    def _stride(self) -> int:
        """Pictures from one window to the next. Those of a film that no window has do not come."""
        preprocessing = self.backbone.preprocessing
        if preprocessing.stride is None or self.window == 1:
            return self.window
        return max(1, round(preprocessing.stride / preprocessing.windows(30.0).step))

    def _cropped(self, picture: np.ndarray) -> torch.Tensor:
        return self.backbone.preprocessing.crop(torch.from_numpy(picture).permute(2, 0, 1))

    def _features(self, cropped: Sequence[torch.Tensor]) -> np.ndarray:
        return self.backbone.features(torch.stack(list(cropped))).numpy().astype(self.dtype).astype(np.float32)
