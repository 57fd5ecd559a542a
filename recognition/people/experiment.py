"""An experiment planned: which file shows which frames, in what order, and what a person is asked in between.

Files are numbered in order of presentation, and their names tell nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recognition.common.command_line import InputError
from recognition.episodes.episode_spec import ALTERATIONS, CLIP_KINDS, PROBE_KINDS
from recognition.episodes.index_file import EpisodeIndex
from recognition.episodes.rendering import Films, seconds_shown
from recognition.people.stimuli import Clip, Picture

PRACTICE_CLIPS, PRACTICE_OLD, PRACTICE_NEW = 3, 3, 3
CHECK_GAPS = (4, 8)  # clips from one attention check to the next
LETTERS = "abcdefghijklmnopqrstuvwxyz"

Row = dict[str, Any]


@dataclass
class Planned:
    """An episode: what the key says of it, but for the SHA-256 of its files, and the files to make."""

    episode: dict[str, list[Row]]
    items: list[Clip | Picture]


class Planner:
    """Plans episodes of an index.

    Args:
        subsample: every so many-th frame is studied by models; 1 to show all frames, at the film's own pace.
        probe_format: jpg or png.

    Raises InputError, from the methods, if a film or its frames' times are missing.
    """

    def __init__(self, index: EpisodeIndex, films: Films, subsample: int, probe_format: str):
        self.index, self.films, self.subsample, self.probe_format = index, films, subsample, probe_format
        self._times: dict[int, np.ndarray] = {}

    def episode(
        self, number: int, name: str, clips: Sequence[int] | None = None, probes: Sequence[int] | None = None
    ) -> Planned:
        """Plan an episode, or some clips and probes of it, with files below stimuli/<name>."""
        study, all_probes, is_old, kind = (field[number] for field in self.index.episodes)
        clip_kind = None if self.index.clip_kind is None else self.index.clip_kind[number]
        num_clips = len(study) if clip_kind is None else len(clip_kind)
        rows_of_clip = study.reshape(num_clips, -1, 3)
        clips = range(num_clips) if clips is None else clips
        probes = range(len(all_probes)) if probes is None else probes
        planned = Planned({"clips": [], "probes": [], "pairs": [], "checks": [], "questions": []}, [])
        for place, clip in enumerate(clips):
            made = Clip(
                Path(f"stimuli/{name}/clips/{place:03d}.mp4"),
                tuple(self._row(video, start, end) for video, start, end in rows_of_clip[clip].tolist()),
            )
            told = {
                "file": made.file.as_posix(),
                "rows": [[self.index.video_ids[v], start, end] for v, start, end in rows_of_clip[clip].tolist()],
                "kind": None if clip_kind is None else CLIP_KINDS[clip_kind[clip]],
                "num_frames": made.num_frames,
                "seconds": round(made.seconds, 6),
            }
            planned.episode["clips"].append(told)
            planned.items.append(made)
        for place, probe in enumerate(probes):
            video, frame = all_probes[probe].tolist()
            self._check_frame(video, frame + 1)
            file = f"stimuli/{name}/probes/{place:03d}.{self.probe_format}"
            told = {
                "file": file,
                "video_id": self.index.video_ids[video],
                "frame": frame,
                "is_old": bool(is_old[probe]),
                "kind": PROBE_KINDS[kind[probe]],
                **self._where(rows_of_clip[list(clips)], video, frame, bool(is_old[probe])),
            }
            planned.episode["probes"].append(told)
            planned.items.append(Picture(Path(file), video, frame, PROBE_KINDS[kind[probe]]))
        return planned

    def add_pairs(self, planned: Planned, number: int, name: str, pairs: Any) -> None:
        """Add pairs of studied frames, those that `draw_pairs` drew of all episodes."""
        for place in range(pairs.distance.shape[1]):
            files = {
                side: f"stimuli/{name}/pairs/{place:03d}{side[0]}.{self.probe_format}" for side in ("left", "right")
            }
            earlier, later = ("left", "right") if pairs.is_first_left[number, place] else ("right", "left")
            for side, frames in ((earlier, pairs.first), (later, pairs.second)):
                video, frame = frames[number, place].tolist()
                self._check_frame(video, frame + 1)
                planned.items.append(Picture(Path(files[side]), video, frame, "old"))
            clip, kind = int(pairs.clip[number, place]), int(pairs.clip_kind[number, place])
            planned.episode["pairs"].append(
                {
                    "first_file": files[earlier],
                    "second_file": files[later],
                    **files,
                    "earlier": earlier,
                    "clip": clip if clip >= 0 else None,
                    "distance_frames": int(pairs.distance[number, place]),
                    "clip_kind": CLIP_KINDS[kind] if kind >= 0 else None,
                }
            )

    def practice(self, exported: Sequence[int]) -> tuple[int, list[int], list[int]]:
        """An episode that is not exported with some of its clips and probes, none of which an exported one shows.

        Raises InputError if there is no such clip.
        """
        study, probes, is_old, kind = self.index.episodes
        seen = study[list(exported)].reshape(-1, 3)
        asked = probes[list(exported)].reshape(-1, 2)
        best: tuple[int, list[int], list[int]] | None = None
        for number in range(len(self.index)):
            if number in exported:
                continue
            num_clips = study.shape[1] if self.index.clip_kind is None else self.index.clip_kind.shape[1]
            rows = study[number].reshape(num_clips, -1, 3)
            is_plain = ~np.isin(kind[number], [PROBE_KINDS.index(name) for name in ALTERATIONS])
            clips, old = [], []
            for clip in range(num_clips):
                inside = [k for k in np.flatnonzero(is_old[number]) if _lies_in(probes[number, k], rows[clip])]
                if inside and not any(_overlaps(row, seen, asked) for row in rows[clip]):
                    clips.append(clip)
                    old.append(int(inside[0]))
            new = [
                int(k)
                for k in np.flatnonzero((is_old[number] == 0) & is_plain)
                if not _overlaps((*probes[number, k], probes[number, k, 1] + 1), seen, asked)
            ]
            chosen = sorted(old[:PRACTICE_OLD] + new[:PRACTICE_NEW])
            if clips and (best is None or len(clips[:PRACTICE_CLIPS]) > len(best[1])):
                best = number, clips[:PRACTICE_CLIPS], chosen
            if best and len(best[1]) == PRACTICE_CLIPS:
                break
        if best is None:
            raise InputError(
                f"{self.index.path}: no clip is left to practise with that the exported episodes do not show; "
                f"export fewer episodes, or give --no_practice"
            )
        return best

    def _row(self, video: int, start: int, end: int) -> tuple[int, np.ndarray, np.ndarray]:
        times = self._check_frame(video, end)
        frames = np.arange(start, end, self.subsample)
        return video, frames, seconds_shown(times, frames, self.subsample)

    def _check_frame(self, video: int, end: int) -> np.ndarray:
        """The times of a film that is there and has so many frames."""
        if video not in self._times:
            self.films.path(video)
            self._times[video] = self.films.times(video)
        if end > len(self._times[video]):
            raise InputError(
                f"{self.films.features}: {self.index.video_ids[video]} has {len(self._times[video])} frames, too few "
                f"for {self.index.path}; run generate_dataset.py again"
            )
        return self._times[video]

    def _where(self, clips: np.ndarray, video: int, frame: int, is_old: bool) -> Row:
        """In which clip (C, rows, 3) an old probe lies, and when the clip shows it."""
        for number, rows in enumerate(clips if is_old else ()):
            at_s = 0.0
            for row in rows:
                _, frames, seconds = self._row(*row.tolist())
                if row[0] == video and row[1] <= frame < row[2]:
                    before = int(np.searchsorted(frames, frame, "right")) - 1
                    return {"clip": number, "at_s": round(at_s + float(seconds[:before].sum()), 6)}
                at_s += float(seconds.sum())
        return {"clip": None, "at_s": None}


def draw_checks(num_clips: int, rng: np.random.Generator) -> list[Row]:
    """Attention checks, each some clips after the one before: after how many clips, and which key is asked for."""
    checks, after = [], 0
    while (after := after + int(rng.integers(CHECK_GAPS[0], CHECK_GAPS[1] + 1))) <= num_clips:
        checks.append({"after_clip": after, "key": LETTERS[rng.integers(len(LETTERS))]})
    return checks


def draw_orders(num_probes: int, num_orders: int, rng: np.random.Generator) -> list[list[int]]:
    """Orders in which the probes of an episode are asked: that of the index, then random ones."""
    return [[*range(num_probes)], *(rng.permutation(num_probes).tolist() for _ in range(num_orders - 1))]


def page_episode(episode: Mapping[str, Any], orders: list[list[int]] | None, tells: bool = False) -> Row:
    """What the page is told of an episode: no answers, but for those of the practice."""
    probes = [{"file": probe["file"]} | ({"is_old": probe["is_old"]} if tells else {}) for probe in episode["probes"]]
    clips = [
        {"file": clip["file"], "seconds": clip["seconds"], "frames_total": clip["num_frames"]}
        for clip in episode["clips"]
    ]
    told: Row = {"clips": clips, "probes": probes}
    if not tells:
        told["checks"] = [dict(check) for check in episode["checks"]]
        told["questions"] = [{k: row[k] for k in ("after_clip", "text", "keys")} for row in episode["questions"]]
        told["pairs"] = [{"left": pair["left"], "right": pair["right"]} for pair in episode["pairs"]]
    if orders is not None:
        told["orders"] = orders
    return told


def _lies_in(probe: np.ndarray, rows: np.ndarray) -> bool:
    return any(probe[0] == row[0] and row[1] <= probe[1] < row[2] for row in rows)


def _overlaps(row: Any, seen: np.ndarray, asked: np.ndarray) -> bool:
    """Whether frames of a film, [film, first, end), are in the rows `seen` (n, 3) or among those `asked` (m, 2)."""
    video, start, end = row
    in_rows = (seen[:, 0] == video) & (seen[:, 1] < end) & (start < seen[:, 2])
    return bool(in_rows.any() or ((asked[:, 0] == video) & (start <= asked[:, 1]) & (asked[:, 1] < end)).any())
