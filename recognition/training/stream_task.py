"""Streams as a task of the training loop: was this frame here before, a while ago?

Every frame of a stream is asked about, of a memory that has studied the frames before it but for those of the last
`delay_s`, as `models.streaming.Stream` does it. The frames of a short stretch are asked together, of the state that is
right for the first of them.

Shapes: B streams, T frames, W whitened axes.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from models.recogniser import Recogniser
from models.streaming import Stream
from recognition.common.command_line import InputError
from recognition.episodes.dataset import EpisodeDataset
from recognition.episodes.streams import StreamDrawing, draw_stream
from recognition.features.feature_bank import find_header
from recognition.training.config import RunConfig, StreamConfig
from recognition.training.data import batches, loader
from recognition.training.episode_task import reflections
from recognition.training.loop import IsStopAsked, Validation, sum_of_all
from recognition.training.optimizer import adamw, learning_rate

TRAINING, VALIDATION = 4, 5  # keep the seeds of streams apart from each other's and those of episodes


class StreamBatch(NamedTuple):
    """B streams. Those that end sooner are filled up with frames that do not count."""

    features: Tensor  # (B, T, D) as stored
    is_old: Tensor  # (B, T) float32, whether the very same frame is among those studied when it is asked about
    counts: Tensor  # (B, T) bool; not where it was shown before, and is not studied yet
    film: Tensor  # (B, T) int64, of each frame


class StreamSet:
    """Streams of the films of one split, without end. Indexed with an array of their numbers (B,), it gives a
    `StreamBatch`, whose streams depend on the seed and their own numbers alone.

    Raises InputError if the rate of a film is not known, or its films are too few or short for a stream with repeats.
    """

    def __init__(self, films: EpisodeDataset, config: StreamConfig, seed: tuple[int, ...]):
        self.bank, self.spec, self.seed = films.bank, config.spec, seed
        self._subsample = films.subsample
        self._fps = np.array([_rate(films, video_id, config) for video_id in films.index.video_ids])
        rate = self._fps.max() / films.subsample
        self.delay = math.ceil(config.delay_s * rate - 1e-9)
        self.together = max(1, round((config.asked_together_s or config.delay_s) * rate))
        try:
            has_repeats = any(self.draw(number).repeats for number in range(8))
        except ValueError as error:
            raise InputError(f"stream: {films.index.path}: {error}") from None
        if not has_repeats:
            raise InputError(
                f"stream: the films of {films.index.path} are too few or too short for repeats after "
                f"{min(config.lags_s):g} s; lower stream.lags_s"
            )

    def draw(self, number: int) -> StreamDrawing:
        rng = np.random.default_rng((*self.seed, number))
        return draw_stream(self.bank.num_frames, self._fps, self._subsample, self.spec, rng)

    def asked(self, num_frames: int) -> list[tuple[int, int]]:
        """(frames studied before, frames asked together) of the stretches of a stream, in their order. The first one is
        asked of an empty memory."""
        starts = [0, *range(max(self.delay - 1, 0) + self.together, num_frames, self.together)]
        # Of a frame that is as old as the delay, just so, the delay is over.
        studied = [max(0, min(start, start - self.delay + 1)) for start in starts]
        sizes = [stop - start for start, stop in itertools.pairwise([*starts, num_frames])]
        return list(zip(studied, sizes, strict=True))

    def __getitem__(self, number: np.ndarray) -> StreamBatch:
        streams = [self.draw(int(k)) for k in number]
        num_frames = max(map(len, streams))

        def filled(of: list[np.ndarray], value: int) -> np.ndarray:
            rows = [np.pad(row, (0, num_frames - len(row)), constant_values=value) for row in of]
            return np.stack(rows).astype(np.int64)

        video = filled([stream.video for stream in streams], 0)
        frame = filled([stream.frame for stream in streams], 0)
        first_seen = filled([stream.first_seen for stream in streams], num_frames)  # those to fill up: never studied
        num_studied, sizes = np.array(self.asked(num_frames)).T
        is_old = (first_seen >= 0) & (first_seen < num_studied.repeat(sizes))
        return StreamBatch(
            self.bank.gather(video, frame),
            torch.from_numpy(is_old.astype(np.float32)),
            torch.from_numpy(is_old | (first_seen < 0)),
            torch.from_numpy(video),
        )


class StreamTask:
    """A model that says of each frame of a stream whether it was there before; see `recognition.training.loop.Task`.

    Old and new frames of a stream weigh alike in loss and accuracy. Every epoch has new streams. Validation has the
    same ones each time, of films of its own, and prefers the weights that tell old from new best, with any threshold.
    """

    def __init__(
        self,
        model: Recogniser,
        train_films: EpisodeDataset,
        validation_films: EpisodeDataset,
        fabric: Fabric,
        config: RunConfig,
    ):
        assert config.stream is not None
        check_streams(model)
        self.model: nn.Module = model
        self.fabric, self.stream, self.config = fabric, config.stream, config.training
        self.num_axes = config.dataset.whiten if config.dataset.reflect_films else None
        self.train_set = StreamSet(train_films, config.stream, (self.config.seed, TRAINING))
        self.validation_set = StreamSet(validation_films, config.stream, (self.config.seed, VALIDATION))
        self.optimizer: Optimizer = adamw(model, fabric, self.config)
        self.others: Mapping[str, nn.Module] = {}

    def num_steps(self, epoch: int) -> int:
        return self.stream.streams_per_epoch // self.config.batch_size

    def batches(self, epoch: int, first: int, is_stop_asked: IsStopAsked) -> Iterator[StreamBatch]:
        order = self._share(self.stream.streams_per_epoch)
        numbers = [epoch * self.stream.streams_per_epoch + share for share in order[first:]]
        return loader(self.train_set, numbers, self.config.num_workers, self.fabric.device, is_stop_asked)

    def learning_rate(self, step: int, num_steps: int) -> float:
        config = self.config
        return learning_rate(step, num_steps, config.learning_rate, config.warmup_steps, config.schedule)

    def loss(self, model: nn.Module, batch: StreamBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        signs = reflections(batch.film, self.num_axes) if self.num_axes else None
        asked = self.train_set.asked(batch.features.shape[1])
        loss, accuracy = scores(answers(model, batch.features, asked, signs), batch)
        count = torch.tensor(len(loss), dtype=torch.float64, device=loss.device)
        numbers = {"loss": loss.detach().double().sum(), "accuracy": accuracy.double().sum(), "count": count}
        return loss.mean(), numbers

    @torch.no_grad()
    def validate(self, model: nn.Module, epoch: int) -> Validation:
        totals = np.zeros(5)
        model.eval()
        numbers = self._share(self.stream.validation_streams)
        for batch in loader(self.validation_set, numbers, self.config.num_workers, self.fabric.device):
            batch = self.fabric.to_device(batch)
            with self.fabric.autocast():
                logits = answers(model, batch.features, self.validation_set.asked(batch.features.shape[1]))
            loss, accuracy = scores(logits, batch)
            areas = [auc(*row) for row in zip(logits, batch.is_old, batch.counts, strict=True)]
            known = [area for area in areas if not math.isnan(area)]
            totals += loss.sum().item(), accuracy.sum().item(), len(loss), sum(known), len(known)
        *sums, num, area, num_areas = sum_of_all(self.fabric, totals.tolist())
        mean_loss, mean_accuracy, mean_area = sums[0] / num, sums[1] / num, area / max(num_areas, 1)
        return Validation({"loss": mean_loss, "accuracy": mean_accuracy, "auc": mean_area}, [mean_area, -mean_loss])

    def _share(self, num_streams: int) -> list[np.ndarray]:
        """The numbers of streams, batch by batch, this process's share of each."""
        fabric = self.fabric
        return batches(num_streams, self.config.batch_size, None, fabric.global_rank, fabric.world_size)


