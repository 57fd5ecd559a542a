"""A folder with a table of captions, features of its films and a YAML file, for the tests of this room's commands."""

import importlib.util
import io
import multiprocessing
import os
import shutil
import signal
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported

import conftest
import pytest
import torch
from conftest import run_here, write_features
from language_folder import folder as language_folder

from captioning.captioning_task import CaptioningTask
from captioning.captions import Caption, write_captions
from captioning.films import draw_film
from recognition.common import command_line

CONFIG = """
data: {captions: captions.csv, video_path: features, frames_per_clip: 3, jitter: true}
memory: {width: 8, args: {n_heads: 2, kv_heads: 2, k: 4}}
mapper: {kind: mlp, prefix_length: 4}
language_model: {path: made-of-captions, train: both}
generation: {num_beams: 1, max_new_tokens: 12}
training: {learning_rate: 0.005, n_epochs: 2, batch_size: 2, device: cpu, num_workers: 1}
"""
TRAIN, GENERATE = "captioning.train", "captioning.generate"
SPLITS = ["train"] * 6 + ["validation"] * 2 + ["test"] * 3
NUM_STEPS = 6  # of two epochs of six films, two at a time
_finished: list[Path] = []


def make_room(folder: Path) -> Path:
    """Films of two to four clips of half a second, whose features say nothing."""
    num_clips = [2 + number % 3 for number in range(len(SPLITS))]
    write_features(folder / "features", [15 * num for num in num_clips])
    rows = [
        Caption(f"film_{number}", slots.clip, slots.clip / 2, (slots.clip + 1) / 2, slots.caption, split, "")
        for number, split in enumerate(SPLITS)
        for slots in draw_film(number, 0)[: num_clips[number]]
    ]
    write_captions(folder / "captions.csv", rows)
    (folder / "run.yaml").write_text(CONFIG)
    return folder


def finished_room(factory: pytest.TempPathFactory) -> Path:
    """A room with a finished run, and a language model in a folder. Made once for all tests; read only."""
    if not _finished:
        folder = make_room(factory.mktemp("room"))
        shutil.copytree(language_folder(), folder / "language")
        assert "test cider d" in train(folder)
        _finished.append(folder)
    return _finished[0]


def copy_room(room: Path, folder: Path) -> Path:
    """The same without a run."""
    shutil.copytree(room, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("runs"))
    return folder


def train(folder: Path, *words: object, status: int = 0) -> str:
    """Train in this process; returns what was printed."""
    result = run_here(TRAIN, "-f", "run.yaml", *words, cwd=folder)
    assert result.returncode == status, result.stderr
    return result.stdout


def train_apart(folder: Path, *words: object) -> BaseProcess:
    """Train in a process forked from this one, which spares it the imports. Its exit code is the command's status, and
    what it and those that it starts print is in log.txt."""

    def main() -> None:
        torch.set_num_threads(1)  # others do not live on in a fork
        os.chdir(folder)
        log = os.open("log.txt", os.O_CREAT | os.O_WRONLY)
        for number in (1, 2):
            os.dup2(log, number)
        sys.stdout = sys.stderr = io.TextIOWrapper(io.FileIO(1, "w"), line_buffering=True)
        sys.argv = [TRAIN, "-f", "run.yaml", *map(str, words)]
        command, environment = conftest.command(TRAIN)
        os.environ.update(environment)
        sys.modules["__main__"].__spec__ = importlib.util.find_spec(command[-1])  # by which Fabric starts others alike
        command_line.run(importlib.import_module(TRAIN).main)

    process = multiprocessing.get_context("fork").Process(target=main)
    process.start()
    return process


def train_with_stops(folder: Path, *words: object, num_steps: int = NUM_STEPS) -> Path:
    """Train, stopped by a signal in every step and begun again; returns the run's folder."""
    loss = CaptioningTask.loss

    def and_stop(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return loss(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CaptioningTask, "loss", and_stop)
        for _ in range(num_steps):
            train(folder, "--resume", *words, status=75)
    train(folder, "--resume", *words)
    return folder / "runs/run"
