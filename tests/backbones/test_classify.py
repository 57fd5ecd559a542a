"""The command that learns to name what happens in films: what it writes, and that nothing is lost on the way."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import metrics_of, refusal, run_here, run_script
from forking import Forked
from safetensors.torch import load_file

from backbones.action_films import write_action_films
from backbones.answers import Answers
from recognition.common.files import sha256
from recognition.features.backbone import Backbone
from recognition.features.weights_file import read_eye

CONFIG = """
data: {list: films/list.csv, videos: films, workers: 0, validation_share: 0.34}
clip: {frames: 4, stride: 3, side: 32}
augmentation: {preset: none, area: null, flip: 0}
network: {name: r3d_mini, width: 4}
test: {clips: 2, crops: 1}
training: {optimizer: sgd, learning_rate: 0.05, schedule: cosine, n_epochs: 4, warmup_epochs: 1, batch_size: 4,
           device: cpu}
"""
CLASSIFY = "backbones.classify"


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with films of eight actions, a YAML file, and a finished run. Read only."""
    folder = tmp_path_factory.mktemp("room")
    assert len(list(write_action_films(folder / "films", "eight", 24, 9))) == 33
    (folder / "run.yaml").write_text(CONFIG)
    result = run_here(CLASSIFY, "-f", "run.yaml", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "test top-1" in result.stdout
    return folder


@pytest.fixture
def away(room: Path, tmp_path: Path) -> Path:
    """A folder with the same films, and no run."""
    shutil.copytree(room / "films", tmp_path / "films")
    shutil.copy(room / "run.yaml", tmp_path)
    return tmp_path


def scores_of(run: Path) -> dict:
    return json.loads((run / "test.json").read_text())


def contents(run: Path) -> dict[str, str]:
    return {str(path.relative_to(run)): sha256(path) for path in run.rglob("*") if path.is_file()}


def test_run_has_all_that_was_promised(room: Path):
    run = room / "runs/run"
    names = (
        "weights.safetensors films.txt train_results.csv val_results.csv test.json answers.npz classes.csv report.html"
    )
    assert all((run / name).is_file() for name in names.split())
    assert [line["epoch"] for line in metrics_of(run)] == [1, 2, 3, 4]
    assert len((run / "val_results.csv").read_text().splitlines()) == 5
    digests = {sha256(path) for path in (room / "films").iterdir()}
    learned = (run / "films.txt").read_text().split()
    assert len(learned) == 16  # 24, less a third for validation
    assert set(learned) < digests


def test_scores_are_those_of_the_answers_and_answers_those_of_the_weights(room: Path):
    run = room / "runs/run"
    answers, told = Answers.load(run / "answers.npz"), scores_of(run)
    order = np.argsort(-answers.probabilities, axis=1, kind="stable")
    assert told["top1"] == (order[:, 0] == answers.labels).mean()
    assert told["top5"] == (order[:, :5] == answers.labels[:, None]).any(1).mean()
    assert told["clip_top1"] == pytest.approx(answers.view_right[:, 0].mean())
    by_class = [(order[answers.labels == k, 0] == k).mean() for k in np.unique(answers.labels)]
    assert told["mean_class_accuracy"] == pytest.approx(np.mean(by_class))
    assert told["num_films"] == 9
    assert told["views"] == {"clips": 2, "crops": 1}
    assert told["controls"].keys() == {"majority", "repeated", "shuffled", "reversed"}
    assert told["gates"] is None


def test_weights_are_those_of_the_best_epoch_and_a_backbone_for_memories(room: Path):
    run = room / "runs/run"
    weights, best = load_file(run / "weights.safetensors"), load_file(run / "checkpoints/best.safetensors")
    assert torch.equal(weights["fc.weight"], best["head.weight"])
    assert torch.equal(weights["stem.0.weight"], best["backbone.network.stem.0.weight"])
    eye = read_eye(run / "weights.safetensors")
    assert (eye.name, eye.width, eye.frames, eye.fps, eye.side, eye.run) == ("r3d_mini", 4, 4, 5.0, 32, "run")
    assert eye.classes[:2] == ("anticlockwise", "clockwise")
    backbone = Backbone("r3d_mini", str(run / "weights.safetensors"), torch.device("cpu"))
    assert backbone.num_features == 32
    assert len(backbone.films) == 16


def test_weights_begin_another_run_a_linear_probe_of_several_rates(room: Path, away: Path):
    words = (
        "classifier.train=linear",
        "classifier.cached_views=2",
        "classifier.rates=[0.02,0.5]",
        "training.n_epochs=2",
    )
    weights = room / "runs/run/weights.safetensors"
    result = run_here(CLASSIFY, "-f", "run.yaml", *words, f"network.weights={weights}", cwd=away)
    assert result.returncode == 0, result.stderr
    first, then = load_file(weights), load_file(away / "runs/run/weights.safetensors")
    for name in first:
        assert torch.equal(first[name], then[name]) != name.startswith("fc.")
    again = run_here(CLASSIFY, "--test", "runs/run", cwd=away)
    assert again.returncode == 0, again.stderr
    line = [line for line in result.stdout.splitlines() if line.startswith("test top-1")]
    assert line == [line for line in again.stdout.splitlines() if line.startswith("test top-1")]


def test_scoring_anew_changes_what_is_said_of_views_and_nothing_else_of_the_run(room: Path, tmp_path: Path):
    shutil.copytree(room, tmp_path / "room")
    run = tmp_path / "room/runs/run"
    before = contents(run)
    assert run_here(CLASSIFY, "--test", run, cwd=room).returncode == 0
    assert contents(run)["test.json"] == before["test.json"]
    assert contents(run)["answers.npz"] == before["answers.npz"]
    result = run_here(CLASSIFY, "--test", run, "test.clips=1", "test.crops=3", "test.batch_size=5", cwd=room)
    assert result.returncode == 0, result.stderr
    assert scores_of(run)["views"] == {"clips": 1, "crops": 3}
    changed = {name for name, digest in contents(run).items() if digest != before[name]}
    assert {"test.json", "answers.npz"} <= changed <= {"test.json", "answers.npz", "classes.csv", "report.html"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--test", "runs/run", "network.width=8"],
            "network.width=8: is not for a run that is trained; with --test set",
        ),
        (["--test", "runs/none"], "runs/none"),
        (["--test", "runs/run", "-f", "run.yaml"], "one of -f CONFIG and --test RUN is needed"),
        (["-f", "run.yaml"], "runs/run exists: go on with it by --resume"),
        (["-f", "run.yaml", "--resume", "clip.frames=8"], "was started with clip.frames = 4, now it is 8"),
        (["-f", "run.yaml", "name=x", "classifier.rates=[1]"], "classifier.rates: learn from cached views; set"),
        (["-f", "run.yaml", "name=x", "classifier.cached_views=2"], "classifier.cached_views: is for classifier.train"),
        (["-f", "run.yaml", "name=x", "training.batch_size=99"], "training.batch_size: 99, but there are 16 items"),
        (["-f", "run.yaml", "name=x", "network.weights=w.pt"], "network.weights: "),
        (["-f", "run.yaml", "name=x", "data.list=null"], "data.list: is missing"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_nothing_is_written(words: list[str], told: str, room: Path):
    before = contents(room)
    assert told in refusal(run_here(CLASSIFY, *words, cwd=room))
    assert contents(room) == before


def test_finished_run_is_told_and_left_alone(room: Path):
    before = contents(room)
    result = run_here(CLASSIFY, "-f", "run.yaml", "--resume", cwd=room)
    assert result.returncode == 0
    assert "runs/run is finished; its scores: {" in result.stdout
    assert contents(room) == before


@pytest.mark.parametrize("words", [("-f", "run.yaml", "--resume"), ("--test", "runs/run")])
def test_list_that_has_changed_since_is_refused(words: tuple[str, ...], room: Path, away: Path):
    shutil.copytree(room / "runs", away / "runs")
    (away / "runs/run/test.json").unlink()
    text = (away / "films/list.csv").read_text()
    (away / "films/list.csv").write_text(text.replace("left_0000.mp4,left,train\n", "", 1))
    assert "films/list.csv has changed since runs/run was trained on its films" in refusal(
        run_here(CLASSIFY, *words, cwd=away)
    )


def test_run_that_a_scheduler_stopped_goes_on_to_the_same_end(room: Path, away: Path):
    process = Forked(
        [CLASSIFY, "-f", "run.yaml"],
        cwd=away,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics, deadline = away / "runs/run/metrics.jsonl", time.monotonic() + 60
    while not (metrics.exists() and metrics.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert err.splitlines()[-1].endswith("the same command goes on")
    assert (away / "runs/run/checkpoints/last.pt").exists()
    assert not (away / "runs/run/test.json").exists()
    result = run_here(CLASSIFY, "-f", "run.yaml", "--resume", "data.workers=2", cwd=away)
    assert result.returncode == 0, result.stderr
    run, whole = away / "runs/run", room / "runs/run"
    assert metrics_of(run) == metrics_of(whole)
    assert (run / "test.json").read_text() == (whole / "test.json").read_text()
    same = "checkpoints/best.safetensors", "weights.safetensors", "classes.csv"
    assert all((run / name).read_bytes() == (whole / name).read_bytes() for name in same)


def test_two_processes_train_to_their_end_and_score_as_one(away: Path):
    words = ("training.num_devices=2", "training.n_epochs=2", "classifier.norms=precise")
    result = run_script(CLASSIFY, "-f", "run.yaml", *words, cwd=away, timeout=100, forks=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("test top-1") == 1
    told = scores_of(away / "runs/run")
    assert run_here(CLASSIFY, "--test", "runs/run", "training.num_devices=1", cwd=away).returncode == 0
    assert scores_of(away / "runs/run") == told


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("is_there", [False, True])
def test_film_that_is_lost_after_the_start_ends_the_run_in_one_line(
    num_workers: int, is_there: bool, away: Path, monkeypatch: pytest.MonkeyPatch
):
    from recognition.training import session

    film, fit = away / "films/up_0002.mp4", session.fit

    def spoiled(*args: object) -> object:
        content = film.read_bytes()
        film.unlink()
        if is_there:
            film.write_bytes(content[: len(content) // 2])
        return fit(*args)

    monkeypatch.setattr(session, "fit", spoiled)
    words = ("data.validation_share=0", "training.n_epochs=1", f"data.workers={num_workers}", "training.batch_size=8")
    result = run_here(CLASSIFY, "-f", "run.yaml", *words, cwd=away)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert "up_0002.mp4" in last
    assert last.endswith("; it was whole when this training began")


def test_gates_are_told_and_multigrid_says_its_table(away: Path):
    text = CONFIG.replace("frames: 4, stride: 3", "frames: 8, stride: 2").replace("cosine", "steps, rate_steps: [1]")
    text = text.replace("n_epochs: 4", "n_epochs: 2").replace("batch_size: 4", "batch_size: 2")
    text = text.replace("width: 4", "width: 4, temporal_gates: {fuse: residual, stages: [1, 2]}")
    (away / "run.yaml").write_text(text + "multigrid: {short: true, precise_batches: 1}\n")
    result = run_here(CLASSIFY, "-f", "run.yaml", cwd=away)
    assert result.returncode == 0, result.stderr
    assert "rate  clips x frames x side\n" in result.stdout
    assert "8 x 8 x 16, 4 x 8 x 23, 2 x 8 x 32\n" in result.stdout
    assert "clips/s must be read" in result.stdout
    gates = scores_of(away / "runs/run")["gates"]
    assert len(gates) == 2
    assert all(0 <= row["openness"] <= 1 for row in gates)


def test_list_without_test_films_ends_without_scores(away: Path):
    path = away / "films/list.csv"
    path.write_text("".join(line for line in path.open() if not line.rstrip().endswith("test")))
    result = run_here(CLASSIFY, "-f", "run.yaml", "training.n_epochs=1", cwd=away)
    assert result.returncode == 0, result.stderr
    assert "has no test films" in result.stdout
    assert not (away / "runs/run/test.json").exists()
    assert (away / "runs/run/weights.safetensors").exists()


def test_reading_is_measured_without_a_run(room: Path):
    before = contents(room)
    result = run_here(CLASSIFY, "-f", "run.yaml", "--measure_reading", 1, cwd=room)
    assert result.returncode == 0, result.stderr
    assert "clips of 4 x 32 x 32 a second while they are busy" in result.stdout
    assert contents(room) == before


def test_help_tells_every_setting(room: Path):
    told = run_here(CLASSIFY, "--help", cwd=room)
    assert told.returncode == 0
    for words in ("classifier.rates_of.loaded", "augmentation.short_side", "multigrid.bn_clips", "--measure_reading"):
        assert words in told.stdout
