"""Films in, feature files out.

Beside a GPU, worker processes decode and crop while this process runs the network. On a CPU each worker runs the
network too, on its own frames and with a single thread: nothing waits for another core, and only features are sent.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from recognition.backbone import Backbone
from recognition.feature_file import FeatureHeader, FeatureSpool
from recognition.files import sha256
from recognition.video import DECODER, DecodeError, decode, probe


class FrameBatch(NamedTuple):
    """Some frames of one film: as the network takes them or, where workers run it, their features."""

    film: int
    frames: Tensor  # (N, 3, crop, crop) uint8, or (N, D) float32
    times: Tensor  # (N,) seconds


@dataclass(frozen=True)
class FilmEnd:
    """Follows a film's last batch."""

    film: int
    failure: str  # empty if the film was decoded to its end
    video_sha256: str = ""
    fps: float = 0.0
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Outcome:
    """What became of one film: its feature file's header, or why there is none."""

    video: Path
    header: FeatureHeader | None
    failure: str = ""


class FilmFrames(IterableDataset):
    """Decodes films: yields each film's `FrameBatch`es and then its `FilmEnd`.

    Workers take the next film from a common counter, so a long film does not hold up the others. On a CPU they run the
    network as well.
    """

    def __init__(self, videos: list[Path], backbone: Backbone, batch_size: int):
        self.videos, self.backbone, self.batch_size = videos, backbone, batch_size
        self.next_film = torch.multiprocessing.Value("q", 0)

    def __iter__(self) -> Iterator[FrameBatch | FilmEnd]:
        while True:
            with self.next_film.get_lock():
                film = self.next_film.value
                self.next_film.value += 1
            if film >= len(self.videos):
                return
            yield from self._read(film)

    def _read(self, film: int) -> Iterator[FrameBatch | FilmEnd]:
        path, height, width = self.videos[film], 0, 0
        frames: list[Tensor] = []
        times: list[float] = []
        try:
            for image, time_s in decode(path):
                height, width = image.shape[:2]
                frames.append(self.backbone.preprocessing.crop(torch.from_numpy(image).permute(2, 0, 1)))
                times.append(time_s)
                if len(frames) == self.batch_size:
                    yield self._batch(film, frames, times)
                    frames, times = [], []
            if frames:
                yield self._batch(film, frames, times)
            yield FilmEnd(film, "", sha256(path), probe(path).fps, width, height)
        except DecodeError as error:
            yield FilmEnd(film, str(error))

    def _batch(self, film: int, frames: list[Tensor], times: list[float]) -> FrameBatch:
        batch = torch.stack(frames)
        if self.backbone.device.type == "cpu":
            batch = self.backbone.features(batch)
        return FrameBatch(film, batch, torch.tensor(times, dtype=torch.float64))


def extract(
    videos: list[Path], output_dir: Path, backbone: Backbone, batch_size: int, workers: int, dtype: str
) -> Iterator[int | Outcome]:
    """Write `output_dir`/<stem>.h5 for every film that can be decoded to its end.

    Yields the number of frames after every batch and an `Outcome` after every film. Memory is bounded: a few batches
    wait for the network and features are kept on disk until their film is whole. A film's batches are cut at the
    same frames whatever the number of workers, so its features are the same too.
    """
    on_gpu = backbone.device.type == "cuda"
    # Batches are fetched from the workers in turn; one that is ahead must not wait. Frames take room, features do not.
    num_waiting = 2 if on_gpu else 256
    loader = DataLoader(
        FilmFrames(videos, backbone, batch_size),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=num_waiting if workers else None,
        pin_memory=on_gpu,
    )
    with ExitStack() as stack:
        spools: dict[int, FeatureSpool] = {}
        for item in loader:
            if item.film not in spools:
                path = output_dir / f"{videos[item.film].stem}.h5"
                spools[item.film] = stack.enter_context(FeatureSpool(path, np.dtype(dtype)))
            spool = spools[item.film]
            if isinstance(item, FrameBatch):
                features = backbone.features(item.frames) if on_gpu else item.frames
                spool.append(features.numpy(), item.times.numpy())
                yield len(item.frames)
                continue
            header = None if item.failure else _header(item, videos[item.film], spool, backbone, dtype)
            with spools.pop(item.film):
                if header:
                    spool.finish(header)
                else:
                    spool.path.unlink(missing_ok=True)  # of an earlier run, under --overwrite or damaged
            yield Outcome(videos[item.film], header, item.failure)


def _header(end: FilmEnd, video: Path, spool: FeatureSpool, backbone: Backbone, dtype: str) -> FeatureHeader:
    return FeatureHeader(
        video_id=video.stem,
        video_sha256=end.video_sha256,
        num_frames=len(spool.times),
        fps=end.fps,
        width=end.width,
        height=end.height,
        backbone=backbone.name,
        weights=backbone.weights,
        weights_sha256=backbone.weights_sha256,
        decoder=DECODER,
        dtype=dtype,
        compute_dtype=str(backbone.compute_dtype).removeprefix("torch."),
    )
