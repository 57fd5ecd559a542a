"""A captioner as a run has it: opened to be trained, or as it was trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from lightning_fabric import Fabric

from captioning.captioner import Captioner
from captioning.captions import Caption, read_captions
from captioning.config import MADE, CaptionSettings
from captioning.dataset import CaptionDataset
from captioning.language import Language, load_language, small_language
from recognition.common.command_line import InputError
from recognition.common.files import is_there
from recognition.training.config import load_settings
from recognition.training.runs import Run

FOLDER = "language"  # of a run's: the language model made for it
# Settings that may be others when a trained run is used: all of a section if they end with a dot.
GIVEN_ANEW = (
    *("generation.", "data.captions", "data.video_path", "language_model.path"),
    *("training.device", "training.num_devices", "training.batch_size"),
    *("memory.args.k", "memory.args.capacity"),  # what a memory has learned serves with a smaller store
)


class Sets(NamedTuple):
    """The films of a table of captions."""

    train: CaptionDataset
    validation: CaptionDataset
    test: CaptionDataset


def open_sets(config: CaptionSettings) -> Sets:
    """The films of the three splits. Raises InputError for what is wrong with the table or with features."""
    captions = read_captions(Path(config.data.captions))
    sets = Sets(*(open_split(config, captions, split) for split in Sets._fields))
    for split, films in zip(Sets._fields, sets, strict=True):
        if films.backbone != sets.train.backbone:
            raise InputError(
                f"{config.data.video_path}: {split} films have features by {films.backbone[0]}, training films by "
                f"{sets.train.backbone[0]}, or by other weights; preprocess all of them alike"
            )
    return sets


def open_split(config: CaptionSettings, captions: Sequence[Caption], split: str) -> CaptionDataset:
    """The films of one split."""
    data = config.data
    return CaptionDataset(captions, data.video_path, data.frames_per_clip, data.frames, split, data.clips)


def input_files(config: CaptionSettings) -> dict[str, Path]:
    """The files that a run knows again by their content."""
    return {"captions": Path(config.data.captions)}


def open_language(config: CaptionSettings, run: Run, train_set: CaptionDataset | None = None) -> Language:
    """The language model of a run; with training films one is made of their captions, if it is to be and the run has
    not begun yet. Raises InputError."""
    path = config.language_model.path
    if path == MADE:
        folder = run.path / FOLDER
        has_begun = is_there(run.config_file)
        if train_set and not (has_begun and is_there(folder / "config.json")):
            texts = [clip.caption for film in train_set.clips for clip in film]
            small_language(texts, folder, seed=config.training.seed)
        if not is_there(folder / "config.json"):
            raise InputError(f"{folder}: is missing; it has the language model that this run was trained with")
        path = str(folder)
    return load_language(path, config.generation.stop)


def first_captioner(config: CaptionSettings, train_set: CaptionDataset, language: Language) -> Captioner:
    """The captioner before its training, which the seed and the training films decide."""
    torch.manual_seed(config.training.seed)
    statistics = train_set.statistics() if config.data.standardise else (None, None)
    return Captioner(config, train_set.num_features, language, *statistics)


def trained_captioner(run: Run, config: CaptionSettings, fabric: Fabric, num_features: int) -> Captioner:
    """The captioner of a run, with its best weights, on the device. Raises InputError if it is not trained, or was with
    another language model."""
    weights = run.load_best()
    statistics = (weights.get("feature_mean"), weights.get("feature_deviation"))
    model = Captioner(config, num_features, open_language(config, run), *statistics)
    model.load_state_dict(weights)
    fabric.to_device(model)
    return model


def settings_of_run(run: Run, words: Sequence[str] = ()) -> CaptionSettings:
    """The settings of a trained run, of which those in GIVEN_ANEW may be others now. Raises InputError."""
    if not is_there(run.config_file):
        raise InputError(f"{run.path}: is not the folder of a run; python -m captioning.train makes one")
    for word in words:
        key = word.lstrip("-").partition("=")[0]
        if not any(key == name or (name.endswith(".") and key.startswith(name)) for name in GIVEN_ANEW):
            raise InputError(f"{word}: cannot be changed in a trained run; {', '.join(GIVEN_ANEW)} can")
    return load_settings(CaptionSettings, run.config_file, words)
