"""Captions as a task of the training loop: what is said of each clip?

Shapes: B films, C clips, N frames a clip, D features, n captions of up to L tokens.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from captioning.captioner import Captioner, Films
from captioning.config import CaptionSettings
from captioning.dataset import CaptionDataset
from captioning.language import tokenise
from captioning.metrics import score_corpus
from recognition.common.ahead import made_ahead
from recognition.common.command_line import InputError
from recognition.training.loop import IsStopAsked, Validation, sum_of_all
from recognition.training.optimizer import adamw, learning_rate

GREEDY = {"num_beams": 1, "top_p": None}  # for validation, in a fifth of the time of beams


class CaptionBatch(NamedTuple):
    """Films and what is said of their clips."""

    features: Tensor  # (B, C, N, D)
    has_clip: Tensor  # (B, C) bool
    ids: Tensor  # (n, L) int64
    lengths: Tensor  # (n,)
    of: Tensor  # (n, 2): each caption's film and clip in the batch


class CaptioningTask:
    """A captioner that learns; see `recognition.training.loop.Task`.

    Args:
        model: the captioner.
        train_set, validation_set: films with captions.
        fabric: launched.
        config: all settings.

    Raises InputError if there are more processes than films in a step.
    """

    def __init__(
        self,
        model: Captioner,
        train_set: CaptionDataset,
        validation_set: CaptionDataset,
        fabric: Fabric,
        config: CaptionSettings,
    ):
        self.captioner, self.train_set, self.validation_set = model, train_set, validation_set
        self.model: nn.Module = model
        self.fabric, self.config = fabric, config
        training = config.training
        if fabric.world_size > min(training.batch_size, len(train_set)):
            raise InputError(
                f"training.num_devices: a step has {min(training.batch_size, len(train_set))} films to share among "
                f"{fabric.world_size} processes; take fewer"
            )
        self.optimizer: torch.optim.Optimizer = adamw(model, fabric, training)
        self.others: Mapping[str, nn.Module] = {}

    def num_steps(self, epoch: int) -> int:
        return max(1, len(self.train_set) // self.config.training.batch_size)

    def batches(self, epoch: int, first: int, is_stop_asked: IsStopAsked) -> Iterator[CaptionBatch]:
        training, fabric = self.config.training, self.fabric
        order = self.train_set.order(training.seed, epoch)
        steps = range(first, self.num_steps(epoch))

        def make(step: int) -> CaptionBatch:
            numbers = order[step * training.batch_size : (step + 1) * training.batch_size]
            rng = np.random.default_rng((training.seed, epoch, step)) if self.config.data.jitter else None
            return self.batch(self.train_set, numbers[fabric.global_rank :: fabric.world_size].tolist(), rng)

        return made_ahead(make, steps, min(1, training.num_workers), is_stop_asked)

    def learning_rate(self, step: int, num_steps: int) -> float:
        training = self.config.training
        warmup_steps = round(training.warmup * num_steps)
        return learning_rate(step, num_steps, training.learning_rate, warmup_steps, training.schedule)

    def loss(self, model: nn.Module, batch: CaptionBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        total, num_tokens = model(*batch)
        # The mean over the tokens of all processes, which have unequal numbers, once their gradients are averaged.
        mean_tokens = self.fabric.all_reduce(num_tokens.float(), reduce_op="mean")
        assert isinstance(mean_tokens, Tensor)
        return total / mean_tokens, {"loss": total.detach().double(), "count": num_tokens.double()}

    def validate(self, model: nn.Module, epoch: int) -> Validation:
        loss = self._validation_loss(model)
        if self.config.training.best_by == "loss":
            return Validation({"loss": loss}, [-loss])
        captions = write_captions(self.fabric, self.captioner, self.validation_set, self.config, greedy=True)
        references = [[clip.caption] for film in self.validation_set.clips for clip in film]
        found = score_corpus(list(itertools.chain(*captions)), references, with_meteor=False)
        scores = {"loss": loss} | {name: found[name] for name in ("bleu_4", "rouge_l", "cider_d")}
        return Validation(scores, [found["cider_d"], -loss])

    def batch(self, dataset: CaptionDataset, numbers: Sequence[int], rng: np.random.Generator | None) -> CaptionBatch:
        """Some films with their captions; frames move a little where a generator is given and the settings say so."""
        films = dataset.batch(numbers, rng)
        of = [(film, clip) for film, texts in enumerate(films.texts) for clip in range(len(texts))]
        texts = list(itertools.chain(*films.texts))
        ids, lengths = tokenise(texts, self.captioner.language, self.captioner.longest_caption)
        return CaptionBatch(films.features, films.has_clip, ids, lengths, torch.tensor(of))

    @torch.no_grad()
    def _validation_loss(self, model: nn.Module) -> float:
        """-log p of a token, the mean over all captions of the validation films."""
        model.eval()
        totals = [0.0, 0.0]
        for numbers in shares(len(self.validation_set), self.config, self.fabric):
            batch = self.fabric.to_device(self.batch(self.validation_set, numbers, None))
            with self.fabric.autocast():
                total, num_tokens = model(*batch)
            totals = [totals[0] + total.item(), totals[1] + num_tokens.item()]
        total_of_all, num_of_all = sum_of_all(self.fabric, totals)
        return total_of_all / num_of_all


def shares(num_films: int, config: CaptionSettings, fabric: Fabric) -> list[list[int]]:
    """The numbers of this process's films, some at a time."""
    own = list(range(num_films))[fabric.global_rank :: fabric.world_size]
    size = config.training.batch_size
    return [own[first : first + size] for first in range(0, len(own), size)]


def write_captions(
    fabric: Fabric,
    model: Captioner,
    dataset: CaptionDataset,
    config: CaptionSettings,
    greedy: bool = False,
    of_other_memory: bool = False,
) -> list[list[str]]:
    """The captions of all films of a data set, clip by clip; the same in all processes, which share the work.

    With `of_other_memory` each film has the memory of the next one in the data set. A control: what is gained by memory
    must be lost with it.
    """
    if of_other_memory and len(dataset) < 2:
        raise InputError("a memory of another film needs two films or more")
    generation = config.generation.model_copy(update=GREEDY) if greedy else config.generation
    own: dict[int, list[str]] = {}
    for numbers in shares(len(dataset), config, fabric):
        films = _films(fabric, dataset, numbers)
        other = _films(fabric, dataset, [(k + 1) % len(dataset) for k in numbers]) if of_other_memory else None
        with fabric.autocast():
            captions = model.generate(*films, generation, other)
        own |= dict(zip(numbers, captions, strict=True))
    if fabric.world_size > 1:
        gathered: list[dict[int, list[str]]] = [{}] * fabric.world_size
        torch.distributed.all_gather_object(gathered, own)
        own = {number: captions for part in gathered for number, captions in part.items()}
    return [own[number] for number in range(len(dataset))]


def _films(fabric: Fabric, dataset: CaptionDataset, numbers: Sequence[int]) -> Films:
    batch = dataset.batch(numbers, None)
    return fabric.to_device(Films(batch.features, batch.has_clip))
