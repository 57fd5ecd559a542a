"""What a trained captioner says of films: captions.json, its scores, and the page."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor

from captioning.captioner import Captioner
from captioning.captioning_task import write_captions
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

    For all processes to call, which share the work; the first one writes and has the scores.
    """
    captions = write_captions(fabric, model, dataset, config)
    if not fabric.is_global_zero:
        return {}
    said = list(itertools.chain(*said_of(dataset, captions, retrieved_clips(fabric, model, dataset, config))))
    found = score_corpus([clip.caption for clip in said], [clip.references for clip in said], with_meteor=False)
    scores = {f"test_{name}": found[name] for name in SCORES}
    write_said(run.path / "captions.json", said)
    write_page(run.path, config, said, scores, videos)
    print(f"captions: {(run.path / 'captions.json').resolve()}\npage: {(run.path / 'captions.html').resolve()}")
    return scores


def said_of(
    dataset: CaptionDataset, captions: Sequence[Sequence[str]], retrieved: Sequence[Sequence[list[int]]]
) -> list[list[Said]]:
    """What is said of each clip of each film, with its reference, if there is one, and the clips that memory read."""
    return [
        [
            Said(clip.film, clip.clip, clip.start_s, clip.end_s, text, [clip.caption] if clip.caption else [], of_clip)
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
    for first in range(0, len(dataset), config.training.batch_size):
        numbers = range(len(dataset))[first : first + config.training.batch_size]
        batch = fabric.to_device(dataset.batch(numbers, None))
        with fabric.autocast():
            frames = model.retrieved(batch.features, batch.has_clip)
        for row, number in enumerate(numbers):
            clips = dataset.clips[number]
            places = [
                [] if frames is None else most_read(frames[row, k], dataset.num_frames) for k in range(len(clips))
            ]
            found.append([[clips[place].clip for place in of_clip] for of_clip in places])
    return found


def most_read(frames: Tensor, num_frames: int, most: int = 3) -> list[int]:
    """The places of the clips that hold most of the frames (Q, K) found, -1 where none was, the most first."""
    places = frames[frames >= 0] // num_frames
    if not len(places):
        return []
    counts = torch.bincount(places)
    order = sorted(range(len(counts)), key=lambda place: (-int(counts[place]), place))
    return [place for place in order if counts[place]][:most]
