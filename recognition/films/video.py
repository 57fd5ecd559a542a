"""Decode films, every frame exactly once, with PyAV (FFmpeg's libraries inside the wheel, no program to install)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from recognition.common.command_line import InputError, one_line
from recognition.films.picture import DecodeError, PictureMaker

DECODER = "pyav 3"  # the number grows whenever a film comes to other features, so that no folder mixes both
# Of containers that tell their frames' times. A GIF is more often a picture beside a film than a film.
VIDEO_SUFFIXES = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".f4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".vob"),
        *(".ts", ".mts", ".m2ts", ".mxf", ".ogv", ".wmv", ".asf", ".flv"),
    }
)


@dataclass(frozen=True)
class VideoInfo:
    """What a container says of its first video stream; num_frames is a claim, often wrong, 0 where it makes none."""

    width: int
    height: int
    fps: float
    num_frames: int


def find_videos(folder: str | Path) -> list[Path]:
    """List the films of a folder by name; hidden files and other kinds of files are passed over.

    Raises InputError if there is no such folder, no film in it, or if two films share a stem and so a feature file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; put the films there or name another with --input_dir")
    videos = sorted(
        path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")
    )
    if not videos:
        raise InputError(f"{folder}: holds no film ({', '.join(sorted(VIDEO_SUFFIXES))})")
    by_stem: dict[str, Path] = {}
    for path in videos:
        if path.stem in by_stem:
            raise InputError(f"{by_stem[path.stem]} and {path} would share one feature file; rename one of them")
        by_stem[path.stem] = path
    return videos


def files_passed_over(folder: str | Path) -> list[Path]:
    """Files of a folder, by name, that `find_videos` passes over, but for hidden ones and a download's manifest."""
    return sorted(
        path
        for path in Path(folder).iterdir()
        if path.is_file()
        and path.suffix.lower() not in VIDEO_SUFFIXES
        and not path.name.startswith(".")
        and path.name != "manifest.csv"
    )


def probe(path: str | Path) -> VideoInfo:
    """Read size, frame rate and claimed length without decoding. Raises DecodeError."""
    try:
        with _open(path) as container:
            stream = picture_stream(container)
            fps = float(stream.average_rate or stream.guessed_rate or 0)
            seconds = (container.duration or 0) / av.time_base
            return VideoInfo(stream.width, stream.height, fps, stream.frames or round(seconds * fps))
    except DecodeError:
        raise
    except Exception as error:  # a film can bring up any kind
        raise DecodeError(reason(error)) from error


def decode(path: str | Path, threads: int = 1, short_side: int | None = None) -> Iterator[tuple[np.ndarray, float]]:
    """Yield every frame of the first video stream as (image, time_s), image (H, W, 3) uint8 RGB, as people see it, or
    made smaller: see `PictureMaker`. Sizes may differ within a film.

    Frames come in order of presentation, with the container's own times, so a variable frame rate is kept. A time
    that does not follow the one before it, as avi files with B-frames have them, is taken one frame later instead.

    Raises DecodeError at the first damaged packet or frame, for anything else that keeps the film from being read, and
    where the packets end more than a second before the end that the container declares for them (mp4, mov, avi): a film
    is read whole or not at all. A Matroska file cut short just ends.
    """
    num_frames, time_s, end_s = 0, -math.inf, 0.0
    try:
        with _open(path) as container:
            stream = picture_stream(container)
            maker = PictureMaker(stream, short_side)
            # One thread unless asked: FFmpeg's own threads have been seen to hang beside torch's in forked processes.
            stream.thread_type, stream.codec_context.thread_count = ("AUTO" if threads > 1 else "NONE"), threads
            stream.codec_context.options = {"err_detect": "explode"}  # else FFmpeg paints over damage that it finds
            fps = float(stream.average_rate or 25)
            declared_s = float((stream.duration or 0) * _time_base(stream))
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise DecodeError(f"a packet is damaged after {num_frames} frames")
                if packet.pts is not None:
                    end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                for frame in packet.decode():
                    if frame.is_corrupt:
                        raise DecodeError(f"frame {num_frames} is damaged")
                    image = maker.picture(frame)
                    told_s = num_frames / fps if frame.time is None else frame.time
                    time_s = told_s if told_s > time_s else time_s + 1 / fps
                    yield image, time_s
                    num_frames += 1
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError(f"{reason(error)} after {num_frames} frames") from error
    if num_frames == 0:
        raise DecodeError("no frame could be decoded")
    if end_s < declared_s - 1:
        raise DecodeError(f"ends after {end_s:.1f} s of {declared_s:.1f} s")


