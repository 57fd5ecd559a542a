"""Learning at the published scale: validation accuracy against seconds of training, family by family.

On made-up features, which lie on the device: see recognition/features/made_up.py. They are easier or harder than those
of films; what counts is whether a family learns at all at this length, how fast its steps are and what memory it takes.
"""

import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from recognition.episodes.dataset import EpisodeDataset
from recognition.episodes.drawing import draw_episodes
from recognition.episodes.episode_spec import EpisodeSpec
from recognition.episodes.index_file import EpisodeIndex
from recognition.features.feature_bank import FeatureBank, Place
from recognition.features.made_up import MadeUpFilms
from recognition.training.devices import launch
from recognition.training.episode_task import EpisodeTask
from recognition.training.loop import Loop, Progress
from recognition.training.model import first_model, read_config

ROOT = Path(__file__).parent.parent.parent
FILMS = "made-up:1072x20000"
CONFIGS = ["transformer", "mlstm", "mamba-one_layer", "lstm", "ur_lstm", "knn_memory"]
EPISODE: dict[str, Any] = {}  # of EpisodeSpec; the published protocol
NUM_TRAINING, NUM_VALIDATION = 160, 64  # episodes between two scores, and of each
VALIDATION_FILMS = 0.1
D_EMBED: int | None = None  # for all, the configurations' own if None
MOST_SCORES = 1000  # of a family
WARM_UP_STEPS = 50  # the configurations' own are for hours


def learning(device: str, seconds: float) -> Iterator[dict[str, Any]]:
    """For each family a row after every NUM_TRAINING episodes, for an equal part of the seconds that are left."""
    deadline = time.monotonic() + 0.95 * seconds
    train_set, validation_set = open_sets(device)
    yield {"what": "features", "value": str(train_set.bank)}
    for k, name in enumerate(CONFIGS):
        until = time.monotonic() + (deadline - time.monotonic()) / (len(CONFIGS) - k)
        try:
            yield from train(name, device, train_set, validation_set, until)
        except Exception as error:  # the next family may go well
            traceback.print_exc(file=sys.stderr)
            yield {"what": name, "value": " ".join(f"{error!r}".split())[:500], "is_good": False}


def open_sets(device: str, place: Place | None = None) -> tuple[EpisodeDataset, EpisodeDataset]:
    """Episodes to train on and to validate on, of films of their own, whose features are held in `place`."""
    bank = FeatureBank(FILMS, MadeUpFilms(FILMS).video_ids, place=place, device=torch.device(device))
    spec, lengths, first = EpisodeSpec(**EPISODE), bank.num_frames, num_training_films(bank)
    training = draw_episodes(lengths[:first], spec, NUM_TRAINING, (0,))
    validation = draw_episodes(lengths[first:], spec, NUM_VALIDATION, (1,))
    validation.study[..., 0] += first
    validation.probes[..., 0] += first
    training_set, validation_set = (
        EpisodeDataset(EpisodeIndex(Path(FILMS), episodes, [], lengths, spec), bank, spec.subsample)
        for episodes in (training, validation)
    )
    return training_set, validation_set


def num_training_films(bank: FeatureBank) -> int:
    return round((1 - VALIDATION_FILMS) * len(bank.num_frames))


def train(
    name: str, device: str, train_set: EpisodeDataset, validation_set: EpisodeDataset, until: float
) -> Iterator[dict[str, Any]]:
    """Train a shipped configuration until a moment of time.monotonic(), and say after every epoch what it can do."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    loop = prepare(name, device, train_set, validation_set)
    spec = train_set.index.spec
    assert spec is not None  # of `open_sets`
    films = train_set.bank.num_frames[: num_training_films(train_set.bank)]
    epoch, spent = 0, 0.0
    while epoch == 0 or (time.monotonic() < until and epoch < MOST_SCORES):
        train_set.episodes = draw_episodes(films, spec, NUM_TRAINING, (0, epoch))
        loop.progress = progress = Progress(epoch)
        metrics = loop.train_epoch()
        epoch, spent = epoch + 1, spent + progress.seconds
        scores = loop.task.validate(loop.model, loop.progress.epoch).scores
        yield {
            "what": name,
            "seconds": round(spent, 2),
            "steps": metrics["step"],
            "validation accuracy": round(scores["accuracy"], 4),
            "validation loss": round(scores["loss"], 4),
            "training loss": round(metrics["train_loss"], 4),
            "ms a step": round(1e3 * progress.seconds / progress.step, 1),
            "share waiting for data": round(progress.waited / progress.seconds, 4),
            "peak GB": round(torch.cuda.max_memory_allocated() / 1e9, 2) if device == "cuda" else None,
            "precision": loop.fabric.strategy.precision.precision,
        }


def prepare(name: str, device: str, train_set: EpisodeDataset, validation_set: EpisodeDataset) -> Loop:
    """A shipped configuration as train.py would begin with it, but with a constant rate after a short warm-up."""
    words = [f"training.device={device}", "training.schedule=constant", f"training.warmup_steps={WARM_UP_STEPS}"]
    if D_EMBED:
        words.append(f"model.args.d_embed={D_EMBED}")
    config = read_config(ROOT / "config-files" / f"{name}.yaml", words)
    fabric = launch(config.training)
    task = EpisodeTask(first_model(config, train_set), train_set, validation_set, fabric, config.training)
    return Loop(task, fabric, config.training, show_bar=False)
