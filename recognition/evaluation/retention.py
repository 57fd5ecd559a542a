"""What is remembered, and for how long: answers by lag, by place in study and test, by kind of probe and clip.

d' of a part of the old probes is taken against the false alarms of all new ones, as a new probe has no lag and no
clip. All intervals come from the bootstrap over episodes, see `signal_detection`.

Shapes: N episodes, C clips, S rows of `study` (as many, or twice as many where clips are two halves), P probes.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from recognition.episodes.dataset import EpisodeDataset
from recognition.episodes.episode_spec import CLIP_KINDS, PROBE_KINDS
from recognition.evaluation.signal_detection import answered, count_answers, intervals_of_counts, scores_of_counts

NUM_PLACES = 10  # groups of clips and of probes at most, by their place
EPISODES_A_BLOCK = 256  # compared with all their clips at once
Row = dict[str, Any]


def retention(
    dataset: EpisodeDataset,
    answer: np.ndarray,
    resamples: np.ndarray,
    fps: np.ndarray | None = None,
    lag_s: np.ndarray | None = None,
) -> dict[str, list[Row]]:
    """Tables of answers (N, P), above 0 for "old"; each a list of rows with scores, their intervals and num_probes.

    A missing answer, nan, counts in no row, and what has no answer at all has none.

    by_lag: old probes by the frames shown from their own to the probe, in bins that double: lag_frames (geometric
        mean), lag_frames_from, lag_frames_to, lag_s, hit_rate, d_prime. The lag of a probe that lies between shown
        frames counts from the nearest of them. lag_s is the same in seconds of film, None where `fps` (V,) is; where
        lags were measured, `lag_s` (N, P), it is the geometric mean of those that are not nan, None without any.
    by_serial_position: old probes by the place of their clip among those studied, from 1, in up to 10 groups: position
        (the middle), position_from, position_to, hit_rate, d_prime.
    by_probe_order: all probes by their place in the test, in the same way: hit_rate, false_alarm_rate, d_prime.
    by_kind: the kinds of probes that there are: kind, says_old, d_prime (of all old probes against this kind; None for
        "old" itself, whose row stands first).
    by_clip_kind: old probes by the kind of their clip: kind, hit_rate, d_prime; empty where the index has no kinds.
    """
    episodes = dataset.episodes
    old, new = answered(answer, episodes.is_old)
    study_row, frame = studied_at(dataset)
    lag, film_s = lags(dataset, study_row, frame, fps)
    lag_s = film_s if lag_s is None else lag_s
    exponent = np.log2(np.where(old, lag, 1)).astype(int)
    num_clips, num_probes = dataset.num_clips, dataset.num_probes
    clip = study_row * num_clips // episodes.study.shape[1]
    place = np.broadcast_to(np.arange(num_probes), old.shape)
    tables = _Tables(answer > 0, old, new, resamples)

    return {
        "by_lag": [
            {**_lags(doubling, lag, lag_s, old & (exponent == doubling)), **row}
            for doubling, row in tables.of_old(exponent, "hit_rate", "d_prime")
        ],
        "by_serial_position": [
            {**_places(group, num_clips), **row}
            for group, row in tables.of_old(_groups(clip, num_clips), "hit_rate", "d_prime")
        ],
        "by_probe_order": [
            {**_places(group, num_probes), **row} for group, row in tables.of_all(_groups(place, num_probes))
        ],
        "by_kind": [{"kind": PROBE_KINDS[kind], **row} for kind, row in tables.of_kinds(episodes.kind)],
        "by_clip_kind": [{"kind": CLIP_KINDS[kind], **row} for kind, row in _by_clip_kind(dataset, clip, tables)],
    }


def studied_at(dataset: EpisodeDataset) -> tuple[np.ndarray, np.ndarray]:
    """Where old probes were studied: the row of `study` and the place of the nearest shown frame in it, (N, P) each.

    Both count from 0; of two shown frames equally near the earlier counts, of two rows the later. Meaningless for new
    probes.
    """
    study, probes = dataset.episodes.study, dataset.episodes.probes
    rows, frames = [], []
    for first in range(0, len(study), EPISODES_A_BLOCK):
        block = slice(first, first + EPISODES_A_BLOCK)
        video, start, end = np.moveaxis(study[block, None], -1, 0)  # (n, 1, S)
        probe_video, probe_frame = probes[block, :, 0, None], probes[block, :, 1, None]  # (n, P, 1)
        inside = (video == probe_video) & (start <= probe_frame) & (probe_frame < end)
        row = study.shape[1] - 1 - inside[..., ::-1].argmax(-1)  # (n, P)
        offset = probe_frame[..., 0] - np.take_along_axis(start[:, 0], row, 1)
        rows.append(row)
        frames.append((offset + (dataset.subsample - 1) // 2) // dataset.subsample)
    last = dataset.num_study_frames // study.shape[1] - 1
    return np.concatenate(rows), np.clip(np.concatenate(frames), 0, last)


def source_places(dataset: EpisodeDataset) -> np.ndarray:
    """Places of the study frames that old probes show, or lie nearest to, counted from 0 in order of presentation:
    (N, P), meaningless for new probes."""
    row, frame = studied_at(dataset)
    return row * frames_a_clip(dataset) + frame


def frames_a_clip(dataset: EpisodeDataset) -> int:
    """Study frames in each row of `study`: a clip, or half of one that was drawn by kind."""
    return dataset.num_study_frames // dataset.episodes.study.shape[1]


def lags(
    dataset: EpisodeDataset, row: np.ndarray, frame: np.ndarray, fps: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Frames and seconds from the study presentation given by `studied_at` to the probe's first showing, (N, P) each.

    Every shown frame counts, those of the study and of the probes before; the frame just before has lag 1. A shown
    frame lasts subsample / fps seconds of its film's `fps` (V,); without it there are no seconds.
    """
    study, probes = dataset.episodes.study, dataset.episodes.probes
    frames_per_row = dataset.num_study_frames // study.shape[1]
    earlier_probes = np.arange(dataset.num_probes) * dataset.repeat_test
    lag = dataset.num_study_frames - (row * frames_per_row + frame) + earlier_probes
    if fps is None:
        return lag, None
    frame_s, probe_s = (dataset.subsample / fps[x] for x in (study[..., 0], probes[..., 0]))  # (N, S), (N, P)
    probe_s = probe_s * dataset.repeat_test
    to_end_s = np.cumsum(frame_s[:, ::-1] * frames_per_row, 1)[:, ::-1]  # from a row's start to the end of the study
    lag_s = np.take_along_axis(to_end_s, row, 1) - frame * np.take_along_axis(frame_s, row, 1)
    return lag, lag_s + np.cumsum(probe_s, 1) - probe_s