def read_frames(path: str | Path, times_s: Sequence[float], short_side: int | None = None) -> list[np.ndarray]:
    """Read single frames by the times that `decode` gives them: its images (H, W, 3) uint8 RGB, in the order asked for.

    Times may come in any order and more than once. One pass decodes from the key frame before the earliest to the
    latest of them. The film is decoded from its start instead where its packets do not tell its frames apart by time,
    as in avi files, and where it cannot be sought in.

    Raises DecodeError where the film has no frame at one of these times or cannot be read that far.
    """
    wanted = set(times_s)
    images = _seek_frames(path, wanted, short_side) if wanted else {}
    if len(images) < len(wanted):
        images = {}
        for image, time_s in decode(path, short_side=short_side):
            if time_s in wanted:
                images[time_s] = image
                if len(images) == len(wanted):
                    break
    if missing := wanted - images.keys():
        raise DecodeError(f"has no frame at {min(missing):.6f} s; it is not the film that was preprocessed")
    return [images[time_s] for time_s in times_s]


def _seek_frames(path: str | Path, wanted: set[float], short_side: int | None) -> dict[float, np.ndarray]:
    """Images by their times in seconds; not all, or none, where seeking may find others than `decode` would."""
    images: dict[float, np.ndarray] = {}
    first_s, last_s, before_s = min(wanted), max(wanted), -math.inf
    try:
        with _open(path) as container:
            stream = picture_stream(container)
            maker = PictureMaker(stream, short_side)
            stream.thread_type = "NONE"
            stream.codec_context.options = {"err_detect": "explode"}
            if (delay := _longest_delay(container, stream, last_s)) is None:
                return {}
            # Some containers seek by the time of decoding, which comes before that of presentation.
            container.seek(round(first_s / _time_base(stream)) - delay, stream=stream)
            for frame in container.decode(stream):
                is_astray = before_s == -math.inf and frame.time is not None and frame.time > first_s
                if is_astray or frame.time is None or frame.time <= before_s:
                    return {}
                if frame.time in wanted and not frame.is_corrupt:
                    images[frame.time] = maker.picture(frame)
                if frame.time >= last_s:
                    break
                before_s = frame.time
    except Exception:
        return {}  # decoding from the start tells what is wrong, if anything is
    return images


def _longest_delay(container: av.container.InputContainer, stream: av.VideoStream, last_s: float) -> int | None:
    """How long packets wait at most from decoding to presentation, in the stream's units, up to a time in the film.

    None where two packets have one time of presentation, or one has none: `decode` then makes times of its own.
    """
    times, delay = set(), 0
    for packet in container.demux(stream):
        if packet.size == 0:  # the end
            break
        if packet.pts is None or packet.pts in times:
            return None
        times.add(packet.pts)
        if packet.dts is not None:  # Matroska gives none to the first packets
            delay = max(delay, packet.pts - packet.dts)
            if packet.dts * packet.time_base > last_s:
                break  # what follows is shown even later
    return delay


def picture_stream(container: av.container.InputContainer) -> av.VideoStream:
    """The first video stream that is a film, not a cover picture. Raises DecodeError if there is none to decode."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            if stream.codec_context is None:
                raise DecodeError("is of a codec that FFmpeg does not know")
            return stream
    raise DecodeError("holds no video stream")


def _time_base(stream: av.VideoStream) -> Fraction:
    """Seconds that a stream's times count in. Raises DecodeError if it does not say."""
    if stream.time_base is None:
        raise DecodeError("does not say what its times count in")
    return stream.time_base


def reason(error: Exception) -> str:
    """What to say of an error that a film brought up: one line without the film's path, and of which kind it is unless
    FFmpeg or the system says it in words."""
    if words := getattr(error, "strerror", None):
        return one_line(words)
    return one_line(f"{type(error).__name__}: {error}".removesuffix(": "))


def _open(path: str | Path) -> av.container.InputContainer:
    # FFmpeg would take a name such as a:b.mp4 for an address.
    return av.open(str(Path(path).absolute()), metadata_errors="replace")
