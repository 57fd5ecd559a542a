"""Films in, feature files out.

Beside a GPU, worker processes decode and crop while this process runs the network. On a CPU each worker runs the
network too, on its own frames and with a single thread: nothing waits for another core, and only features are sent.
"""

import functools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recognition.common.files import can_be_read, sha256
from recognition.common.workers import done_by_workers
from recognition.features.backbone import Backbone
from recognition.features.feature_file import FeatureHeader, FeatureSpool
from recognition.features.preprocessing import Preprocessing, Windows, on_grid
from recognition.films.alterations import ALTERATIONS
from recognition.films.shots import ShotFinder
from recognition.films.video import DECODER, DecodeError, decode, probe, reason


class FrameBatch(NamedTuple):
    """Some windows of one film, ready for the network; to a network for images a frame is a window of one."""

    film: int
    first: int  # the number of the first of them in the film
    frames: Tensor  # (N * window, 3, crop, crop) uint8, windows one after the other
    times: Tensor  # (N,) seconds
    num_read: int  # frames of the film since the last batch


class FeatureBatch(NamedTuple):
    """What the network makes of them."""

    film: int
    features: Tensor  # (N, D)
    altered: Tensor  # (M, A, D), of those that are altered, in A versions
    times: Tensor  # (N,) seconds
    num_read: int


@dataclass(frozen=True)
class FilmEnd:
    """Follows a film's last batch."""

    film: int
    failure: str  # empty if the film was decoded to its end
    video_sha256: str = ""
    video_bytes: int = 0
    rate: float = 0.0  # windows a second
    width: int = 0
    height: int = 0
    shots: tuple[int, ...] = ()  # the first windows of each


@dataclass(frozen=True)
class Outcome:
    """What became of one film: its feature file's header, or why there is none."""

    video: Path
    header: FeatureHeader | None
    failure: str = ""


