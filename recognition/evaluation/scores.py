"""Everything that is told of a model's answers to the episodes of one index file."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from recognition.episodes.dataset import EpisodeDataset
from recognition.episodes.drawing import was_shown
from recognition.episodes.episode_spec import EpisodeSpec
from recognition.evaluation.retention import EPISODES_A_BLOCK, retention
from recognition.evaluation.signal_detection import (
    COUNTED,
    answered,
    count_answers,
    intervals_of_counts,
    rate_interval,
    resample_episodes,
    roc,
    summarise,
    summarise_with_intervals,
    zroc,
)
from recognition.features.feature_bank import find_header
from recognition.features.made_up import is_made_up

BYTES_A_FLOAT = 4  # states are counted as float32, whatever precision the model computed in


def describe_answers(
    dataset: EpisodeDataset,
    answer: np.ndarray,
    folder: Path,
    threshold: float | None = None,
    lag_s: np.ndarray | None = None,
    is_rated: bool = False,
) -> dict[str, Any]:
    """Scores of answers (N, P), above 0 for "old" and nan where one is missing, with intervals, and the tables of
    `retention`.

    `folder` holds the feature files, which tell how fast films run. `threshold` is the one that training has found on
    validation, if it has: "calibrated" tells of it. People's answers have measured lags `lag_s` (N, P), and `is_rated`
    says that they were given on a scale, see `confidence_bounds`. What is not defined is nan or None.

    Raises ValueError if there are no answers to old or none to new probes.
    """
    episodes, resamples = dataset.episodes, resample_episodes(len(dataset))
    says_old, (old, _) = answer > 0, answered(answer, episodes.is_old)
    blocks = [slice(first, first + EPISODES_A_BLOCK) for first in range(0, len(dataset), EPISODES_A_BLOCK)]
    is_shown = [was_shown(episodes.study[b], episodes.probes[b], dataset.subsample) for b in blocks]
    shown = np.concatenate(is_shown) & old
    between = old & ~shown
    return {
        "num_episodes": len(dataset),
        "num_clips": dataset.num_clips,
        "num_study_frames": dataset.num_study_frames,
        **summarise_with_intervals(answer, episodes.is_old, resamples),
        "calibrated": None if threshold is None else calibrated(answer, episodes.is_old, resamples, threshold),
        **share_right("shown", says_old, shown, resamples),
        **share_right("between", says_old, between, resamples),
        "roc": roc(answer, episodes.is_old),
        "zroc": zroc(answer, episodes.is_old, resamples, is_rated=is_rated),
        "retention": retention(dataset, answer, resamples, film_rates(dataset, folder), lag_s),
    }


def calibrated(answer: np.ndarray, is_old: np.ndarray, resamples: np.ndarray, threshold: float) -> dict[str, Any]:
    """The threshold, and with their intervals the scores that it changes: those in COUNTED."""
    scores, counts = summarise(answer, is_old, threshold), count_answers(answer > threshold, *answered(answer, is_old))
    intervals = intervals_of_counts(counts, resamples)
    return {
        "threshold": threshold,
        **{name: scores[name] for name in COUNTED},
        **{f"{name}_interval": intervals[name] for name in COUNTED},
    }


def share_right(name: str, says_old: np.ndarray, chosen: np.ndarray, resamples: np.ndarray) -> dict[str, Any]:
    """Share of "old" to some of the old probes with its interval, None without any, and their number."""
    scores: dict[str, Any] = {f"accuracy_{name}": None, f"accuracy_{name}_interval": None}
    if chosen.any():
        right, asked = (says_old & chosen).sum(1), chosen.sum(1)
        scores = {
            f"accuracy_{name}": float(right.sum() / asked.sum()),
            f"accuracy_{name}_interval": rate_interval(right, asked, resamples),
        }
    return {**scores, f"n_{name}": int(chosen.sum())}


def film_rates(dataset: EpisodeDataset, folder: Path) -> np.ndarray | None:
    """Frames a second of every film (V,); None where one is not known, as in the published data set."""
    headers = [find_header(folder, video_id) for video_id in dataset.index.video_ids]
    fps = np.array([header.fps if header else 0 for header in headers])
    return fps if (fps > 0).all() else None


def describe_features(folder: Path, video_id: str) -> str | None:
    """What network is behind the features of a film; None for the published data set, whose files say nothing."""
    if is_made_up(folder):
        return f"no film: they are made up, {folder}"
    header = find_header(folder, video_id)
    return None if header is None else f"{header.backbone} with weights {header.weights}"


def capacity_files(test_file: Path) -> list[Path]:
    """The index files of more or fewer clips that generate_dataset.py wrote beside one, the shortest first."""
    pattern = re.compile(re.escape(test_file.stem) + r"_(\d+)clips\.h5")
    found = [(int(match[1]), path) for path in test_file.parent.glob("*.h5") if (match := pattern.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def is_other_length(dataset: EpisodeDataset, test_set: EpisodeDataset) -> bool:
    """Whether two sets differ in the number of clips alone, so that both lie on one capacity curve."""
    spec, test_spec = dataset.index.spec, test_set.index.spec
    return spec is not None and test_spec is not None and _without_clips(spec) == _without_clips(test_spec)


def capacity(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each number of clips studied, ascending: scores of the model and of the nearest-frame control.

    Empty if there are no other episodes that differ from the tested ones in this alone.
    """
    others = [other for other in evaluation["other_episodes"] if other["is_other_length"]]
    sets = {scores["num_clips"]: scores for scores in [*others, evaluation]} if others else {}
    names = [f"{name}{ending}" for name in ("accuracy", "d_prime") for ending in ("", "_interval")]
    rows = []
    for num_clips, scores in sorted(sets.items()):
        control = scores["controls"]["nearest_frame"]
        row = {name: scores[name] for name in ("num_study_frames", "num_episodes", "state_bytes", *names)}
        rows.append({"num_clips": num_clips, **row, **{f"nearest_frame_{name}": control[name] for name in names}})
    return rows


def seconds_per_episode(metrics: list[dict[str, Any]], batch_size: int) -> float | None:
    """Seconds that a training episode took: the median over epochs, each with its validation; None without any.

    `metrics` has the lines of metrics.jsonl. Times are of the machine that trained, and of whatever else it did.
    """
    if not metrics:
        return None
    num_episodes = batch_size * metrics[0]["step"] / metrics[0]["epoch"]
    return float(np.median([line["seconds"] for line in metrics]) / num_episodes)


def without_nan(tree: Any) -> Any:
    """The same with None for every number that is not finite, as JSON has no word for them."""
    if isinstance(tree, dict):
        return {key: without_nan(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [without_nan(value) for value in tree]
    return None if isinstance(tree, float) and not np.isfinite(tree) else tree


def _without_clips(spec: EpisodeSpec) -> dict[str, Any]:
    return {key: value for key, value in vars(spec).items() if key != "num_clips"}