class _Tables:
    """Counts "old" answers by groups of probes (N, P), and makes rows with the scores of each group that has probes."""

    def __init__(self, says_old: np.ndarray, old: np.ndarray, new: np.ndarray, resamples: np.ndarray):
        self.says_old, self.old, self.new, self.resamples = says_old, old, new, resamples

    def of_old(self, group: np.ndarray, *names: str) -> Iterator[tuple[int, Row]]:
        """Old probes of each group with all new ones."""
        for number in np.unique(group[self.old]):
            old = self.old & (group == number)
            yield int(number), {**self._scores(names, old, self.new), "num_probes": int(old.sum())}

    def of_all(self, group: np.ndarray) -> Iterator[tuple[int, Row]]:
        """Old and new probes of each group."""
        for number in np.unique(group[self.old | self.new]):
            old, new = self.old & (group == number), self.new & (group == number)
            scores = self._scores(("hit_rate", "false_alarm_rate", "d_prime"), old, new)
            yield int(number), {**scores, "num_probes": int(old.sum() + new.sum())}

    def of_kinds(self, kind: np.ndarray) -> Iterator[tuple[int, Row]]:
        """New probes of each kind with all old ones; before them the old ones, kind 0."""
        for number in np.unique(np.append(kind[self.new], 0)):
            new = self.new & (kind == number) if number else self.new
            says_old = "false_alarm_rate" if number else "hit_rate"
            scores = self._scores((says_old, "d_prime"), self.old, new)
            row = {"says_old": scores[says_old], "says_old_interval": scores[f"{says_old}_interval"]}
            row |= {name: scores[name] if number else None for name in ("d_prime", "d_prime_interval")}
            yield int(number), {**row, "num_probes": int(new.sum() if number else self.old.sum())}

    def _scores(self, names: Sequence[str], old: np.ndarray, new: np.ndarray) -> Row:
        counts = count_answers(self.says_old, old, new)
        scores, intervals = scores_of_counts(*counts.sum(1)), intervals_of_counts(counts, self.resamples)
        return {
            key: value
            for name in names
            for key, value in ((name, float(scores[name])), (f"{name}_interval", intervals[name]))
        }


def _by_clip_kind(dataset: EpisodeDataset, clip: np.ndarray, tables: _Tables) -> Iterator[tuple[int, Row]]:
    if (clip_kind := dataset.index.clip_kind) is None:  # (N, C)
        return iter(())
    return tables.of_old(np.take_along_axis(clip_kind, clip, 1), "hit_rate", "d_prime")


def _lags(doubling: int, lag: np.ndarray, lag_s: np.ndarray | None, inside: np.ndarray) -> Row:
    """The lags of a bin of old probes: those from 2 ** doubling up to its double."""
    limits = {"lag_frames_from": 2**doubling, "lag_frames_to": 2 ** (doubling + 1) - 1}
    measured = np.empty(0) if lag_s is None else lag_s[inside & ~np.isnan(lag_s)]
    return {"lag_frames": _geometric_mean(lag[inside]), **limits, "lag_s": _geometric_mean(measured)}


def _geometric_mean(values: np.ndarray) -> float | None:
    return float(np.exp(np.log(values).mean())) if values.size else None


def _groups(place: np.ndarray, num_places: int) -> np.ndarray:
    """Places 0 to num_places - 1 in up to NUM_PLACES groups of nearly one size."""
    return place * min(num_places, NUM_PLACES) // num_places


def _places(group: int, num_places: int) -> Row:
    """The places of a group, counted from 1."""
    [inside] = np.nonzero(_groups(np.arange(num_places), num_places) == group)
    first, last = int(inside[0]) + 1, int(inside[-1]) + 1
    return {"position": (first + last) / 2, "position_from": first, "position_to": last}