class FilmFrames:
    """Decodes films: called with the number of one, it yields the film's batches and then its `FilmEnd`. Frames after
    the last whole window have none. With `compute` it yields what that makes of each `FrameBatch`.
    """

    def __init__(
        self,
        videos: list[Path],
        preprocessing: Preprocessing,
        batch_size: int,
        compute: Callable[[FrameBatch], FeatureBatch] | None = None,
    ):
        self.videos, self.preprocessing, self.batch_size, self.compute = videos, preprocessing, batch_size, compute

    def __call__(self, film: int) -> Iterator[FrameBatch | FeatureBatch | FilmEnd]:
        for item in self._read(film):
            yield self.compute(item) if self.compute and isinstance(item, FrameBatch) else item

    def _read(self, film: int) -> Iterator[FrameBatch | FilmEnd]:
        path = self.videos[film]
        num_frames = num_told = height = width = 0
        middles: list[int] = []  # numbers of the frames for which windows stand
        frames: list[Tensor] = []
        times: list[float] = []
        shots = ShotFinder()

        def batch() -> FrameBatch:
            first, num_read = len(middles) - len(times), num_frames - num_told
            return FrameBatch(film, first, torch.stack(frames), torch.tensor(times, dtype=torch.float64), num_read)

        try:
            check_name(path)
            before = path.stat()
            lie = self._windows(path)
            each = math.gcd(lie.step, lie.stride)  # no window has a frame between these
            recent: deque[tuple[Tensor, float]] = deque(maxlen=(lie.span - 1) // each + 1)  # frames with their times
            for image, time_s, is_due in on_grid(decode(path), self.preprocessing.frame_fps):
                height, width = image.shape[:2]
                num_frames += 1
                shots.add(image)
                if (num_frames - 1) % each or not is_due:
                    continue
                recent.append((self.preprocessing.crop(torch.from_numpy(image).permute(2, 0, 1)), time_s))
                if num_frames < lie.span or (num_frames - lie.span) % lie.stride:
                    continue
                middles.append(num_frames - lie.span + lie.middle)
                frames += [frame for frame, _ in list(recent)[:: lie.step // each]]
                times.append(recent[lie.middle // each][1])
                if len(times) == self.batch_size:
                    yield batch()
                    frames, times, num_told = [], [], num_frames
            if not middles:
                raise DecodeError(f"has {num_frames} frames, too few for a window of {lie.span}")
            if times:
                yield batch()
            starts = first_windows(shots.starts, middles)
            rate, digest, after = self.preprocessing.rate(probe(path).fps), sha256(path), path.stat()
            if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                raise DecodeError("has changed while it was read")
            yield FilmEnd(film, "", digest, after.st_size, rate, width, height, starts)
        except DecodeError as error:
            yield FilmEnd(film, str(error))
        except Exception as error:  # whatever a library makes of this film, the others are still to be read
            yield FilmEnd(film, reason(error))

    def _windows(self, path: Path) -> Windows:
        """How windows lie in a film. Raises DecodeError if it does not say what they depend on."""
        try:
            return self.preprocessing.windows(probe(path).fps if self.preprocessing.fps else 0)
        except ValueError as error:
            raise DecodeError(str(error)) from None


def check_name(path: Path) -> None:
    """Raise DecodeError for a film whose name cannot stand in the files that its features pass through."""
    try:
        path.stem.encode()
    except UnicodeEncodeError:
        raise DecodeError("its name is not UTF-8: rename it") from None


def first_windows(starts: Sequence[int], middles: Sequence[int]) -> tuple[int, ...]:
    """The first windows of shots that begin at these frames, ascending from 0. A window is of the shot of its middle
    frame, whose numbers are given, ascending; so a shot may have none."""
    windows = {0, *np.searchsorted(middles, starts).tolist()} - {len(middles)}
    return tuple(sorted(windows))


def compute_features(backbone: Backbone, alter_every: int, batch: FrameBatch) -> FeatureBatch:
    """Features of windows and, of every `alter_every`-th window of the film (0: none), of its altered versions."""
    windows = batch.frames.unflatten(0, (len(batch.times), -1))
    chosen = (windows[-batch.first % alter_every :: alter_every] if alter_every else windows[:0]).flatten(0, 1)
    altered = torch.empty(0, len(ALTERATIONS), backbone.num_features)
    if len(chosen):
        altered = torch.stack([backbone.features(alter(chosen)) for alter in ALTERATIONS.values()], 1)
    return FeatureBatch(batch.film, backbone.features(batch.frames), altered, batch.times, batch.num_read)


class Storage(NamedTuple):
    """What feature files are to hold."""

    dtype: str = "float16"  # of the features
    alter_every: int = 0  # every so many-th frame or window altered, too; 0: none


def extract(
    videos: list[Path], output_dir: Path, backbone: Backbone, storage: Storage, batch_size: int, workers: int
) -> Iterator[int | Outcome]:
    """Write `output_dir`/<stem>.h5 for every film that can be decoded to its end and has a window.

    What the file calls a frame is a window where the network reads windows: `fps` is then their rate, and `time_s` has
    the times of their middle frames. `batch_size` counts frames that the network sees at once, at least one window.

    Yields the number of frames read after every batch and an `Outcome` after every film. Memory is bounded: a few
    batches wait for the network and features are kept on disk until their film is whole. A film's batches are cut at
    the same frames whatever the number of workers, so its features are the same too.
    """
    on_gpu, preprocessing = backbone.device.type == "cuda", backbone.preprocessing
    compute = functools.partial(compute_features, backbone, storage.alter_every)
    num_windows = max(1, batch_size // preprocessing.window)
    read = FilmFrames(videos, preprocessing, num_windows, None if on_gpu else compute)
    advice = f"lower --workers ({workers}) or --batch_size ({batch_size}), or ask for more memory"
    with ExitStack() as stack:
        spools: dict[int, FeatureSpool] = {}
        for item in done_by_workers(read, [str(video) for video in videos], workers, advice, FilmEnd):
            if item.film not in spools:
                path = output_dir / f"{videos[item.film].stem}.h5"
                spools[item.film] = stack.enter_context(FeatureSpool(path, np.dtype(storage.dtype)))
            spool = spools[item.film]
            if isinstance(item, FrameBatch):
                item = compute(item)
            if isinstance(item, FeatureBatch):
                spool.append(item.features.numpy(), item.times.numpy(), item.altered.numpy())
                yield item.num_read
                continue
            header = None if item.failure else _header(item, videos[item.film], spool, backbone, storage)
            with spools.pop(item.film):
                if header:
                    spool.finish(header, np.array(item.shots))
                elif can_be_read(videos[item.film]):
                    spool.path.unlink(missing_ok=True)  # of an earlier run, under --overwrite or damaged
            yield Outcome(videos[item.film], header, item.failure)


def _header(end: FilmEnd, video: Path, spool: FeatureSpool, backbone: Backbone, storage: Storage) -> FeatureHeader:
    return FeatureHeader(
        video_id=video.stem,
        video_sha256=end.video_sha256,
        video_bytes=end.video_bytes,
        num_frames=len(spool.times),
        fps=end.rate,
        width=end.width,
        height=end.height,
        backbone=backbone.name,
        weights=backbone.weights,
        weights_sha256=backbone.weights_sha256,
        decoder=DECODER,
        dtype=storage.dtype,
        compute_dtype=str(backbone.compute_dtype).removeprefix("torch."),
        alter_every=storage.alter_every,
        seen_by_backbone=end.video_sha256 in backbone.films,
    )
