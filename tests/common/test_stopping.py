"""A scheduler's request to stop: training ends after its step, goes on from there, and nothing can be told from it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT, assert_same_run, config_text, metrics_of, run_script
from forking import Forked

from recognition.common.stopping import Stopped, stopping_at_once, stopping_later
from recognition.training import episode_task as training
from recognition.training.runs import Run

LAST_STEP = 17  # of three epochs of six


def at_step(number: int, event: Callable[[], None]) -> Callable:
    """A stand-in for `learning_rate` that lets something happen in step `number`, counted from 0 over all epochs."""

    def learning_rate(step: int, *others) -> float:
        if step == number:
            event()
        return real(step, *others)

    real = training.learning_rate
    return learning_rate


def send(number: signal.Signals) -> Callable[[], None]:
    """Send this process a signal."""
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "step"), [*((signal.SIGTERM, step) for step in (0, 3, 5, 8, LAST_STEP)), (signal.SIGUSR1, 8)]
)
def test_stopped_run_goes_on_from_its_step_and_equals_an_uninterrupted_one(
    number: signal.Signals,
    step: int,
    train_here: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    whole = train_here(name="whole")
    with monkeypatch.context() as patch:
        patch.setattr(training, "learning_rate", at_step(step, send(number)))
        with pytest.raises(Stopped, match=f"a signal after step {step + 1}"):
            train_here(name="stopped")
    progress = torch.load(tmp_path / "runs/stopped/checkpoints/last.pt", weights_only=True)["progress"]
    assert progress["epoch"] * 6 + progress["step"] == step + 1
    steps = []
    monkeypatch.setattr(training, "learning_rate", lambda step, *_: steps.append(step) or 1e-3)
    assert_same_run(whole, train_here("--resume", name="stopped"))
    assert steps == list(range(step + 1, LAST_STEP + 1))


def test_stop_during_validation_loses_no_training(
    train_here: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    whole = train_here(name="whole")
    with monkeypatch.context() as patch:
        patch.setattr(training, "score", lambda *_: send(signal.SIGTERM)())
        with stopping_at_once(), pytest.raises(Stopped, match="SIGTERM"):
            train_here(name="stopped")
    assert metrics_of(tmp_path / "runs/stopped") == []
    steps = []
    monkeypatch.setattr(training, "learning_rate", lambda step, *_: steps.append(step) or 1e-3)
    assert_same_run(whole, train_here("resume=auto", name="stopped"))
    assert steps == list(range(6, LAST_STEP + 1))


def test_crash_within_an_epoch_costs_the_time_since_the_last_checkpoint(
    train_here: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    def crash() -> None:
        raise RuntimeError

    whole = train_here(name="whole")
    for minutes, steps_kept in ((0, 2), (60, 0)):
        with monkeypatch.context() as patch:
            patch.setattr(training, "learning_rate", at_step(8, crash))
            with pytest.raises(RuntimeError):
                train_here(f"training.checkpoint_minutes={minutes}", name=f"after_{minutes}")
        run = tmp_path / f"runs/after_{minutes}"
        progress = torch.load(run / "checkpoints/last.pt", weights_only=True)["progress"]
        assert (progress["epoch"], progress["step"]) == (1, steps_kept)
        assert_same_run(whole, train_here("--resume", name=run.name))


def test_damaged_checkpoint_falls_back_to_the_one_before(
    train_here: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    whole = train_here(name="whole")
    with monkeypatch.context() as patch:
        patch.setattr(training, "learning_rate", at_step(8, send(signal.SIGTERM)))
        with pytest.raises(Stopped):
            train_here(name="stopped")
    last = tmp_path / "runs/stopped/checkpoints/last.pt"
    content = bytearray(last.read_bytes())
    with zipfile.ZipFile(last) as archive:
        largest = max((archive.read(name) for name in archive.namelist() if "/data/" in name), key=len)
    content[content.index(largest) + len(largest) // 2] ^= 1  # one bit of a tensor: torch.load does not notice
    last.write_bytes(content)
    torch.load(last, weights_only=True)
    run = train_here("--resume", name="stopped")
    assert "last.pt: cannot be read" in (told := capsys.readouterr().err)
    assert "going on from the checkpoint before it" in told
    assert_same_run(whole, run)


def test_all_of_a_process_group_may_be_told_to_stop(small_bank: Path, tmp_path: Path):
    """Schedulers signal workers too; theirs must neither die of it nor speak of it."""
    (tmp_path / "run.yaml").write_text(config_text(small_bank, n_epochs=100_000, num_workers=2))
    process = Forked(
        ["train.py", "-f", "run.yaml"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    metrics = tmp_path / "runs/run/metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_text()):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGUSR1)
    told = process.communicate()[1]
    assert process.returncode == 75, told
    assert told.splitlines()[-1].startswith("train.py: stopped by ")
    assert "Traceback" not in told
    assert Run(tmp_path / "runs/run").load_last()


def test_several_processes_stop_together_when_the_first_is_asked(
    train_here: Callable,
    small_bank: Path,
    tmp_path: Path,
):
    text = config_text(small_bank, args="{d_embed: 8}", num_devices=2, n_epochs=20)
    (tmp_path / "stopped.yaml").write_text(text)
    command = ["train.py", "-f", "stopped.yaml", "--resume"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = Forked(command, cwd=tmp_path, forks=True, **pipes)
    metrics = tmp_path / "runs/stopped/metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_text()):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    told = process.communicate()[1]  # returns when no process holds the pipe any more
    assert process.returncode == 75, told
    assert 0 < len(metrics_of(tmp_path / "runs/stopped")) < 20
    result = run_script(*command, cwd=tmp_path, forks=True)
    assert result.returncode == 0, result.stderr
    one = train_here(text=text.replace('"num_devices": 2', '"num_devices": 1'), name="one")
    for line, other in zip(metrics_of(one), metrics_of(tmp_path / "runs/stopped"), strict=True):
        assert line == pytest.approx(other, abs=1e-5)


def test_every_script_ends_with_the_status_that_asks_to_be_run_again(tmp_path: Path):
    code = "import os, signal; from recognition.common.command_line import run; run(lambda: os.kill(os.getpid(), {}))"
    for number in (signal.SIGTERM, signal.SIGUSR1):
        words = [sys.executable, "-c", code.format(int(number))]
        result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 75
        assert result.stderr == f"-c: stopped by {number.name}; the same command goes on\n"


def test_stop_during_an_import_ends_at_once_because_libraries_swallow_exceptions(tmp_path: Path):
    """numpy, stopped while torch's C code imports it, was left half loaded; the script went on and failed later."""
    (tmp_path / "swallows.py").write_text(
        "import os, signal\ntry: os.kill(os.getpid(), signal.SIGTERM)\nexcept: pass\n"
    )
    code = "from recognition.common.command_line import run; run(lambda: print(__import__('swallows')))"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (75, "")
    assert result.stderr == "-c: stopped by SIGTERM; the same command goes on\n"


