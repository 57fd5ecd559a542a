"""Everything that is told of one run: evaluation.json."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recognition.common.command_line import InputError, one_line
from recognition.common.files import sha256
from recognition.episodes.dataset import EpisodeDataset
from recognition.evaluation.answers import Subject
from recognition.evaluation.findings import Findings
from recognition.evaluation.memorability_analysis import describe_by_memorability
from recognition.evaluation.pages import find_pages
from recognition.evaluation.scores import (
    capacity,
    capacity_files,
    describe_features,
    is_other_length,
    seconds_per_episode,
    without_nan,
)
from recognition.features.feature_bank import FeatureBank
from recognition.training.config import RunConfig
from recognition.training.data import open_split
from recognition.training.model import read_config
from recognition.training.runs import Run, describe_inputs, input_files


class Options(NamedTuple):
    """What else a run is to be scored by."""

    tries_settings: bool = False  # of the layers that have such
    episodes: Sequence[Path] = ()  # further index files
    memorability: Path | None = None  # folder with the scores of the probes; beside the features if None


class Evaluated(NamedTuple):
    """What was found of a run."""

    evaluation: dict[str, Any]  # the content of evaluation.json
    answer: np.ndarray  # (N, P) to the test episodes, above 0 for "old"
    num_tried: int  # other settings of its layers


def open_run(path: Path, settings: Sequence[str] = ()) -> tuple[Run, RunConfig]:
    """A trained run, with some settings given anew. Raises InputError if it is none, or not trained yet."""
    run = Run(path)
    if not run.config_file.is_file():
        raise InputError(f"{run.path}: not a run (no config.yaml there); train one with train.py")
    config = read_config(run.config_file, settings)
    if not run.best_file.is_file():
        raise InputError(f"{run.best_file}: no such file; train the run first")
    return run, config


def open_test_set(run: Run, config: RunConfig, reads_train: bool = False) -> EpisodeDataset:
    """The test episodes of a run, which keeps where its data lie by now.

    Raises InputError if it was not trained and validated with these, the training episodes among them if they are to be
    read.
    """
    test_set, files = open_split(config.dataset, "test"), input_files(config)
    names = ("test", "validation", "train") if reads_train else ("test", "validation")
    run.check_inputs(describe_inputs({name: files[name] for name in names}))
    run.keep_places(config)
    return test_set


def open_training_films(run: Run, config: RunConfig) -> FeatureBank | None:
    """The films that a run was trained on, memory-mapped. None, with a line that says why, where they are not at hand:
    its scores do not need them."""
    mapped = config.dataset.model_copy(update={"bank": "mapped"})
    try:
        run.check_inputs(describe_inputs({"train": input_files(config)["train"]}))
        return open_split(mapped, "train").bank
    except InputError as error:
        print(one_line(f"{config.name}: controls on whitened features are left out: {error}"), file=sys.stderr)
        return None


def evaluate_run(
    run: Run, subject: Subject, test_set: EpisodeDataset, findings: Findings, options: Options
) -> Evaluated:
    """Score a run with its best weights, and keep evaluation.json and the answers."""
    features = Path(subject.config.dataset.video_path)
    answer, scores = subject.score(test_set)
    num_tried = try_settings(subject, test_set, scores) if options.tries_settings else 0
    by_memorability = describe_by_memorability(
        test_set, answer, options.memorability or features / "memorability", findings.similarity
    )
    if options.memorability and not by_memorability:
        raise InputError(
            f"--memorability {options.memorability}: holds no score of the probes of {test_set.index.path}"
        )
    evaluation = {
        "sha256": {"test": sha256(test_set.index.path), "weights": sha256(run.best_file)},
        "trained_on": {name: read["sha256"] for name, read in run.read_inputs().items()},
        "model": subject.config.model.model,
        "features": describe_features(features, test_set.index.video_ids[0]),
        "seconds_per_episode": None
        if subject.config.stream
        else seconds_per_episode(run.read_metrics(), subject.config.training.batch_size),
        **scores,
        "controls": findings.controls,
        "geometry": findings.geometry,
        "memorability": by_memorability,
        "other_episodes": list(other_episodes(subject, test_set, findings, options.episodes)),
        "audit": findings.audit,
    }
    evaluation["capacity"] = capacity(evaluation)
    evaluation = without_nan(evaluation)
    run.save_answers(answer)
    run.write_evaluation(evaluation)
    return Evaluated(evaluation, answer, num_tried)


def try_settings(subject: Subject, dataset: EpisodeDataset, scores: dict[str, Any]) -> int:
    """Add to what each page describes a row for each setting tried with the same weights; returns how many there are.

    `scores` are those with the settings of the run.
    """
    num_tried = 0
    for name, page in find_pages().items():

        def score(settings: dict[str, Any], name: str = name) -> dict[str, Any]:
            return subject.score(dataset, {name: settings})[1]

        if scores[name] and (rows := page.other_settings(scores[name], dataset, score)):
            scores[name]["other_settings"] = rows
            num_tried += len(rows)
    return num_tried


def other_episodes(
    subject: Subject, test_set: EpisodeDataset, findings: Findings, further: Sequence[Path]
) -> Iterator[dict[str, Any]]:
    """Scores on other test episodes: those of other lengths beside the run's own, and `further` index files."""
    config = subject.config.dataset
    for path in dict.fromkeys([*capacity_files(Path(config.test_indices_file)), *further]):
        dataset = open_split(config.model_copy(update={"test_indices_file": str(path)}), "test")
        _, scores = subject.score(dataset)
        yield {
            "file": str(path),
            "is_other_length": is_other_length(dataset, test_set),
            **scores,
            "controls": {"nearest_frame": findings.nearest_frame(path, dataset)},
        }
