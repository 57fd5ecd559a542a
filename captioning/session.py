"""A captioner as a run has it: opened to be trained, or as it was trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from lightning_fabric import Fabric

from captioning.captioner import Captioner
from captioning.captions import Caption, read_captions
from captioning.config import CaptionSettings
from captioning.dataset import CaptionDataset
from captioning.language import Language, load_language, small_language
from recognition.common.command_line import InputError
from recognition.training.config import load_settings
from recognition.training.runs import Run

MADE = "made-of-captions"  # in place of a language model's name: a small one of the words of the training captions
FOLDER = "language"  # where it lies in the run's folder


class Sets(NamedTuple):
    """The films of a table of captions."""

    train: CaptionDataset
    validation: CaptionDataset
    test: CaptionDataset


def open_sets(config: CaptionSettings) -> Sets:
    """The films of the three splits. Raises InputError for what is wrong with the table or with features."""
    captions = read_captions(Path(config.data.captions))
    return Sets(*(open_split(config, captions, split) for split in Sets._fields))


def open_split(config: CaptionSettings, captions: Sequence[Caption], split: str) -> CaptionDataset:
    """The films of one split."""
    data = config.data
    return CaptionDataset(captions, data.video_path, data.frames_per_clip, data.frames, split, data.clips)


def input_files(config: CaptionSettings) -> dict[str, Path]:
    """The files that a run knows again by their content."""
    return {"captions": Path(config.data.captions)}


def open_language(config: CaptionSettings, run: Run, train_set: CaptionDataset | None) -> Language:
    """The language model of a run; one of the captions is made when the run starts. Raises InputError."""
    path = config.language_model.path
    if path == MADE:
        folder = run.path / FOLDER
        if not (folder / "config.json").exists():
            if train_set is None:
                raise InputError(f"{folder}: is missing; it has the language model that this run was trained with")
            small_language(
                [clip.caption for film in train_set.clips for clip in film], folder, seed=config.training.seed
            )
        path = str(folder)
    return load_language(path, config.generation.stop)


def first_captioner(config: CaptionSettings, train_set: CaptionDataset, language: Language) -> Captioner:
    """The captioner before its training, which the seed and the training films decide."""
    torch.manual_seed(config.training.seed)
    statistics = train_set.statistics() if config.data.standardise else (None, None)
    return Captioner(config, train_set.num_features, language, *statistics)


def trained_captioner(run: Run, fabric: Fabric, num_features: int) -> tuple[Captioner, CaptionSettings]:
    """The captioner of a run, with its best weights, on the device. Raises InputError if it is not trained, or features
    are not as wide as those that it has learned from."""
    config = load_settings(CaptionSettings, run.config_file)
    weights = run.load_best()
    mean = weights.get("feature_mean")
    if mean is not None and len(mean) != num_features:
        raise InputError(f"{run.path}: reads features of {len(mean)} numbers, these have {num_features}")
    statistics = (mean, weights.get("feature_deviation"))
    model = Captioner(config, num_features, open_language(config, run, None), *statistics)
    model.load_state_dict(weights)
    fabric.to_device(model)
    return model, config