def test_stop_while_workers_are_started_does_not_wait_for_them():
    code = (
        "import os, signal, time\n"
        "from recognition.common.command_line import run\n"
        "from recognition.common.workers import done_by_workers\n"
        "def work(task): os.kill(os.getppid(), signal.SIGTERM); time.sleep(60); yield\n"
        "run(lambda: list(done_by_workers(work, list('abcdefgh'), 8, '', None)))"
    )
    result = run_script("-c", code, cwd=ROOT, timeout=30)
    assert result.returncode == 75, result.stderr
    assert result.stderr == "-c: stopped by SIGTERM; the same command goes on\n"


def test_signals_are_handled_as_before_once_a_block_ends():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    with stopping_at_once(), pytest.raises(Stopped, match="SIGUSR1"):
        send(signal.SIGUSR1)()
    with contextlib.suppress(Stopped), stopping_later() as is_asked:
        send(signal.SIGTERM)()
        if is_asked():
            raise Stopped
        pytest.fail("the signal was not noted")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == before


def test_signal_after_the_last_step_of_an_epoch_is_not_forgotten():
    """Nobody asks for it any more: training went on for ever, while the scheduler waited."""
    with stopping_at_once(), pytest.raises(Stopped, match="SIGTERM"), stopping_later():
        send(signal.SIGTERM)()


@pytest.mark.parametrize("is_asked", [True, False])
def test_process_that_waits_for_one_that_was_stopped_is_stopped_too_unless_nobody_asked(is_asked: bool):
    """What was said in its place: "Connection closed by peer", over a page of traceback, with status 1."""

    def wait() -> None:
        with stopping_later():
            if is_asked:
                send(signal.SIGTERM)()
            raise RuntimeError("Connection closed by peer")

    with pytest.raises(Stopped if is_asked else RuntimeError):
        wait()


def test_finished_run_is_left_alone_and_told(train_here: Callable, capsys: pytest.CaptureFixture):
    run = train_here(name="one")
    times = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    capsys.readouterr()
    train_here("resume=auto", name="one")
    assert f"{run} is finished" in (told := capsys.readouterr().out)
    assert json.loads((run / "test.json").read_text())["test_accuracy"] == pytest.approx(
        json.loads(told.partition("scores: ")[2])["test_accuracy"]
    )
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == times


def test_wandb_goes_on_with_the_same_run(small_bank: Path, tmp_path: Path):
    """Offline, since there is no network: a folder for each start, but with one id."""
    (tmp_path / "run.yaml").write_text(config_text(small_bank))
    environment = {**os.environ, "WANDB_MODE": "offline", "HOME": str(tmp_path)}
    words = ("-f", "run.yaml", "logging.wandb=true", "resume=auto")
    for _ in range(2):
        result = run_script("train.py", *words, cwd=tmp_path, env=environment)
        assert result.returncode == 0, result.stderr
        (tmp_path / "runs/run/test.json").unlink()
    ids = {path.name.rpartition("-")[2] for path in (tmp_path / "wandb").glob("offline-run-*")}
    assert ids == {(tmp_path / "runs/run/wandb_id.txt").read_text().strip()}
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2
