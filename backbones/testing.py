"""What a training of actions is worth: the test films are read once, with the weights that validation chose."""

import json
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from backbones.answers import Answers
from backbones.classifier import ClipClassifier
from backbones.config import ClassifySettings
from backbones.controls import CONTROLS, changed
from backbones.dataset import ClipDataset
from backbones.items import Films
from backbones.probe_task import folded
from backbones.report import write_report
from backbones.scores import describe, majority_top1, write_class_table
from backbones.views import Views, class_answers
from models.temporal_gates import SqueezeRecursion, openness
from recognition.common.files import written_whole
from recognition.training.config import dump_config
from recognition.training.runs import Run

MOST_GATED = 64  # clips on which the openness of gates is looked at


class ControlledDataset(ClipDataset):
    """Films as one of CONTROLS has them."""

    control = ""

    def views(self, number: int, num_clips: int, crops: int, side: int | None = None) -> Tensor:
        return changed(super().views(number, num_clips, crops, side), self.control, number)


def best_weights(run: Run, model: ClipClassifier) -> dict[str, Tensor]:
    """The weights of the best epoch so far, as `ClipClassifier.weights` names them; of a probe, with its best head."""
    state = run.load_best()
    if "best" in state:
        return model.weights() | {f"fc.{name}": tensor for name, tensor in folded(state).items()}
    network = "backbone.network."
    return {
        name.removeprefix(network) if name.startswith(network) else name.replace("head.", "fc."): tensor
        for name, tensor in state.items()
    }


def test(fabric: Fabric, model: ClipClassifier, films: Films, config: ClassifySettings, run: Run) -> dict[str, Any]:
    """Score the test films and their controls; the first process writes test.json, answers.npz, classes.csv and
    report.html, and says the score, and has it returned. Nothing without test films."""
    if not films.test:
        fabric.print(f"{config.data.list} has no test films; all about the run is in {run.path}")
        return {}
    views = Views(config.test.clips, config.test.crops)
    answers = _answers(fabric, model, ClipDataset(films.test, config, films.readers), films, views)
    controls = {"majority": {"top1": majority_top1([item.label for item in films.train], answers.labels)}}
    for name in CONTROLS:
        dataset = ControlledDataset(films.test, config, films.readers)
        dataset.control = name
        found = describe(_answers(fabric, model, dataset, films, views))
        controls[name] = {key: found[key] for key in ("top1", "top1_interval")}
    gates = _gates(fabric, model, ClipDataset(films.test[:MOST_GATED], config, films.readers))
    if not fabric.is_global_zero:
        return {}
    told: dict[str, Any] = describe(answers) | {"views": views._asdict(), "controls": controls, "gates": gates}
    answers.save(run.path / "answers.npz")
    write_class_table(answers, run.path / "classes.csv")
    page = {"name": config.name, "network": config.network.name, "config": dump_config(config)}
    write_report(run.path, told | page, answers, run.read_metrics())
    with written_whole(run.test_file) as part:
        part.write_text(json.dumps(told, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    interval = told["top1_interval"]
    ends = " [{:.3f}, {:.3f}]".format(*interval) if interval else ""
    of_controls = ", ".join(f"{name} {scores['top1']:.3f}" for name, scores in controls.items())
    print(f"test top-1 {told['top1']:.3f}{ends}, top-5 {told['top5']:.3f}; controls: {of_controls}")
    print(f"report: {(run.path / 'report.html').resolve()}")
    return told


def _answers(fabric: Fabric, model: ClipClassifier, dataset: ClipDataset, films: Films, views: Views) -> Answers:
    said = class_answers(fabric, model, dataset, dataset.config, views)
    return Answers(
        said.probabilities.numpy().astype(np.float32),
        np.array([item.label for item in dataset.items], np.int64),
        np.array([str(item.path) for item in dataset.items]),
        np.array([item.source for item in dataset.items]),
        np.array(films.classes),
        said.view_right.numpy().astype(np.float32),
    )


@torch.no_grad()
def _gates(fabric: Fabric, model: ClipClassifier, dataset: ClipDataset) -> list[dict[str, Any]] | None:
    """How far each temporal gate opens for the middle clips of some films; None of a network that has no gates."""
    model.eval()
    if not any(isinstance(module, SqueezeRecursion) for module in model.modules()):
        return None
    clips = torch.cat([dataset.middle(number) for number in range(len(dataset))])
    found: dict[str, list[Tensor]] = {}
    for part in clips.split(dataset.config.test.batch_size):
        with fabric.autocast():
            model(fabric.to_device(part))
        for name, of_clips in openness(model.backbone.network).items():
            found.setdefault(name, []).append(of_clips.float().cpu())
    rows = [{"layer": name, "openness": torch.cat(parts).mean().item()} for name, parts in found.items()]
    return rows or None
