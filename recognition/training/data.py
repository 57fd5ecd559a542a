"""The episodes that a configuration names, opened and gathered in batches."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from lightning_fabric import Fabric

from recognition.common.ahead import made_ahead
from recognition.common.command_line import Failure, InputError
from recognition.common.files import is_there
from recognition.episodes.dataset import FIRST_ALTERED, Asking, EpisodeDataset
from recognition.episodes.drawing import Episodes
from recognition.episodes.episode_spec import ALTERATIONS
from recognition.episodes.index_file import EpisodeIndex, check_lengths, read_index
from recognition.features.feature_bank import FeatureBank
from recognition.training.config import DatasetConfig, RunConfig

CPU = torch.device("cpu")
Tensors = TypeVar("Tensors", bound=NamedTuple, covariant=True)


class Gathering(Protocol[Tensors]):
    """What batches are gathered from, by numbers (B,): each a tuple of tensors."""

    @property
    def bank(self) -> FeatureBank: ...

    def __getitem__(self, number: np.ndarray) -> Tensors: ...


def open_split(config: DatasetConfig, split: str, device: torch.device = CPU, num_processes: int = 1) -> EpisodeDataset:
    """Open the episodes of "train", "validation" or "test" and the features of their films, for a model on `device`,
    in each of `num_processes` on this machine.

    The published data set has no validation episodes: the last sixteenth of its training episodes takes their place,
    and is left out of "train". Raises InputError for files that are missing, damaged or do not fit together.
    """
    index = _read_split(config, split)
    subsample = _subsample(config, index)
    is_described = index.spec and 2 * index.spec.num_tests == index.episodes.probes.shape[1]
    if split == "train" and config.fresh_episodes and not is_described:
        raise InputError(
            f"dataset.fresh_episodes: {index.path} does not say how its episodes were drawn; set it to false"
        )
    if config.bank == "gpu" and device.type != "cuda":
        raise InputError(f"dataset.bank: gpu, but the model runs on the {device.type}; set it to auto")
    place = None if config.bank == "auto" else config.bank
    if place is None and config.mmap is not None:
        place = "mapped" if config.mmap else "memory"
    alterations = ALTERATIONS if (index.episodes.kind >= FIRST_ALTERED).any() else ()
    bank = FeatureBank(
        config.video_path, index.video_ids, index.video_num_frames, place, device, alterations, num_processes
    )
    if changed := changed_films(index, bank.digests):
        raise InputError(
            f"{index.path}: {bank.folder / changed[0]}.h5 is not what it was when these episodes were drawn"
            f"{f' (nor are {len(changed) - 1} others)' if changed[1:] else ''}; run generate_dataset.py again"
        )
    if alterations and index.spec and index.spec.alter_every != bank.alter_every:
        raise InputError(
            f"{index.path}: probes altered frames, one in {index.spec.alter_every}, and {config.video_path} has one in "
            f"{bank.alter_every}; run generate_dataset.py again"
        )
    try:
        check_lengths(index.episodes, bank.num_frames)
    except ValueError as error:
        raise InputError(f"{index.path}: does not fit the films in {config.video_path}: {error}") from None
    asking = _asking(config, index) if split == "train" else None
    return EpisodeDataset(index, bank, subsample, config.repeat_test, asking)


def open_sets(config: RunConfig, fabric: Fabric) -> tuple[EpisodeDataset, EpisodeDataset, EpisodeDataset]:
    """The episodes of "train", "validation" and "test" for a training. Raises InputError as `open_split` does, and if
    the processes could not share a batch."""
    num_here = int(os.environ.get("LOCAL_WORLD_SIZE", fabric.world_size))
    train_set, validation_set, test_set = (
        open_split(config.dataset, split, fabric.device, num_here) for split in ("train", "validation", "test")
    )
    if min(len(train_set), config.training.batch_size) % fabric.world_size:
        raise InputError("training.batch_size: must be a multiple of the processes, and not exceed the episodes")
    check_asking(train_set)
    return train_set, validation_set, test_set


def check_asking(train_set: EpisodeDataset) -> None:
    """Raise InputError if no episode can be drawn that asks as `train_set.asking` says: try one."""
    index, asking = train_set.index, train_set.asking
    if not asking:
        return
    assert index.spec is not None  # or `open_split` has refused
    if asking.at_end < 1 and index.spec.num_clips == 1:
        raise InputError(f"dataset.probe_times: clip_ends, but episodes of {index.path} have one clip; set it to end")
    train_set.fresh(1, (0,))


def index_path(config: DatasetConfig, split: str) -> Path:
    """Where the index file of "train", "validation" or "test" is."""
    if split == "train":
        return Path(config.train_indices_file)
    if split == "test":
        return Path(config.test_indices_file)
    if config.validation_indices_file:
        return Path(config.validation_indices_file)
    train = Path(config.train_indices_file)
    beside = train.with_name(train.name.replace("train", "validation"))
    return beside if is_there(beside) or train.suffix != ".npz" else train


def changed_films(index: EpisodeIndex, digests: Sequence[str | None]) -> list[str]:
    """The films whose features, with these digests (V,), were made otherwise than when the episodes were drawn."""
    if index.video_digests is None:
        return []
    films = zip(index.video_ids, index.video_digests, digests, strict=True)
    return [video_id for video_id, before, now in films if now is not None and now != before]


def validation_note(config: DatasetConfig) -> str:
    """A line to print where validation is not on films of its own, else empty."""
    if not _shares_training_file(config):
        return ""
    return (
        f"{config.train_indices_file} has no validation file beside it: the last sixteenth of its episodes is kept for "
        f"validation, on films that are also trained on, so validation scores are too high"
    )


def batches(
    num_episodes: int, batch_size: int, shuffle_seed: tuple[int, ...] | None = None, rank: int = 0, world: int = 1
) -> list[np.ndarray]:
    """Episode numbers batch by batch, this process's share of each.

    With a seed the order is shuffled and a last batch that is not full is left out (unless it is the only one), so
    that all steps weigh the same; without, every episode comes once.
    """
    order: np.ndarray = np.arange(num_episodes)
    if shuffle_seed is not None:
        order = np.random.default_rng(shuffle_seed).permutation(num_episodes)
        order = order[: num_episodes // batch_size * batch_size or num_episodes]
    parts = np.split(order, range(batch_size, len(order), batch_size))
    return [part[rank::world] for part in parts if len(part) > rank]


def loader(
    dataset: Gathering[Tensors],
    numbers: list[np.ndarray],
    num_workers: int,
    device: torch.device,
    is_stop_asked: Callable[[], bool] = lambda: False,
) -> Iterator[Tensors]:
    """Gather batches ahead of their use, in `num_workers` threads; 0 gathers each when it is asked for.

    Gathering copies memory or reads a disk, beside which Python goes on: threads do as well as processes, and what they
    gather need not be sent. What goes to a GPU waits in pinned memory, from where it is copied while the GPU computes.
    Where features are on the GPU itself, or made there, nothing is gathered ahead: that takes less time than a copy.

    Raises Failure if there is not enough memory, and Stopped if a stop is asked for while the data do not come.
    """
    is_on_gpu = dataset.bank.device.type == "cuda"

    def gather(number: np.ndarray) -> Tensors:
        batch = dataset[number]
        if device.type != "cuda" or is_on_gpu:
            return batch
        # Pinning copies before it returns, so the bank's buffer is free for the next batch; the pinned copy itself is
        # kept by torch until the transfer that reads it is over.
        with torch.cuda.device(device):  # a thread begins with the first one
            return batch._make(tensor.pin_memory() for tensor in batch)

    try:
        yield from made_ahead(gather, numbers, 0 if is_on_gpu else num_workers, is_stop_asked)
    except (MemoryError, RuntimeError) as error:
        raise Failure(
            f"the episodes of a batch could not be gathered ({error or 'out of memory'}); lower training.num_workers "
            f"({num_workers}), each of which holds two batches, or training.batch_size"
        ) from None


def _read_split(config: DatasetConfig, split: str) -> EpisodeIndex:
    """The index of a split; of a file that validation shares with training, its part."""
    path = index_path(config, split)
    if not is_there(path):
        raise InputError(
            f"{path}: no such index file; make it with generate_dataset.py, or say where it is by "
            f"dataset.{split}_indices_file=PATH"
        )
    index = read_index(path)
    if _shares_training_file(config) and split != "test":
        first = len(index) - max(1, len(index) // 16)
        part = slice(first, None) if split == "validation" else slice(0, first)
        index = _with_episodes(index, part)
    return index


def _subsample(config: DatasetConfig, index: EpisodeIndex) -> int:
    """Every how many frames of a clip one is shown."""
    subsample = config.subsample or (index.spec.subsample if index.spec else None)
    if subsample is None:
        raise InputError(f"dataset.subsample: must be given, {index.path} does not say it")
    if index.spec and index.spec.old_probes == "presented" and subsample != index.spec.subsample:
        raise InputError(
            f"dataset.subsample: {subsample}, but the old probes of {index.path} were shown with {index.spec.subsample}"
        )
    return subsample


def _asking(config: DatasetConfig, index: EpisodeIndex) -> Asking | None:
    """How fresh training episodes ask, if otherwise than those of the index."""
    if config.train_probes is None and config.probe_times == "end":
        return None
    num_probes = config.train_probes or index.episodes.probes.shape[1]
    return Asking(num_probes, 1.0 if config.probe_times == "end" else config.at_end)


def _shares_training_file(config: DatasetConfig) -> bool:
    return index_path(config, "validation") == index_path(config, "train")


def _with_episodes(index: EpisodeIndex, part: slice) -> EpisodeIndex:
    clip_kind = None if index.clip_kind is None else index.clip_kind[part]
    return replace(index, episodes=Episodes(*(field[part] for field in index.episodes)), clip_kind=clip_kind)
