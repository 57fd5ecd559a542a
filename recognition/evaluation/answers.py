"""Asking a trained model: its answers to all episodes of a set, what its layers tell of them, and all scores.

Shapes: N episodes, P probes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from models.recogniser import Recogniser
from recognition.episodes.dataset import EpisodeDataset
from recognition.evaluation.pages import Told, find_pages
from recognition.evaluation.scores import BYTES_A_FLOAT, describe_answers
from recognition.training.config import RunConfig
from recognition.training.devices import launch
from recognition.training.episode_task import answers
from recognition.training.model import trained_model
from recognition.training.runs import Run

Changes = Mapping[str, Mapping[str, Any]]  # settings of layers by the layers' page, see Mixer.change


class Subject(NamedTuple):
    """A run's model with its best weights, which can be asked about episodes of any length."""

    config: RunConfig
    weights: dict[str, Tensor]
    fabric: Fabric

    def build(self, dataset: EpisodeDataset, changes: Changes) -> Recogniser:
        """The model for the episodes of a dataset, some of its layers with other settings."""
        model = trained_model(self.config, self.weights, dataset)
        for mixer in model.mixers:
            if mixer.page and (settings := changes.get(mixer.page)):
                mixer.change(**settings)
        return model.to(self.fabric.device)

    def score(self, dataset: EpisodeDataset, changes: Changes | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """The answers (N, P) to a dataset's episodes, above 0 for "old", and what evaluation.json tells of them."""
        model = self.build(dataset, changes or {})
        answer, told = self.ask(model, dataset)
        state_size = model.state_size(dataset.num_study_frames)
        sizes = {"state_size": state_size, "state_bytes": BYTES_A_FLOAT * state_size}
        threshold = None if model.threshold is None else model.threshold.item()
        scores = describe_answers(dataset, answer, Path(self.config.dataset.video_path), threshold)
        pages = {name: page.describe(dataset, answer, told.get(name, [])) for name, page in find_pages().items()}
        assert not scores.keys() & pages.keys(), "a page has the name of a score"
        return answer, {**sizes, **scores, **pages}

    def ask(self, model: Recogniser, dataset: EpisodeDataset) -> tuple[np.ndarray, dict[str, list[Told]]]:
        """The answers (N, P) of a model of this subject, and by their pages what the layers told that told anything."""
        logits: list[Tensor] = []
        found: list[list[dict[str, Tensor]]] = [[] for _ in model.mixers]  # by layer and batch
        for batch, _ in answers(self.fabric, model, dataset, self.config.training):
            logits.append(batch.cpu())
            for of_layer, mixer in zip(found, model.mixers, strict=True):
                of_layer.append({name: tensor.cpu() for name, tensor in mixer.tell().items()})
        told: dict[str, list[Told]] = {}
        for of_layer, mixer in zip(found, model.mixers, strict=True):
            if mixer.page and of_layer[0]:
                arrays = {name: _array([batch[name] for batch in of_layer]) for name in of_layer[0]}
                told.setdefault(mixer.page, []).append(Told(mixer.describe(), arrays))
        return torch.cat(logits).numpy(), told


def subject_of(run: Run, config: RunConfig) -> Subject:
    """A trained run on this machine's device. Raises InputError if its weights cannot be read."""
    weights = run.load_best()
    return Subject(config, weights, launch(config.training.model_copy(update={"num_devices": 1})))


def _array(batches: list[Tensor]) -> np.ndarray:
    """Batches one after the other; numpy has no bfloat16."""
    whole = torch.cat(batches)
    return (whole.float() if whole.is_floating_point() else whole).numpy()
