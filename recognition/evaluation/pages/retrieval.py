"""What a memory that looks things up has found: is the studied frame of an old probe among what the probe retrieved?

Places count the study frames of an episode in order of presentation, from 0.

Shapes: N episodes, P probes, K retrieved frames, the most similar first, R resamples.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from recognition.common.plotting import band, finished, looks, panel
from recognition.episodes.dataset import EpisodeDataset
from recognition.evaluation.figures import retention_curve
from recognition.evaluation.pages import Told
from recognition.evaluation.retention import frames_a_clip, lags, source_places, studied_at
from recognition.evaluation.signal_detection import rate_interval, resample_episodes

RANKS = (1, 8, 32, 128)  # how many of the retrieved frames count
CAPACITIES = (1 / 9, 1 / 3, 1)  # of a memory, as shares of the study frames: 1,000, 3,000 and 9,000 as published
SCORES = [f"{name}{end}" for name in ("accuracy", "d_prime") for end in ("", "_interval")]
Row = dict[str, Any]


def describe(dataset: EpisodeDataset, answer: np.ndarray, layers: Sequence[Told]) -> Row | None:
    """What the last of the layers found, (N, P * showings, K), when each probe was shown for the last time.

    Returns k and capacity of its memory; recall of the source frame itself and of any frame of its clip, see
    `retrieval_recall`; by_lag, the first of both with all K retrieved, see `retrieval_by_lag`; and gates, how much each
    head relies on what it retrieved.
    """
    if not layers:
        return None
    about, retrieved = layers[-1].about, layers[-1].found["retrieved"]
    retrieved = retrieved[:, dataset.repeat_test - 1 :: dataset.repeat_test]  # (N, P, K)
    is_old, resamples, most = dataset.episodes.is_old, resample_episodes(len(dataset)), retrieved.shape[2]
    source = source_places(dataset)
    of_frame, of_clip = (retrieval_ranks(retrieved, source, unit) for unit in (1, frames_a_clip(dataset)))
    lag, _ = lags(dataset, *studied_at(dataset))
    return {
        "k": about["k"],
        "capacity": about["capacity"],
        "other_settings": [],
        "recall": retrieval_recall(of_frame, is_old, resamples, most),
        "clip_recall": retrieval_recall(of_clip, is_old, resamples, most),
        "by_lag": retrieval_by_lag(of_frame, lag, is_old, resamples, most),
        "gates": about["gates"],
    }


def other_settings(described: Row, dataset: EpisodeDataset, score: Callable[[Row], Row]) -> list[Row]:
    """Scores with other numbers of neighbours and smaller memories, which forget the earliest frames."""
    rows = []
    for settings in lookup_settings(described["k"], dataset.num_study_frames):
        scores = score(settings)
        told = {name: scores[name] for name in ("state_bytes", "hit_rate", "false_alarm_rate", *SCORES)}
        recall = scores["retrieval"]["recall"][-1]["recall"]  # among all that is retrieved
        rows.append({**settings, **told, "recall": recall, "by_lag": scores["retention"]["by_lag"]})
    return rows


def lookup_settings(k: int, num_study_frames: int) -> list[Row]:
    """k and capacity of the memories to try a model with: as many neighbours as in RANKS or `k`, all CAPACITIES."""
    capacities = sorted({max(1, round(share * num_study_frames)) for share in CAPACITIES})
    return [{"k": number, "capacity": capacity} for number in sorted({*RANKS, k}) for capacity in capacities]


def figures(described: Row) -> dict[str, Figure]:
    """Where other settings were tried: accuracy with them, and retention with the run's own number of neighbours."""
    if not (rows := described["other_settings"]):
        return {}
    own = {f"{row['capacity']:,} frames in memory": row["by_lag"] for row in rows if row["k"] == described["k"]}
    return {"lookup_accuracy": lookup_curve(rows), "lookup_retention": retention_curve(own, "hit_rate")}


def lookup_curve(rows: Sequence[Row]) -> Figure:
    """Accuracy of one model against the capacity of its kNN memory: a curve for each number of neighbours."""
    figure, axis = panel()
    for k, look in zip(sorted({row["k"] for row in rows}), looks(), strict=False):
        of_k = [row for row in rows if row["k"] == k]
        band(axis, of_k, "capacity", "accuracy", f"k = {k}", look)
    capacities = sorted({row["capacity"] for row in rows})
    axis.set(title="Smaller memories", xlabel="study frames in the memory", ylabel="accuracy", xscale="log")
    axis.set_xticks(capacities, [f"{capacity:,}" for capacity in capacities])
    axis.xaxis.set_minor_locator(NullLocator())
    return finished(figure, axis)


def retrieval_ranks(retrieved: np.ndarray, source: np.ndarray, unit: int = 1) -> np.ndarray:
    """At which place among the retrieved frames (N, P, K) the source (N, P) stands, from 1; K + 1 if nowhere.

    -1 in `retrieved` means that nothing was found. With `unit` frames of a clip, any frame of the source's clip will
    do. The result is (N, P).
    """
    is_source = (retrieved // unit == source[..., None] // unit) & (retrieved >= 0)
    return np.where(is_source.any(2), is_source.argmax(2) + 1, retrieved.shape[2] + 1)


def retrieval_recall(rank: np.ndarray, is_old: np.ndarray, resamples: np.ndarray, most: int) -> list[Row]:
    """A row for each number in RANKS and for `most`: num_retrieved, recall with its interval over episodes, num_probes.

    Recall is the share of old probes whose source stands among the first `num_retrieved` retrieved frames; nan without
    old probes. rank (N, P) is that of `retrieval_ranks`, with `most` frames retrieved; resamples (R, N).
    """
    numbers = [*(number for number in RANKS if number < most), most]
    return [{"num_retrieved": number, **_recall(rank <= number, is_old == 1, resamples)} for number in numbers]


def retrieval_by_lag(
    rank: np.ndarray, lag: np.ndarray, is_old: np.ndarray, resamples: np.ndarray, num_retrieved: int
) -> list[Row]:
    """Recall among the first `num_retrieved` frames by lag (N, P), in frames shown, in bins that double.

    Each row has lag_frames_from, lag_frames_to, recall with its interval, and num_probes, of the old probes alone.
    """
    old = is_old == 1
    doubling = np.log2(np.where(old, lag, 1)).astype(int)
    return [
        {
            "lag_frames_from": 2 ** int(number),
            "lag_frames_to": 2 ** (int(number) + 1) - 1,
            **_recall(rank <= num_retrieved, old & (doubling == number), resamples),
        }
        for number in np.unique(doubling[old])
    ]


def _recall(is_found: np.ndarray, chosen: np.ndarray, resamples: np.ndarray) -> Row:
    found, asked = (is_found & chosen).sum(1), chosen.sum(1)
    with np.errstate(invalid="ignore"):
        recall = float(found.sum() / asked.sum())
    ends = rate_interval(found, asked, resamples)
    return {"recall": recall, "recall_interval": ends, "num_probes": int(asked.sum())}
