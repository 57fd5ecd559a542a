"""Episodes: drawing them, gathering their features, and what a whole epoch adds to the network's own work."""

import io
import random
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Row, largest_rate, operations, take_turns
from recognition.episodes.dataset import EpisodeDataset
from recognition.episodes.drawing import Episodes, EpisodeSpec, draw_episodes
from recognition.episodes.index_file import EpisodeIndex
from recognition.features.feature_bank import FeatureBank
from recognition.features.feature_file import FeatureHeader, FeatureSpool

SPEC = EpisodeSpec()  # the published protocol
NUM_EPISODES, NUM_DRAWN_PLAINLY = 20_480, 512  # plain loops take their time, the same for every episode
NUM_FILMS, FILM_LENGTH = 24, 20_000  # of the bank
NUM_EPOCH_EPISODES = 1024


def generate(device: str) -> Iterator[Row]:
    """Drawing the published 20,480 episodes from 1,000 films, and half as many."""
    num_frames = np.random.default_rng(0).integers(5_000, 40_000, 1_000)
    many, few = NUM_EPISODES, NUM_DRAWN_PLAINLY
    whole, half, plain = take_turns(
        [
            lambda: draw_episodes(num_frames, SPEC, many, (0,)),
            lambda: draw_episodes(num_frames, SPEC, many // 2, (0,)),
            lambda: [draw_plainly(num_frames.tolist(), SPEC, random.Random(k)) for k in range(few)],
        ],
        repeats=1,
    )
    note = f"{many:,} take {whole:.1f} s, of 60 allowed; the plain loops drew {few}"
    yield Row(f"{many:,} episodes from 1,000 films", "plain Python loops", whole, plain * many / few, 20, note=note)
    yield Row(
        f"  each of {many:,} episodes", f"each of {many // 2:,}", whole / 2, half, 0.9, note="1 if time grows linearly"
    )


def draw_plainly(num_frames: list[int], spec: EpisodeSpec, rng: random.Random) -> tuple[list, list]:
    """Draw one episode as one would at first: throw again what does not fit."""
    clips: list[tuple[int, int]] = []
    while len(clips) < spec.num_clips:
        film = rng.randrange(len(num_frames))
        start = rng.randrange(num_frames[film] - spec.clip_length + 1)
        if all(video != film or abs(start - other) >= spec.clip_length for video, other in clips):
            clips.append((film, start))
    films = sorted({film for film, _ in clips})
    old: set[tuple[int, int]] = set()
    while len(old) < spec.num_tests:
        film = rng.choice(films)
        start = rng.choice([start for video, start in clips if video == film])
        old.add((film, start + rng.randrange(spec.clip_length)))
    new: set[tuple[int, int]] = set()
    while len(new) < spec.num_tests:
        film = rng.choice(films)
        frame = rng.randrange(num_frames[film])
        if all(
            video != film or not -spec.clip_margin <= frame - start < spec.clip_length + spec.clip_margin
            for video, start in clips
        ):
            new.add((film, frame))
    probes = [(*probe, True) for probe in old] + [(*probe, False) for probe in new]
    rng.shuffle(probes)
    return clips, probes


def batch(device: str) -> Iterator[Row]:
    """A batch of 16 published episodes from a bank of 24 films of 20,000 frames, float16."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder), [FILM_LENGTH] * NUM_FILMS, 512, SPEC, 64)
    assert dataset.bank._flat is not None  # held in memory
    films = [film.float() for film in dataset.bank._flat.split(FILM_LENGTH)]
    numbers = np.arange(16)
    features = dataset[numbers].features
    plain = gather_plainly(films, dataset.episodes, numbers)
    torch.testing.assert_close(features.float(), plain)
    ours, slices = take_turns(
        [lambda: dataset[numbers], lambda: gather_plainly(films, dataset.episodes, numbers)], repeats=7
    )
    yield Row("a batch of 16 episodes", "slices of float32 films, stacked", ours, slices, 10)
    ours, copy = take_turns([lambda: dataset[numbers], lambda: features.clone()], repeats=7)
    yield Row("  the same", "memcpy of as many bytes", ours, copy, 0.8)


def gather_plainly(films: list[Tensor], episodes: Episodes, numbers: np.ndarray) -> Tensor:
    """The batch as slices of films, concatenated within an episode and stacked, (B, T, D)."""
    sequences = []
    for study, probes in zip(episodes.study[numbers].tolist(), episodes.probes[numbers].tolist(), strict=True):
        clips = [films[video][start : end : SPEC.subsample] for video, start, end in study]
        sequences.append(torch.cat(clips + [films[video][frame : frame + 1] for video, frame in probes]))
    return torch.stack(sequences)


def epoch(device: str) -> Iterator[Row]:
    """A training epoch of the demo's transformer against its forward and backward passes on batches already there."""
    from lightning_fabric import Fabric

    from models import CONFIGS, build_model
    from models.recogniser import Layout
    from recognition.training.config import TrainingConfig
    from recognition.training.episode_task import EpisodeTask
    from recognition.training.loop import Loop, Progress

    spec = EpisodeSpec(num_clips=10, clip_length=60, clip_margin=30, num_tests=10, subsample=2)
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder), [504] * 14, 512, spec, NUM_EPOCH_EPISODES)
    fabric = Fabric(accelerator=device, devices=1, precision="32-true" if device == "cpu" else "bf16-mixed")
    config = TrainingConfig(batch_size=16, num_workers=0, n_epochs=100, gradient_clip=1.0)
    plain = build_model("transformer", CONFIGS["transformer"](), Layout(512, dataset.num_probes))
    loop = Loop(EpisodeTask(plain, dataset, dataset, fabric, config), fabric, config)
    batches = [fabric.to_device(dataset[np.arange(k, k + 16)]) for k in range(0, len(dataset), 16)]

    def passes() -> None:
        for batch in batches:
            with fabric.autocast():
                logits = plain(batch.features)
            F.binary_cross_entropy_with_logits(logits.float(), batch.is_old).backward()

    num_operations = operations(plain, *batches[0].features.shape) * len(batches)

    def train() -> None:
        loop.progress = Progress()
        loop.train_epoch()

    with redirect_stderr(io.StringIO()):  # the progress bar
        whole, alone = take_turns([train, passes])
    rate = largest_rate(device)
    note = (
        f"MFU {num_operations / whole / rate:.2f} of {rate / 1e9:,.0f} GFLOP/s, which a large product reaches here; "
        f"{loop.progress.waited / loop.progress.seconds:.1%} waiting for data"
    )
    yield Row("a training epoch", "its forward and backward passes alone", whole, alone, 0.91, note=note)


def make_dataset(folder: Path, lengths: list[int], num_features: int, spec: EpisodeSpec, num: int) -> EpisodeDataset:
    """Episodes of `spec` on films of these lengths with made-up features, held in memory."""
    names = [f"film_{k}" for k in range(len(lengths))]
    for k, (name, length) in enumerate(zip(names, lengths, strict=True)):
        header = FeatureHeader(name, "", length, 30.0, 1, 1, "none", "none", "", "none", "float16", "float16")
        with FeatureSpool(folder / f"{name}.h5", np.dtype("float16")) as spool:
            features = np.random.default_rng(k).standard_normal((length, num_features), np.float32)
            spool.append(features, np.arange(length) / 30)
            spool.finish(header)
    bank = FeatureBank(folder, names, place="memory")
    episodes = draw_episodes(np.array(lengths), spec, num, (0,))
    index = EpisodeIndex(folder, episodes, names, np.array(lengths), spec)
    return EpisodeDataset(index, bank, spec.subsample)
