"""What several test files share: small films, made-up features, and the scripts run as a user runs them."""

import importlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from chromium import browser, opened  # noqa: F401, fixtures for all
from forking import ROOT, Forked
from hypothesis import HealthCheck, settings
from live_run import live_run  # noqa: F401, so is this

import train
from recognition.common import command_line
from recognition.features.feature_file import FeatureHeader, FeatureSpool

os.environ["OMP_NUM_THREADS"] = "1"  # several tests at once share few cores; also for the scripts they start
os.environ.setdefault("NUMBA_CACHE_DIR", str(ROOT / ".pytest_cache" / "numba"))  # else each process compiles kernels

# The same examples in every run, so that CI tells of changes alone; --hypothesis-profile=thorough draws many others.
settings.register_profile(
    "stable",
    max_examples=200,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("thorough", settings.get_profile("stable"), max_examples=10_000, derandomize=False)
settings.load_profile("stable")


def run_script(
    script: str, *words: object, cwd: Path, timeout: float | None = None, **options
) -> subprocess.CompletedProcess[str]:
    """Run a script of the project, such as train.py, or a command, such as recognition.sweep, or `-c` and code, in
    folder `cwd`, in a process of its own that is forked; returns what it printed and its status."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with Forked([script, *words], cwd=cwd, **pipes, **options) as ran:
        try:
            out, err = ran.communicate(timeout=timeout)
        except BaseException:
            ran.kill()
            raise
    return subprocess.CompletedProcess([script, *map(str, words)], ran.returncode, out, err)


def run_anew(script: str, *words: object, cwd: Path, **options) -> subprocess.CompletedProcess[str]:
    """As `run_script`, but Python starts anew, as for a user: for what depends on that, and once for every script."""
    started, environment = command(script)
    environment |= options.pop("env", os.environ)
    return subprocess.run(
        [*started, *map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True, **options
    )


def run_here(script: str, *words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """As `run_script`, but in this process."""
    main = importlib.import_module(script.removesuffix(".py")).main
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", [str(ROOT / script), *map(str, words)])
        patch.chdir(cwd)
        with pytest.raises(SystemExit) as ended:
            command_line.run(main)
        return subprocess.CompletedProcess(sys.argv, ended.value.code, out.getvalue(), err.getvalue())


def command(script: str) -> tuple[list[str], dict[str, str]]:
    """The words that start a script or a command of the project from any folder, and what the environment needs."""
    if script.endswith(".py"):
        return [sys.executable, str(ROOT / script)], {}
    return [sys.executable, "-m", script], {"PYTHONPATH": str(ROOT)}


def refusal(result: subprocess.CompletedProcess[str]) -> str:
    """The one line with which a script refused bad input; fails if it said more, less or exited otherwise."""
    assert result.returncode == 2, f"status {result.returncode}\n{result.stdout}{result.stderr}"
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr


def kill_at_random(
    command: Sequence[object], cwd: Path, num_kills: int, longest_s: float, once_it_speaks: bool
) -> None:
    """Kill -9 a script `num_kills` times, each at a random moment of its first `longest_s`.

    If `once_it_speaks`, that is after its first line.
    """
    rng = random.Random(0)
    for _ in range(num_kills):
        process = Forked(
            command,
            cwd=cwd,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        if once_it_speaks:
            process.stdout.readline()
        time.sleep(rng.uniform(0, longest_s))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def write_features(
    folder: Path,
    lengths: Sequence[int],
    num_features: int = 16,
    dtype: str = "float16",
    alter_every: int = 0,
    shot_length: int = 0,
) -> Path:
    """Feature files of films film_0, film_1, ... with made-up features, by a seed; no network and no video.

    Shots have `shot_length` frames each; they are not said if it is 0.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for k, num_frames in enumerate(lengths):
        rng = np.random.default_rng((7, k))
        header = FeatureHeader(
            f"film_{k}",
            f"{k:064d}",
            num_frames,
            30.0,
            64,
            48,
            "resnet18",
            "random:0",
            "0" * 64,
            "pyav",
            dtype,
            "float32",
            alter_every=alter_every,
        )
        features = rng.normal(size=(num_frames, num_features))
        altered = rng.normal(size=(header.num_altered, 3, num_features)) if alter_every else None
        shots = np.arange(0, num_frames, shot_length) if shot_length else None
        with FeatureSpool(folder / f"film_{k}.h5", np.dtype(dtype)) as spool:
            spool.append(features, np.arange(num_frames) / 30, altered)
            spool.finish(header, shots)
    return folder


# Of the 24 frames of `films` the batches leave a rest, and some have no altered frame.
SMALL_FEATURES = ("--backbone=shufflenet_v2_x0_5", "--weights=random:0", "--batch_size=5", "--alter_every=7")
SMALL_EPISODES = ("--n_clips=3", "--clip_length=9", "--clip_margin=4", "--n_tests=4", "--subsample=2")
SMALL_SPLITS = (
    "--n_samples_train=24",
    "--n_samples_validation=8",
    "--n_samples_test=8",
    "--validation_set_fraction=0.25",
)


@pytest.fixture(scope="session")
def small_bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with twelve films' made-up features and the index files of small episodes. Read only."""
    folder = write_features(tmp_path_factory.mktemp("bank"), [60 + 7 * k for k in range(12)])
    words = (*SMALL_EPISODES, *SMALL_SPLITS, f"--input_dir={folder}", f"--output_dir={folder}")
    assert run_here("generate_dataset.py", *words, cwd=folder).returncode == 0
    return folder


@pytest.fixture(scope="session")
def colour_films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three films and their features. Read only."""
    from colour_films import write_colour_films  # not above: a machine for GPU tests alone has no package for films

    folder = tmp_path_factory.mktemp("colours")
    write_colour_films(folder)
    return folder


@pytest.fixture
def preprocess() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run step 2 in this process; decoding has no process of its own."""
    return lambda *words: run_here("preprocess_videos.py", "--workers=0", *words, cwd=Path.cwd())


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four films of 24 frames. Read only."""
    from recognition.films.synthetic import write_films

    folder = tmp_path_factory.mktemp("films")
    assert len(list(write_films(folder, 4, duration_s=2, fps=12))) == 4
    return folder


@pytest.fixture(scope="session")
def finished(films: Path) -> Path:
    """What an undisturbed run made of `films`. Read only."""
    result = run_script(
        "preprocess_videos.py", *SMALL_FEATURES, "--input_dir=.", "--output_dir=features", "--workers=1", cwd=films
    )
    assert result.returncode == 0, result.stderr
    assert "These weights have learned nothing" in result.stdout
    return films / "features"


@pytest.fixture
def write_yaml(tmp_path: Path) -> Callable[[str], Path]:
    """Write the text of a YAML file below tmp_path; returns its path."""

    def write(text: str, name: str = "run.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def stand_in(tmp_path: Path) -> Callable[[str], Path]:
    """An interpreter that does what a line of shell says instead of running Python."""

    def write(text: str) -> Path:
        path = tmp_path / "python"
        path.write_text(f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(0o755)
        return path

    return write


def config_text(bank: Path, model: str = "transformer", args: str = "{d_embed: 8, dropout: 0.1}", **training) -> str:
    """A YAML file's text for a small run on the episodes in `bank`."""
    settings = {"n_epochs": 3, "batch_size": 4, "num_workers": 0, "device": "cpu"} | training
    return f"""
dataset:
  train_indices_file: {bank}/train_indices.h5
  test_indices_file: {bank}/test_indices.h5
  video_path: {bank}
  fresh_episodes: true
model: {{model: {model}, args: {args}}}
training: {json.dumps(settings)}
"""


@pytest.fixture
def train_here(tmp_path: Path, small_bank: Path, write_yaml: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Train in this process, with overrides as on the command line; returns the run's folder."""

    def run(*words: str, text: str = "", name: str = "run") -> Path:
        path = write_yaml(text or config_text(small_bank), f"{name}.yaml")
        monkeypatch.setattr(sys, "argv", ["train.py", "-f", str(path), f"--runs_dir={tmp_path / 'runs'}", *words])
        train.main()
        return tmp_path / "runs" / name

    return run


def metrics_of(run: Path) -> list[dict]:
    """The lines of metrics.jsonl without the time they took."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def assert_same_run(run: Path, other: Path) -> None:
    """Equal to the last bit: metrics, weights, optimiser, test scores."""
    import torch  # not before the number of threads is set

    assert metrics_of(run) == metrics_of(other)
    assert (run / "test.json").read_text() == (other / "test.json").read_text()
    assert (run / "checkpoints/best.safetensors").read_bytes() == (other / "checkpoints/best.safetensors").read_bytes()
    states = [torch.load(path / "checkpoints/last.pt", weights_only=True) for path in (run, other)]
    torch.testing.assert_close(*states, rtol=0, atol=0)
