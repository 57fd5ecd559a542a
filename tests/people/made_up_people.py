"""People who were never there: a key as export writes it, and sessions as the page of an experiment writes them."""

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from recognition.common.files import sha256
from recognition.episodes.episode_spec import CLIP_KINDS, PROBE_KINDS
from recognition.episodes.index_file import read_index
from recognition.people.key import Key

FPS, CLIP_S, PROBE_S = 30.0, 0.3, 3.0


def made_key(index_file: Path, numbers: tuple[int, ...] = (0, 1), **settings: Any) -> Key:
    """The key of some episodes of an index, with an attention check after every clip and a pair for every clip."""
    index = read_index(index_file)
    episodes = {str(n): _episode(index, n) for n in numbers}
    practice = _episode(index, len(index) - 1) | {"pairs": [], "checks": []}
    settings = {"answer_s": 10, "frames": "all", "subsample": 2} | settings
    return Key(str(index_file), sha256(index_file), settings, practice, episodes)


def _episode(index, n: int) -> dict[str, Any]:
    study, probes, is_old, kind = (part[n] for part in index.episodes)
    clips = [
        {
            "file": f"stimuli/{n}/clips/{k:03}.mp4",
            "rows": [[index.video_ids[video], int(start), int(end)]],
            "kind": CLIP_KINDS[k % 3],
            "num_frames": int(end - start),
            "seconds": float(end - start) / FPS,
            "sha256": "0" * 64,
        }
        for k, (video, start, end) in enumerate(study)
    ]
    told = []
    for k, (video, frame) in enumerate(probes):
        inside = (study[:, 0] == video) & (study[:, 1] <= frame) & (frame < study[:, 2])
        clip = int(inside.argmax()) if is_old[k] else None
        told.append(
            {
                "file": f"stimuli/{n}/probes/{k:03}.jpg",
                "video_id": index.video_ids[video],
                "frame": int(frame),
                "is_old": bool(is_old[k]),
                "kind": PROBE_KINDS[kind[k]],
                "clip": clip,
                "at_s": None if clip is None else float(frame - study[clip, 1]) / FPS,
                "sha256": "0" * 64,
            }
        )
    pairs = []
    for k, clip in enumerate(clips):
        first, second = (f"stimuli/{n}/pairs/{2 * k + side:03}.jpg" for side in (0, 1))
        left, right = (first, second) if k % 2 else (second, first)
        pairs.append(
            {
                "first_file": first,
                "second_file": second,
                "left": left,
                "right": right,
                "earlier": "left" if k % 2 else "right",
                "clip": k,
                "distance_frames": 4,
                "clip_kind": clip["kind"],
            }
        )
    checks = [{"after_clip": k + 1, "key": "kxq"[k % 3]} for k in range(len(clips))]
    return {"clips": clips, "probes": told, "pairs": pairs, "checks": checks, "questions": []}


def made_rows(
    key: Key,
    participant: str,
    grades: list[float],
    episode: str = "0",
    scale: str = "old_first",
    order: str = "",
    fails: int = 0,
    session: str = "",
) -> list[dict[str, Any]]:
    """The rows of a session in which `grades` were given to the first probes, nan for no answer, and the keys `order`
    to the first pairs."""
    session = session or str(uuid.UUID(int=int.from_bytes(participant.encode()[:8].ljust(16, b"\7"), "big")))
    head = {"experiment": key.experiment, "format_version": 1, "session": session, "participant": participant}
    head |= {"episode": int(episode), "scale": scale, "frames": "all", "resumed": 0}
    shown, rows, at = key.episodes[episode], [], 5000
    rows.append({"part": "browser", "browser": "chrome", "browser_version": "156", "os": "Linux", "vsync_rate": 60})
    rows.append({"part": "practice", "number": 0, "task": "test", "response": "1", "rt": 500, "onset": 3000})
    for k, clip in enumerate(shown["clips"]):
        frames = {"frames_shown": clip["num_frames"], "frames_dropped": 0, "frames_total": clip["num_frames"]}
        seen = {"file": clip["file"], "seconds": clip["seconds"], "onset": at, "left": 0}
        rows.append({"part": "study", "number": k, **frames, **seen})
        expected = shown["checks"][k]["key"]
        rows.append({"part": "check", "number": k, "expected": expected, "response": None if k < fails else expected})
        rows[-1]["rt"] = None if k < fails else 700
        at += 2000
    keys = {"old_first": (3, 2, 1, -1, -2, -3), "new_first": (-3, -2, -1, 1, 2, 3)}[scale]
    for k, grade in enumerate(grades):
        response = None if np.isnan(grade) else str(keys.index(grade) + 1)
        told = {"response": response, "rt": None if response is None else 1000 + 10 * k, "onset": at, "left": 0}
        rows.append({"part": "test", "number": k, "file": shown["probes"][k]["file"], **told})
        at += int(1000 * PROBE_S)
    for k, pressed in enumerate(order):
        rows.append({"part": "order", "number": k, "response": pressed, "rt": 900, "onset": at, "left": 0})
        at += 3000
    return [{"trial_type": "x", "time_elapsed": k, **row, **head} for k, row in enumerate(rows)]


def right_grades(key: Key, episode: str = "0") -> list[float]:
    """Surely right answers to all probes."""
    return [3 if probe["is_old"] else -3 for probe in key.episodes[episode]["probes"]]


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Rows as jsPsych writes its CSV: all columns, all quoted, null for null, nothing for what is missing."""
    columns = list(dict.fromkeys(name for row in rows for name in row))

    def field(row: dict[str, Any], name: str) -> str:
        value = row.get(name, "")
        text = value if isinstance(value, str) else json.dumps(value)
        return '"' + text.replace('"', '""') + '"'

    lines = [[f'"{name}"' for name in columns], *([field(row, name) for name in columns] for row in rows)]
    return "".join(",".join(line) + "\r\n" for line in lines)
