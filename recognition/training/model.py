"""The model of a run: its settings checked, built for the episodes it reads, and with the weights it starts from."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from models import CONFIGS, MODELS, PUBLISHED_NAMES, build_model
from models.recogniser import Layout, Recogniser
from recognition.common.command_line import InputError
from recognition.common.files import is_of_system, written_whole
from recognition.episodes.dataset import EpisodeDataset
from recognition.features.geometry import whitening
from recognition.training.config import RunConfig, check_model, load_config


def read_config(path: Path, words: Sequence[str] = ()) -> RunConfig:
    """A YAML file's settings with those on the command line, the model's own among them. Raises InputError."""
    return check_model(load_config(path, words), CONFIGS, PUBLISHED_NAMES, path)


def build(config: RunConfig, dataset: EpisodeDataset) -> Recogniser:
    """The configured model for the episodes of `dataset`; torch's generator draws its weights.

    Raises InputError if it is of no use where probes write.
    """
    name = config.model.model
    layout = Layout(
        config.dataset.whiten or dataset.bank.num_features,
        dataset.num_probes,
        config.dataset.repeat_test,
        dataset.clip_frames,
        config.model.probes_write,
    )
    try:
        return build_model(name, CONFIGS[name](**config.model.args), layout)
    except ValueError as error:
        raise InputError(f"model.args: {error}; set model.probes_write to false") from None


def trained_model(config: RunConfig, weights: Mapping[str, Tensor], dataset: EpisodeDataset) -> Recogniser:
    """The configured model for the episodes of `dataset`, with the weights of a run."""
    model = build(config, dataset)
    if config.dataset.whiten:
        model.whiten(weights["feature_mean"], weights["whitening"])
    elif config.dataset.standardise:
        model.standardise(weights["feature_mean"], weights["feature_deviation"])
    model.threshold = weights.get("threshold")
    model.load_state_dict(weights)
    return model


def first_model(config: RunConfig, train_set: EpisodeDataset) -> Recogniser:
    """The model before its training, which the seed, the training films and `model.load_path` decide."""
    torch.manual_seed(config.training.seed)
    model = build(config, train_set)
    if config.dataset.whiten:
        model.whiten(*whitening(train_set.bank, config.dataset.whiten))
    elif config.dataset.standardise:
        model.standardise(*train_set.bank.statistics())
    if config.model.load:
        load_weights(model, Path(config.model.load_path))
    return model


def check_clips(config: RunConfig, sets: Sequence[EpisodeDataset]) -> None:
    """Raise InputError if a layer looks at clips of other lengths than the episodes have."""
    name, shown = config.model.model, sets[0].clip_frames
    for family, settings in CONFIGS[name](**config.model.args).layers_of(name):
        given = settings.clip_frames_of(shown)
        for dataset in sets:
            if given not in (None, dataset.clip_frames):
                key = f"model.args.{f'{family}.' if name == 'mixed' else ''}clip_frames"
                what = "draw all alike" if given == shown else "leave it out, to take that of the episodes"
                raise InputError(
                    f"{key}: {given}, but clips of {dataset.index.path} show {dataset.clip_frames} frames; {what}"
                )


def check_probe_times(config: RunConfig, model: Recogniser) -> None:
    """Raise InputError if training asks in the midst of study and a layer below another one sees what comes later."""
    if config.dataset.probe_times == "end":
        return
    families = {kind: name for name, kind in MODELS.items()}
    for mixer in model.mixers[:-1]:
        if mixer.looks_ahead:
            name, ways = families[type(mixer)], ["probe_times: end"]
            if "causal" in type(mixer).Config.model_fields:
                ways.insert(0, f"model.args.{f'{name}.' if config.model.model == 'mixed' else ''}causal: true")
            told = f"a layer of {name} below another sees later frames ({', or '.join(ways)})"
            raise InputError(f"dataset.probe_times: clip_ends, but {told}")


def load_weights(model: Recogniser, path: Path) -> None:
    """Start from the weights in a file, .pt or .safetensors. Raises InputError if they are not of this model."""
    try:
        is_safe = path.suffix == ".safetensors"
        weights = load_file(path) if is_safe else torch.load(path, map_location="cpu", weights_only=True)
        weights.pop("threshold", None)  # training will move it
        model.load_state_dict(weights)
    except Exception as error:  # every kind of file raises kinds of its own
        if is_of_system(error):
            raise
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"model.load_path: {str(path)!r}: does not fit this model: {reason}") from None


def save_weights(model: torch.nn.Module, path: Path) -> None:
    """Write the weights as the published study did, for `model.load_path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as part:
        torch.save(model.state_dict(), part)
