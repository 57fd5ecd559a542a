"""Learning at the published scale: validation accuracy against seconds of training, family by family.

On made-up features, which lie on the device: see recognition/features/made_up.py. They are easier or harder than those of films;
what counts is whether a family learns at all at this length, how fast its steps are and what it takes of memory.
"""

import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from models import CONFIGS as SETTINGS
from models import PUBLISHED_NAMES, build_model
from recognition.episodes.drawing import draw_episodes
from recognition.episodes.episode_spec import EpisodeSpec
from recognition.episodes.index_file import EpisodeIndex
from recognition.features.feature_bank import FeatureBank, Place
from recognition.features.made_up import MadeUpFilms
from recognition.training.config import TrainingConfig, check_model, load_config
from recognition.training.dataset import EpisodeDataset
from recognition.training.loop import Progress, launch, score, train_epoch

ROOT = Path(__file__).parent.parent.parent
FILMS = "made-up:1072x20000"
CONFIGS = ["transformer", "mlstm", "mamba-one_layer", "lstm", "ur_lstm", "knn_memory"]
EPISODE: dict[str, int] = {}  # of EpisodeSpec; the published protocol
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
    training, validation = (
        EpisodeDataset(EpisodeIndex(Path(FILMS), episodes, [], lengths, spec), bank, spec.subsample)
        for episodes in (training, validation)
    )
    return training, validation


def num_training_films(bank: FeatureBank) -> int:
    return round((1 - VALIDATION_FILMS) * len(bank.num_frames))


def train(
    name: str, device: str, train_set: EpisodeDataset, validation_set: EpisodeDataset, until: float
) -> Iterator[dict[str, Any]]:
    """Train a shipped configuration until a moment of time.monotonic(), and say after every epoch what it can do."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    fabric, model, optimizer, config = prepare(name, device, train_set)
    films = train_set.bank.num_frames[: num_training_films(train_set.bank)]
    epoch, spent = 0, 0.0
    while epoch == 0 or (time.monotonic() < until and epoch < MOST_SCORES):
        train_set.episodes = draw_episodes(films, train_set.index.spec, NUM_TRAINING, (0, epoch))
        progress = Progress(epoch)
        metrics = train_epoch(fabric, model, optimizer, train_set, config, progress, keep=lambda: None)
        epoch, spent = epoch + 1, spent + progress.seconds
        loss, accuracy = score(fabric, model, validation_set, config)
        yield {
            "what": name,
            "seconds": round(spent, 2),
            "steps": metrics["step"],
            "validation accuracy": round(accuracy, 4),
            "validation loss": round(loss, 4),
            "training loss": round(metrics["train_loss"], 4),
            "ms a step": round(1e3 * progress.seconds / progress.step, 1),
            "share waiting for data": round(progress.waited / progress.seconds, 4),
            "peak GB": round(torch.cuda.max_memory_allocated() / 1e9, 2) if device == "cuda" else None,
            "precision": fabric.strategy.precision.precision,
        }


def prepare(
    name: str, device: str, train_set: EpisodeDataset
) -> tuple[Fabric, torch.nn.Module, torch.optim.Optimizer, TrainingConfig]:
    """A shipped configuration as train.py would begin with it, but with a constant rate after a short warm-up."""
    path = ROOT / "config-files" / f"{name}.yaml"
    words = [f"training.device={device}", "training.schedule=constant", f"training.warmup_steps={WARM_UP_STEPS}"]
    if D_EMBED:
        words.append(f"model.args.d_embed={D_EMBED}")
    config = check_model(load_config(path, words), SETTINGS, PUBLISHED_NAMES, path)
    fabric, training = launch(config.training), config.training
    torch.manual_seed(training.seed)
    settings = SETTINGS[config.model.model](**config.model.args)
    num_features, clip_frames = train_set.bank.num_features, train_set.clip_frames
    model = build_model(config.model.model, settings, num_features, train_set.num_probes, 1, clip_frames)
    if config.dataset.standardise:
        model.standardise(*train_set.bank.statistics())
    fused = fabric.strategy.precision.precision != "16-mixed"  # as in train.py
    optimizer = torch.optim.AdamW(model.parameters(), training.learning_rate, fused=fused)
    return fabric, *fabric.setup(model, optimizer), training
