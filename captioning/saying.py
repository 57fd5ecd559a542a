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
from captioning.remembering import Found
from captioning.said import Read, Said, write_said
from recognition.training.runs import Run

MOST_READ, LEAST_SHARE = 3, 0.1  # clips that memory read for one, and the share of each, that are told
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
    dataset: CaptionDataset, captions: Sequence[Sequence[str]], retrieved: Sequence[Sequence[list[Read]]]
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
) -> list[list[list[Read]]]:
    """For each clip of each film the earlier clips that memory read most, see `most_read`; none of a memory that looks
    nothing up."""
    told: list[list[list[Read]]] = []
    for first in range(0, len(dataset), config.training.batch_size):
        numbers = range(len(dataset))[first : first + config.training.batch_size]
        batch = fabric.to_device(dataset.batch(numbers, None))
        with fabric.autocast():
            found = model.retrieved(batch.features, batch.has_clip)
        for row, number in enumerate(numbers):
            clips = dataset.clips[number]
            shares = torch.zeros(len(clips), 0) if found is None else shares_of_clips(found, row, dataset.num_frames)
            told.append(
                [[Read(clips[place].clip, share) for place, share in most_read(of)] for of in shares[: len(clips)]]
            )
    return told


def shares_of_clips(found: Found, row: int, num_frames: int) -> Tensor:
    """How much each of the C clips of a film read of each, the mean over its queries: (C, C), rows that add up to 1, or
    to 0 where nothing was stored."""
    frames, weights = (x[row].flatten(1) for x in found)  # (C, Q K)
    places = frames.clamp(min=0).long() // num_frames
    shares = weights.new_zeros(len(frames), len(frames)).scatter_add(1, places, weights)
    return shares / found.frames.shape[2]


def most_read(shares: Tensor) -> list[tuple[int, float]]:
    """Places of the clips with the greatest shares (C,), and these: up to MOST_READ, none below LEAST_SHARE."""
    values, places = shares.sort(descending=True, stable=True)
    pairs = zip(places.tolist(), values.tolist(), strict=True)
    return [(place, round(share, 3)) for place, share in pairs if share >= LEAST_SHARE][:MOST_READ]
