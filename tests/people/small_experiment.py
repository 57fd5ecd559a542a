"""A small experiment folder as the export writes it, made of real clips and pictures: 3 clips, 12 probes, 2 pairs."""

import json
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from conftest import ROOT

BROWSER = ROOT / "recognition/people/browser"
PLUGINS = (
    *("browser-check", "fullscreen", "html-button-response", "html-keyboard-response", "image-keyboard-response"),
    *("instructions", "preload", "survey-html-form", "video-keyboard-response"),
)
FPS, CLIP_S, WIDTH, HEIGHT = 20, 0.6, 320, 180
QUICK = {
    **{"cross_s": 0.1, "probe_cross_s": 0.05, "picture_s": 0.3, "answer_s": 1.2, "check_s": 1.2, "pair_s": 0.3},
    **{"feedback_s": 0.2, "break_every": 2, "input": "keys", "scale": "old_first", "frames": "all", "retry_s": 0.05},
    **{"width": WIDTH, "height": HEIGHT},
}
EPISODE: dict[str, Any] = {
    "clips": [
        {"file": f"stimuli/0/clips/{k:03d}.mp4", "seconds": CLIP_S, "frames_total": int(FPS * CLIP_S)} for k in range(3)
    ],
    "probes": [{"file": f"stimuli/0/probes/{k:03d}.jpg"} for k in range(12)],
    "checks": [{"after_clip": 1, "key": "k"}, {"after_clip": 3, "key": "m"}],
    "questions": [{"after_clip": 2, "text": "Was <b>somebody</b> there?", "keys": ["j", "n"]}],
    "pairs": [{"left": f"stimuli/0/pairs/{k}l.jpg", "right": f"stimuli/0/pairs/{k}r.jpg"} for k in range(2)],
}
PRACTICE: dict[str, Any] = {
    "clips": [{"file": "stimuli/practice/clips/000.mp4", "seconds": CLIP_S}],
    "probes": [{"file": f"stimuli/practice/probes/{k:03d}.jpg", "is_old": k == 0} for k in range(2)],
}


def write_experiment(folder: Path, library: Path, text: dict | None = None, **settings: Any) -> Path:
    """Write the experiment; `library` is what `lib` of another is, or a folder that npm filled."""
    shutil.copytree(BROWSER, folder, ignore=shutil.ignore_patterns("*.json"))
    shutil.copytree(library, folder / "lib")
    rng = np.random.default_rng(0)
    for episode in (EPISODE, PRACTICE):
        for clip in episode["clips"]:
            write_clip(folder / clip["file"], rng)
        files = [probe["file"] for probe in episode["probes"]]
        for file in files + [pair[side] for pair in episode.get("pairs", []) for side in ("left", "right")]:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / file), blocks(rng))
    words = json.loads((BROWSER / "text.json").read_text(encoding="utf-8")) | (text or {})
    experiment = {
        **{"format_version": 1, "experiment": "0123456789abcdef", "settings": QUICK | settings, "text": words},
        **{"practice": PRACTICE, "episodes": {"0": EPISODE}},
    }
    (folder / "timeline.js").write_text(f"const EXPERIMENT = {json.dumps(experiment)};\n", encoding="utf-8")
    return folder


def blocks(rng: np.random.Generator) -> np.ndarray:
    """A picture that differs from all others, (HEIGHT, WIDTH, 3) uint8."""
    return rng.integers(0, 256, (9, 16, 3), np.uint8).repeat(20, 0).repeat(20, 1)


def write_clip(path: Path, rng: np.random.Generator) -> None:
    """A clip of moving blocks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as file:
        stream = file.add_stream("libx264", rate=FPS, options={"bf": "0", "crf": "18"})
        stream.width, stream.height, stream.pix_fmt, stream.time_base = WIDTH, HEIGHT, "yuv420p", Fraction(1, FPS)
        picture = blocks(rng)
        for k in range(int(FPS * CLIP_S)):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(picture, 8 * k, 1), format="rgb24")))
        file.mux(stream.encode())


def write_library(folder: Path) -> Path:
    """The files of jsPsych that a page needs, by npm; skips the test where there is no npm or nobody to ask."""
    modules = folder / "node_modules"
    packages = ["jspsych@8.3.0", *(f"@jspsych/plugin-{name}" for name in PLUGINS)]
    if not shutil.which("npm"):
        pytest.skip("needs npm: apt-get install npm")
    words = ("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", folder, *packages)
    result = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip(f"npm: {result.stderr[-300:]}")
    library = folder / "lib"
    library.mkdir()
    shutil.copy(modules / "jspsych/css/jspsych.css", library)
    names = {"jspsych": "jspsych"} | {f"plugin-{name}": f"@jspsych/plugin-{name}" for name in PLUGINS}
    for name, package in names.items():
        text = (modules / package / "dist/index.browser.min.js").read_text(encoding="utf-8")
        (library / f"{name}.js").write_text(text.partition("\n//# sourceMappingURL")[0], encoding="utf-8")
    return library
