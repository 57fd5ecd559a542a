"""Find where the shots of a film begin, frame by frame while it is decoded, with PySceneDetect."""

import cv2
import numpy as np
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

LONGER_SIDE = 96  # pixels; cuts show in small pictures too, at a tenth of a millisecond each
RATE = 25.0  # the detector wants one; nothing depends on it


class ShotFinder:
    """Give it every frame of a film in order; `starts` then holds the first frames of the shots, ascending from 0.

    A cut is a frame whose colours differ from the frame before, and much more so than frames around it differ from each
    other, so that fast movement is none. Of a gradual change, such as a dissolve, nothing is noticed; nor is a cut
    within two frames of an end of the film. Where frames change their size on the way they are made as the first.
    """

    def __init__(self) -> None:
        self.starts = [0]
        self._num_frames = 0
        self._size: tuple[int, int] | None = None
        self._detector = AdaptiveDetector(min_scene_len=0)

    def add(self, image: np.ndarray) -> None:
        """Look at the next frame, (H, W, 3) uint8 RGB."""
        if self._size is None:
            height, width = image.shape[:2]
            scale = LONGER_SIDE / max(height, width)
            self._size = max(1, round(scale * width)), max(1, round(scale * height))
        small = cv2.resize(image, self._size)
        cuts = self._detector.process_frame(FrameTimecode(self._num_frames, RATE), small[..., ::-1])
        self.starts += [cut.frame_num for cut in cuts]
        self._num_frames += 1
