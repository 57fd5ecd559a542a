"""A stream as a video: every picture that was answered, with a bar that says what was said of it."""

from contextlib import ExitStack, closing
from pathlib import Path

import cv2
import numpy as np

from recognition.common.command_line import InputError
from recognition.common.files import written_whole
from recognition.episodes.rendering import FONT, MARGIN, WHITE, WIDTH, WRONG, VideoFile, label
from recognition.streaming.answers import Answer
from recognition.streaming.words import clock, said, words_of

OLD = WRONG  # orange, which stands out beside white
GAP = 20  # pixels between the time and the answer


class AnnotatedVideo:
    """An H.264 video in mp4 that is written picture by picture, in the stream's own times; it begins with the first.

    The file has its name once it is closed, whatever has ended it: what was written until then is kept. Without any
    picture there is no file. As a context manager it closes itself.

    Raises InputError for a path that is no video's, OSError if it cannot be written.
    """

    def __init__(self, path: Path):
        if path.suffix.lower() != ".mp4" or path.is_dir():
            raise InputError(f"--video {path}: must end in .mp4, and be no folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._open = ExitStack()
        self._video: VideoFile | None = None
        self._first_s = 0.0

    def write(self, picture: np.ndarray, answer: Answer, words: str | None = None) -> None:
        """Add one picture (H, W, 3) uint8; `words` say when it was seen, those of `words_of` if they are not given."""
        if self._video is None:
            self._first_s = answer.time_s
            with ExitStack() as opened:
                part = opened.enter_context(written_whole(self.path))
                self._video = opened.enter_context(closing(VideoFile(part)))
                self._open = opened.pop_all()
        self._video.write(labelled(picture, answer, words), answer.time_s - self._first_s)

    def close(self) -> None:
        """Write what is still to be written, and give the file its name."""
        self._open.close()

    def __enter__(self) -> "AnnotatedVideo":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def labelled(picture: np.ndarray, answer: Answer, words: str | None = None) -> np.ndarray:
    """The picture above a bar with the stream's time and, at its right, "old 0.93 (seen 2 min 13 s ago)"."""
    time, told = clock(answer.time_s), said(answer)
    if words := words_of(answer) if words is None else words:
        told = _fitting(f"{told} ({words})", WIDTH - 2 * MARGIN - GAP - _width(time))
    return label(picture, time, told, OLD if answer.says_old else WHITE)


def _fitting(text: str, width: int) -> str:
    """The text, cut where it is longer than so many pixels."""
    while _width(text) > width:
        text = text.removesuffix("...")[:-1] + "..."
    return text


def _width(text: str) -> int:
    return cv2.getTextSize(text, *FONT)[0][0]
