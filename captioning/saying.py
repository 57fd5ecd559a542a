"""What a trained captioner says of films: captions.json, its scores, and the page."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from captioning.captioner import Captioner, Films
from captioning.captioning_task import shares, write_captions
from captioning.config import CaptionSettings
from captioning.dataset import CaptionDataset
from captioning.metrics import score_corpus
from captioning.page import write_page
from captioning.said import Said, write_said
from recognition.training.runs import Run

SCORES = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d")


def say(
    fabric: Fabric, model: Captioner, dataset: CaptionDataset, config: CaptionSettings, run: Run, videos: Path | None
) -> dict[str, float]:
    """Write captions.json and captions.html of the films of a data set; returns the scores of the corpus, as shares.

    In all processes, which share the work; the first writes.
    """
    captions = write_captions(fabric, model, dataset, config)
    said = list(itertools.chain(*said_of(dataset, captions, retrieved_clips(fabric, model, dataset, config))))
    found = score_corpus([clip.caption for clip in said], [clip.references for clip in said], with_meteor=False)
    scores = {f"test_{name}": found[name] for name in SCORES}
    if fabric.is_global_zero:
        write_said(run.path / "captions.json", said)
        write_page(run.path, config, said, scores, videos)
        print(f"captions: {(run.path / 'captions.json').resolve()}\npage: {(run.path / 'captions.html').resolve()}")
    return scores


def said_of(
    dataset: CaptionDataset, captions: Sequence[Sequence[str]], retrieved: Sequence[Sequence[list[int]]]
) -> list[list[Said]]:
    """What is said of each clip of each film, with its reference and the clips that memory read for it."""
    return [
        [
            Said(clip.film, clip.clip, clip.start_s, clip.end_s, text, [clip.caption], of_clip)
            for clip, text, of_clip in zip(clips, texts, of_film, strict=True)
        ]
        for clips, texts, of_film in zip(dataset.clips, captions, retrieved, strict=True)
    ]


def retrieved_clips(
    fabric: Fabric, model: Captioner, dataset: CaptionDataset, config: CaptionSettings
) -> list[list[list[int]]]:
    """For each clip of each film the numbers of the earlier clips that memory read most, up to three, the most read
    first; empty lists of a memory that looks nothing up."""
    found: list[list[list[int]]] = []
    size = config.training.batch_size
    for first in range(0, len(dataset), size):
        batch = fabric.to_device(dataset.batch(range(first, min(first + size, len(dataset))), None))
        with fabric.autocast():
            frames = model.retrieved(batch.features, batch.has_clip)
        for row, number in enumerate(range(first, min(first + size, len(dataset)))):
            clips = dataset.clips[number]
            found.append(
                [
                    [] if frames is None else [clips[k].clip for k in most_read(frames[row, place], dataset.num_frames)]
                    for place in range(len(clips))
                ]
            )
    return found


def most_read(frames: Tensor, num_frames: int, most: int = 3) -> list[int]:
    """The places of the clips that hold most of the frames (Q, K) found, -1 where none was, the most first."""
    places = frames[frames >= 0] // num_frames
    if not len(places):
        return []
    counts = torch.bincount(places)
    order = sorted(range(len(counts)), key=lambda place: (-int(counts[place]), place))
    return [place for place in order if counts[place]][:most]


@torch.no_grad()
def captions_of_other_memory(
    fabric: Fabric, model: Captioner, dataset: CaptionDataset, config: CaptionSettings
) -> list[list[str]]:
    """Captions written with the memory of another film: each film's is that of the next one in the data set. A
    control: what is gained by memory must be lost with it."""
    found: dict[int, list[str]] = {}
    for numbers in shares(len(dataset), config, fabric):
        own: Any = fabric.to_device(dataset.batch(numbers, None))
        other: Any = fabric.to_device(dataset.batch([(number + 1) % len(dataset) for number in numbers], None))
        with fabric.autocast():
            memory = Films(other.features, other.has_clip)
            captions = model.generate(own.features, own.has_clip, config.generation, memory)
        found |= dict(zip(numbers, captions, strict=True))
    return [found[number] for number in sorted(found)]