def check_streams(model: Recogniser) -> None:
    """Raise InputError if a layer cannot go frame by frame, as it will have to in a stream."""
    try:
        Stream(model.eval())
    except ValueError as error:
        raise InputError(f"stream: {error}") from None


def answers(
    model: nn.Module, features: Tensor, asked: Sequence[tuple[int, int]], signs: Tensor | None = None
) -> Tensor:
    """The logits (B, T) of all frames of streams (B, T, D), `asked` as `StreamSet.asked` says. `signs`, (B, T, W), as
    `Recogniser.forward` takes them."""
    num_studied = asked[-1][0]  # the others are asked about alone
    both, of_both = (None if x is None else torch.cat([x[:, :num_studied], x], 1) for x in (features, signs))
    return model(both, asked, of_both).float()


def scores(logits: Tensor, batch: StreamBatch) -> tuple[Tensor, Tensor]:
    """Loss and accuracy of each stream, (B,), from logits (B, T): means of those over its old and its new frames, which
    weigh alike so."""
    of_frame = F.binary_cross_entropy_with_logits(logits, batch.is_old, reduction="none")
    is_right = (logits > 0) == (batch.is_old > 0)
    weights = torch.stack([1 - batch.is_old, batch.is_old]) * batch.counts  # (2, B, T)
    num = weights.sum(2)
    weights = weights / num.clamp(min=1)[..., None] / (num > 0).sum(0).clamp(min=1)[:, None]  # one kind may be missing
    return (weights * of_frame).sum((0, 2)), (weights * is_right).sum((0, 2))


def auc(logits: Tensor, is_old: Tensor, counts: Tensor) -> float:
    """The chance that of an old and a new frame of a stream, (T,), the old one has the higher logit, ties counting
    half; nan where there are none to compare."""
    old = logits[counts & (is_old > 0)]
    new = logits[counts & (is_old == 0)].sort().values
    below = torch.searchsorted(new, old) + torch.searchsorted(new, old, right=True)
    return float(below.double().mean() / (2 * len(new)))


def _rate(films: EpisodeDataset, video_id: str, config: StreamConfig) -> float:
    header = find_header(films.bank.folder, video_id)
    if not (fps := header.fps if header and header.fps else config.fps):
        raise InputError(f"stream.fps: must be given, {films.bank.folder} does not say it of {video_id}")
    return fps
