"""A small experiment as `participants export` writes it: 3 clips, 12 probes in two orders, 2 pairs."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numbered_films import write_episodes, write_films

from recognition.common.command_line import ArgumentParser, Failure, InputError
from recognition.people import experiment, export
from recognition.people.experiment import page_episode
from recognition.people.key import Key, read_key, write_key

STUDY = [[[0, 0, 12], [1, 4, 16], [2, 20, 32]], [[0, 30, 42], [1, 0, 12], [2, 22, 34]]]
KINDS = ("old", "far", "far", "old", "old", "far", "old", "far", "far", "old", "far", "old")
PROBES = [
    [[0, 2], [0, 20], [1, 30], [1, 5], [2, 21], [2, 40], [0, 9], [0, 25], [1, 43], [1, 14], [2, 8], [2, 30]],
    [[0, 33], [1, 44], [0, 20], [0, 35], [1, 2], [1, 30], [1, 10], [2, 40], [0, 25], [2, 23], [1, 43], [2, 33]],
]  # of the second episode one clip and two pictures are left to practise with
OPTIONS = (
    *("--cross_s=0.1", "--probe_cross_s=0.1", "--picture_s=0.3", "--pair_s=0.3", "--answer_s=1.2", "--check_s=1.2"),
    *("--break_every=2", "--size=320x180", "--order_task=2", "--orders=2", "--scale=old_first", "--seed=1"),
)
QUICK = {"feedback_s": 0.2, "retry_s": 0.05}  # what the page takes its time for
QUESTION = "Was <b>somebody</b> there?"


def export_small(folder: Path) -> Path:
    """Export it; skips the test where jsPsych cannot be had."""
    folder.mkdir()
    write_films(folder)
    write_episodes(folder, STUDY, PROBES, KINDS)
    (folder / "questions.csv").write_text(f"episode,after_clip,text,answer\n0,2,{QUESTION},y\n")
    parser = ArgumentParser()
    export.add_arguments(parser)
    given = ("--videos", folder, "--output", folder / "experiment", "--questions", folder / "questions.csv")
    args = parser.parse_args([str(folder / "test_indices.h5"), *map(str, given), "--workers=0", *OPTIONS])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "CHECK_GAPS", (1, 2))  # clips from check to check
        try:
            export.main(args)
        except (Failure, InputError) as error:
            if "npm" in str(error):
                pytest.skip(str(error))
            raise
    return folder / "experiment"


def told(folder: Path) -> dict[str, Any]:
    """What the page is told."""
    return json.loads((folder / "timeline.js").read_text().removeprefix("const EXPERIMENT = ").removesuffix(";\n"))


def changed_copy(source: Path, folder: Path, text: dict[str, str] | None = None, **settings: Any) -> Path:
    """A copy with other settings and words, whose key is the same."""
    shutil.copytree(source, folder)
    with open(folder / "timeline.js", "a") as file:
        for name, values in (("settings", QUICK | settings), ("text", text or {})):
            file.write(f"Object.assign(EXPERIMENT.{name}, {json.dumps(values)});\n")
    return folder


def enlarged_copy(source: Path, folder: Path) -> Key:
    """A copy with 90 clips and 180 probes, of files that are not there; returns its key."""
    key = read_key(source.with_name("experiment.key.json"))
    small, big = key.episodes["0"], {"clips": [], "probes": [], "pairs": [], "checks": [], "questions": []}
    for k in range(30):
        big["clips"] += [clip | {"file": clip["file"].replace("0/", f"{k}-0/")} for clip in small["clips"]]
    for k in range(15):
        for probe in small["probes"]:
            clip = None if probe["clip"] is None else 3 * k + probe["clip"]
            big["probes"].append(probe | {"file": probe["file"].replace("0/", f"{k}-0/"), "clip": clip})
    key = Key(key.index_file, key.index_sha256, key.settings, key.practice, {"0": big})
    shutil.copytree(source, folder)
    page = told(source) | {"experiment": key.experiment, "episodes": {"0": page_episode(big, None)}}
    page["settings"] |= QUICK | {"cross_s": 1, "picture_s": 1.5, "answer_s": 10, "break_every": 30}
    (folder / "timeline.js").write_text(f"const EXPERIMENT = {json.dumps(page)};\n")
    write_key(folder.with_name(f"{folder.name}.key.json"), key)
    return key


def place_in_study(picture: np.ndarray) -> int:
    """The place of the clip and frame that a picture shows, among all that are studied."""
    from numbered_films import COLOURS, number_in

    film = int(np.abs(COLOURS - picture[-10, picture.shape[1] // 2]).sum(1).argmin())
    return [(clip[0], frame) for clip in STUDY[0] for frame in range(*clip[1:])].index((film, number_in(picture)))
