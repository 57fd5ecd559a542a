"""Crowds and models of which it is known how far they agree, and their folders."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from recognition.evaluation.signal_detection import resample_episodes, roc, summarise, summarise_with_intervals, zroc
from recognition.people.crowd import Crowd, write_crowd

NUM_EPISODES, NUM_PROBES, PEOPLE_EACH = 6, 60, 6
KINDS = ("no_cut", "cut", "other_film")


def graded(strength: np.ndarray) -> np.ndarray:
    """Strengths as grades -3, -2, -1, 1, 2, 3."""
    return np.array([-3, -2, -1, 1, 2, 3], np.float32)[np.searchsorted([-1, -0.4, 0, 0.4, 1], strength)]


def make_crowd(
    item_noise: float, people_each: int = PEOPLE_EACH, num_episodes: int = NUM_EPISODES, seed: int = 0
) -> tuple[Crowd, np.ndarray, np.ndarray]:
    """People of d' near 1.5 and of different leanings, whose noise is partly that of the items; is_old and the strength
    of items (N, P), of which an answer shares `item_noise` of its variance within a kind."""
    rng = np.random.default_rng(seed)
    is_old = np.stack([rng.permutation(NUM_PROBES) % 2 for _ in range(num_episodes)])
    item = rng.normal(size=is_old.shape)
    episode = np.repeat(np.arange(num_episodes), people_each).astype(np.int32)
    own = rng.normal(size=(len(episode), NUM_PROBES))
    noise = item_noise**0.5 * item[episode] + (1 - item_noise) ** 0.5 * own
    leaning = 0.3 * rng.normal(size=(len(episode), 1))
    answer = graded(1.5 * is_old[episode] - 0.75 + noise + leaning)
    answer[rng.random(answer.shape) < 0.03] = np.nan
    return crowd_of(answer, is_old[episode], episode), is_old, item


def crowd_of(
    answer: np.ndarray,
    is_old: np.ndarray,
    episode: np.ndarray,
    left_out: tuple[int, ...] = (),
    name: str = "people",
    index_sha256: str | None = "a" * 64,
) -> Crowd:
    """A crowd with these answers (R, P), asked about the order of frames, too; clips have kinds."""
    persons = [person_of(k, answer[k], is_old[k], k in left_out) for k in range(len(answer))]
    rng = np.random.default_rng(1)
    rt_ms = np.where(np.isnan(answer), np.nan, 2000).astype(np.float32)
    lag_s = np.where(is_old == 1, np.exp(rng.uniform(4, 7, answer.shape)), np.nan).astype(np.float32)
    ids = np.array([person["id"] for person in persons])
    return Crowd(
        name,
        "made up",
        index_sha256,
        persons,
        answer,
        is_old.astype(np.uint8),
        rt_ms,
        lag_s,
        episode.astype(np.int32),
        ids,
    )


def person_of(number: int, answer: np.ndarray, is_old: np.ndarray, is_left_out: bool) -> dict[str, Any]:
    there = ~np.isnan(answer)
    answer, is_old = answer[None, there], is_old[None, there]
    rates = {"hit_rate": 0.7 + 0.01 * number, "false_alarm_rate": 0.2, "d_prime": 1.4, "num_probes": 20}
    order = {"accuracy": 0.7, "num_pairs": 30}
    by_kind = [{"kind": kind, "accuracy": 0.8 - 0.15 * k, "num_pairs": 10} for k, kind in enumerate(KINDS)]
    line = zroc(answer, is_old, resample_episodes(1, 10))
    slopes = {name: None if np.isnan(line[name]) else line[name] for name in ("slope", "intercept")}
    return {
        "id": f"p{number}",
        "left_out": "unfinished" if is_left_out else None,
        "flags": [],
        "scores": {**summarise(answer, is_old), "zroc": {**line, **slopes}},
        "by_clip_kind": [{"kind": kind, **rates} for kind in KINDS],
        "median_rt_s": 2.0,
        "order": order | {"by_clip_kind": by_kind},
        "facts": {},
    }


def model_of(item: np.ndarray, is_old: np.ndarray, item_noise: float, seed: int = 1) -> np.ndarray:
    """A model's answers (N, P), whose noise is partly that of the items."""
    own = np.random.default_rng(seed).normal(size=item.shape)
    return 1.5 * is_old - 0.75 + item_noise**0.5 * item + (1 - item_noise) ** 0.5 * own


def write_people(folder: Path, crowd: Crowd) -> None:
    write_crowd(folder, crowd)


def write_scored_run(folder: Path, answer: np.ndarray, is_old: np.ndarray, seed: int = 0, **changes: Any) -> None:
    """A run's folder as train.py, evaluate.py and `participants order` leave it, so far as it is read."""
    name, model, test = (
        changes.get(key, value) for key, value in (("name", folder.name), ("model", "lstm"), ("test", "a" * 64))
    )
    folder.mkdir(parents=True)
    settings = {"name": name, "model": {"model": model}, "training": {"seed": seed}}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    resamples, lags = resample_episodes(len(answer)), (64, 256, 1024)
    line = zroc(answer, is_old, resamples)
    rates = {"hit_rate": 0.8, "d_prime": 1.5, "num_probes": 60}
    evaluation = {
        "sha256": {"test": test, "weights": "b" * 64},
        "trained_on": {},
        "state_size": 512,
        "state_bytes": 2048,
        "num_study_frames": 300,
        "seconds_per_episode": None,
        "calibrated": None,
        "controls": {},
        **summarise_with_intervals(answer, is_old, resamples),
        "roc": roc(answer, is_old),
        "zroc": line,
        "retention": {
            "by_lag": [{"lag_frames": 30 * lag, "lag_s": lag, **rates} for lag in lags],
            "by_clip_kind": [{"kind": kind, **rates} for kind in KINDS],
        },
    }
    (folder / "evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")
    order = {"accuracy": 0.55, "by_clip_kind": [{"kind": kind, "accuracy": 0.6} for kind in KINDS]}
    order["sha256"] = evaluation["sha256"]
    (folder / "order.json").write_text(json.dumps(order), encoding="utf-8")
    np.savez_compressed(folder / "answers.npz", answers=answer.astype(np.float32))
