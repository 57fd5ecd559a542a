"""From a decoded frame to the picture that people see: its colours, the shape of its pixels, and which way is up."""

from fractions import Fraction

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import VideoReformatter

UNSPECIFIED, RESERVED = 2, 3  # code points of ITU-T H.273, as films and FFmpeg number colour spaces
# A pixel so little from square is left; one so many times as long as high, or high as long, is taken for a mistake.
NEARLY_SQUARE, ABSURD = Fraction(1, 100), 4
LONGEST = 100  # times a picture's shorter side, which is enlarged to 256 pixels for a network


class DecodeError(Exception):
    """A film that cannot be decoded to its end. The message says where and why."""


class PictureMaker:
    """Makes the pictures of one video stream, while it is decoded.

    Colours are those of FFmpeg's swscale: by the matrix and the range that the film is tagged with, and by BT.601 in
    limited range where it has no tag. Primaries and transfer curves are left as they are.

    Pixels that are not square are made so by drawing the picture out in width or in height, so that none is lost. What
    the container says of their shape goes before what the stream says. That may change on the way, and then some
    frames just before the change may be taken for later ones.

    Of the display matrix the nearest of the eight ways to turn and mirror a picture is taken.

    Given a `short_side`, pictures are made no larger than `small_size` says, in the same step.
    """

    def __init__(self, stream: av.VideoStream, short_side: int | None = None):
        self._codec = stream.codec_context
        self._reformatter = VideoReformatter()  # takes longer to make than to use
        self._said = stream.sample_aspect_ratio  # by the container, or else as the stream begins
        self._may_change = self._said == self._codec.sample_aspect_ratio
        self._short_side = short_side

    def picture(self, frame: av.VideoFrame) -> np.ndarray:
        """The picture of the frame that the stream has just decoded: (H, W, 3) uint8 RGB.

        Raises DecodeError for a colour space that swscale does not know, such as YCgCo, and for pictures like threads.
        """
        # These do not change a pixel here, but PyAV 17 refuses some of them.
        frame.color_primaries = frame.color_trc = UNSPECIFIED
        if frame.colorspace == RESERVED:
            frame.colorspace = UNSPECIFIED
        pixel_shape = (self._may_change and self._codec.sample_aspect_ratio) or self._said
        width, height = square_size(frame.width, frame.height, pixel_shape)
        if max(width, height) > LONGEST * min(width, height):
            raise DecodeError(f"has pictures of {width} x {height} pixels, too slim to be looked at")
        if self._short_side:
            width, height = small_size(width, height, self._short_side)
        try:
            # PyAV would take a thread for each core.
            rgb = self._reformatter.reformat(frame, width=width, height=height, format="rgb24", threads=1)
        except OSError as error:
            raise DecodeError(
                f"has colour space {int(frame.colorspace)}, of which FFmpeg makes no RGB: {error.strerror}"
            ) from error
        return upright(rgb.to_ndarray(), display_matrix(frame))


def square_size(width: int, height: int, pixel_shape: Fraction | None) -> tuple[int, int]:
    """Width and height of a picture once its pixels, so many times as wide as high, are square; None: they are."""
    if not pixel_shape or abs(pixel_shape - 1) < NEARLY_SQUARE or not Fraction(1, ABSURD) < pixel_shape < ABSURD:
        return width, height
    wider, lower = max(Fraction(1), pixel_shape), min(Fraction(1), pixel_shape)
    return round(width * wider), round(height / lower)


def small_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Even width and height of a picture whose shorter side is made `short_side` or, if it is less already, is kept."""
    share = min(1, short_side / min(width, height))
    return max(2, 2 * round(width * share / 2)), max(2, 2 * round(height * share / 2))


def display_matrix(frame: av.VideoFrame) -> np.ndarray:
    """What of a frame's display matrix turns and mirrors it, (2, 2): it is applied to row vectors (x, y)."""
    try:
        matrix = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]  # PyAV's stub knows names alone
    except ValueError:  # side data of a kind that PyAV does not know is in the way, and tells the angle alone
        angle = np.radians(frame.rotation)
        return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.eye(2) if matrix is None else np.frombuffer(matrix, np.int32).reshape(3, 3)[:2, :2].astype(float)


def upright(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Turn and mirror an image (H, W, 3) as a matrix (2, 2) says, to the nearest quarter of a turn; C-contiguous."""
    (a, b), (c, d) = matrix
    if abs(b * c) > abs(a * d):  # what lay across now stands
        image, (a, d) = image.transpose(1, 0, 2), (c, b)
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
