"""Clips and pictures of episodes as files that a browser shows: exactly their frames, each as long as in the film."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from recognition.common.command_line import InputError
from recognition.episodes.rendering import Films, altered
from recognition.films.alterations import ALTERATIONS
from recognition.films.video import DecodeError, decode, picture_stream, read_frames, reason

CLOCK = Fraction(1, 90_000)  # seconds of a clip's clock: exact for the usual rates of films
OPTIONS = {"crf": "18", "preset": "veryfast", "bf": "0"}
BT601, LIMITED = 6, 1  # matrix and range by which a clip's colours are coded, and tagged
JPEG_QUALITY = 92
HDR = {16: "PQ", 18: "HLG"}  # transfer curves by H.273
WIDE = 9  # primaries of BT.2020


@dataclass(frozen=True)
class Clip:
    """A clip to write: film and frames of each of its rows."""

    file: Path  # below the experiment's folder
    rows: tuple[tuple[int, np.ndarray, np.ndarray], ...]  # film, frames (n,), and how many seconds each is shown (n,)

    @property
    def num_frames(self) -> int:
        """Pictures that are shown."""
        return sum(len(frames) for _, frames, _ in self.rows)

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return float(sum(seconds.sum() for *_, seconds in self.rows))


@dataclass(frozen=True)
class Picture:
    """A picture to write: a frame of a film, altered if a probe of its kind is."""

    file: Path  # below the experiment's folder
    video: int
    frame: int
    kind: str


class Studio:
    """Makes the files. `size` is width and height of all of them; pictures are fitted in, on black."""

    def __init__(self, films: Films, size: tuple[int, int]):
        self.films, self.size = films, size

    def make(self, item: Clip | Picture, folder: Path) -> None:
        """Write its file below a folder. Raises InputError, naming the film, if that cannot be read."""
        if isinstance(item, Clip):
            self._write_clip(item, folder / item.file)
        else:
            self._write_picture(item, folder / item.file)

    def _write_clip(self, clip: Clip, path: Path) -> None:
        ends = np.cumsum(np.concatenate([seconds for *_, seconds in clip.rows]))
        ticks = [0, *(round(float(end) / float(CLOCK)) for end in ends)]
        with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=25, options=OPTIONS)
            stream.width, stream.height, stream.pix_fmt = *self.size, "yuv420p"
            codec = stream.codec_context
            codec.time_base, codec.thread_count = CLOCK, 1  # one thread: equal frames give equal files
            codec.colorspace, codec.color_range = BT601, LIMITED
            durations = {start: end - start for start, end in itertools.pairwise(ticks)}
            reformatter = VideoReformatter()
            for picture, start in zip(self._pictures(clip), ticks, strict=False):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame = reformatter.reformat(
                    frame, format="yuv420p", dst_colorspace=BT601, dst_color_range=LIMITED, threads=1
                )
                frame.pts, frame.time_base = start, CLOCK
                _mux(container, stream.encode(frame), durations)
            _mux(container, stream.encode(), durations)

    def _pictures(self, clip: Clip) -> Iterator[np.ndarray]:
        for video, frames, _ in clip.rows:
            for picture in self._read(video, frames, self._short_side(video)):
                yield on_canvas(picture, self.size)

    def _write_picture(self, item: Picture, path: Path) -> None:
        short_side = self._short_side(item.video)
        if item.kind in ALTERATIONS:
            [whole] = self._read(item.video, [item.frame], None)
            picture = _made_smaller(altered(whole, item.kind), short_side)
        else:
            [picture] = self._read(item.video, [item.frame], short_side)
        options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if path.suffix == ".jpg" else []
        _, content = cv2.imencode(path.suffix, on_canvas(picture, self.size)[..., ::-1], options)
        path.write_bytes(content.tobytes())

    def _read(self, video: int, frames: Sequence[int] | np.ndarray, short_side: int | None) -> list[np.ndarray]:
        path, times = self.films.path(video), self.films.times(video)
        try:
            return read_frames(path, times[np.asarray(frames)].tolist(), short_side)
        except DecodeError as error:
            raise InputError(f"{path}: {error}") from None

    def _short_side(self, video: int) -> int:
        """To how many pixels the shorter side of a film's pictures is scaled, so that they fit; even."""
        path = self.films.path(video)
        try:
            with closing(decode(path)) as frames:  # type: ignore[type-var]
                height, width = next(iter(frames))[0].shape[:2]
        except DecodeError as error:
            raise InputError(f"{path}: {error}") from None
        scale = min(self.size[0] / width, self.size[1] / height)
        return max(2, int(scale * min(height, width) / 2) * 2)


def on_canvas(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture (H, W, 3) in the middle of a black one of `size` (width, height), as large as fits."""
    width, height = size
    high, wide = picture.shape[:2]
    if not (wide <= width and high <= height and (wide > width - 4 or high > height - 4)):
        scale = min(width / wide, height / high)
        wide, high = (max(1, min(limit, round(scale * side))) for side, limit in ((wide, width), (high, height)))
        picture = cv2.resize(picture, (wide, high), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    canvas = np.zeros((height, width, 3), np.uint8)
    x, y = (width - wide) // 2, (height - high) // 2
    canvas[y : y + high, x : x + wide] = picture
    return canvas


def unusual_colours(path: Path) -> str | None:
    """What browsers, and networks, do not see of a film's colours as its makers meant them; None for usual ones."""
    try:
        with av.open(str(path.absolute()), metadata_errors="replace") as container:
            codec = picture_stream(container).codec_context
            curve, primaries = int(codec.color_trc or 0), int(codec.color_primaries or 0)
    except DecodeError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # a film can bring up any kind
        raise InputError(f"{path}: {reason(error)}") from None
    if curve in HDR:
        return f"is HDR ({HDR[curve]}): its pictures look pale in the experiment, as they do to the networks"
    if primaries == WIDE:
        return "has the wide colours of BT.2020: they look weaker in the experiment, as they do to the networks"
    return None


def _made_smaller(picture: np.ndarray, short_side: int) -> np.ndarray:
    """As films' pictures are made smaller when they are read."""
    from recognition.films.picture import small_size

    height, width = picture.shape[:2]
    width, height = small_size(width, height, short_side)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    return VideoReformatter().reformat(frame, width=width, height=height, format="rgb24", threads=1).to_ndarray()


def _mux(container: av.container.OutputContainer, packets: list, durations: dict[int, int]) -> None:
    """Write packets that say how long they are: else the last picture would last as long as the stream's rate says."""
    for packet in packets:
        if packet.pts is not None:
            packet.duration = durations[packet.pts]
        container.mux(packet)
