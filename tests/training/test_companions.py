"""Processes that train together: the loss of one ends all, in a line."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import ROOT, config_text, run_script
from forking import Forked


@pytest.mark.parametrize("lost", ["first", "second"])
def test_lost_process_ends_the_others_in_one_line(lost: str, small_bank: Path, tmp_path: Path):
    text = config_text(small_bank, args="{d_embed: 8}", num_devices=2, n_epochs=100_000)
    (tmp_path / "run.yaml").write_text(text)
    command = ["train.py", "-f", "run.yaml"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = Forked(command, cwd=tmp_path, forks=True, **pipes)
    metrics = tmp_path / "runs/run/metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_text()):
        time.sleep(0.01)
    _, second = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()  # the other one forks
    os.kill(process.pid if lost == "first" else int(second), signal.SIGKILL)
    told = process.communicate(timeout=60)[1]  # returns when no process holds the pipe any more
    assert "Traceback" not in told
    errors = [line for line in told.splitlines() if "error" in line]
    if lost == "first":
        assert (process.returncode, errors) == (-signal.SIGKILL, [])
    else:
        assert (process.returncode, errors) == (1, told.splitlines()[-1:])
        assert errors[0].startswith("train.py: error: process 2 of 2 was killed by signal 9, most likely for want of")
        assert "training.batch_size" in errors[0]


def test_what_is_wrong_for_all_processes_is_told_once(small_bank: Path, tmp_path: Path):
    (tmp_path / "run.yaml").write_text(config_text(small_bank, num_devices=2, batch_size=3))
    result = run_script("train.py", "-f", "run.yaml", cwd=tmp_path, forks=True)
    assert result.returncode == 2
    errors = [line for line in result.stderr.splitlines() if "error" in line]
    assert errors == [
        "train.py: error: training.batch_size: must be a multiple of the processes, and not exceed the episodes"
    ]


@pytest.mark.parametrize(
    ("other", "status", "told"),
    [
        ("exit 3", 3, ""),  # it has told why
        ("exit 75", 75, "-c: stopped by a signal to all processes; the same command goes on"),
        ("exit 130", 130, "-c: stopped by SIGINT; the same command goes on"),
        ("kill -9 $$", 1, "-c: error: process 2 of 3 was killed by signal 9, most likely for want of memory"),
        ("kill -6 $$", 1, "-c: error: process 2 of 3 was killed by signal 6, what it printed before says why"),
    ],
)
def test_process_that_waits_in_a_library_ends_when_another_is_lost(other: str, status: int, told: str):
    code = (
        "import ctypes, sys; from subprocess import Popen; from recognition.training import companions\n"
        "companions.GRACE_S = 0.1\n"
        "companions.watch([Popen(['sh', '-c', sys.argv[1]]), Popen(['sleep', '60'])])\n"
        "ctypes.CDLL(None).sleep(60)"
    )
    result = run_script("-c", code, other, cwd=ROOT, timeout=50)
    assert result.returncode == status
    assert result.stderr.lstrip().startswith(told)  # after a break, as a bar may stand there
    assert len(result.stderr.strip().splitlines()) == bool(told)


def test_process_that_waits_in_a_library_ends_when_the_first_is_killed():
    code = (
        "import ctypes, os, signal, subprocess, sys; from recognition.training.companions import end_with_first\n"
        "end_with_first()\n"
        "if 'LOCAL_RANK' not in os.environ:\n"
        "    second = {**os.environ, 'LOCAL_RANK': '1'}\n"
        "    other = subprocess.Popen([sys.executable, '-c', sys.argv[1], ''], env=second, stdout=subprocess.PIPE)\n"
        "    other.stdout.readline(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "print(flush=True); ctypes.CDLL(None).sleep(60)"
    )
    process = Forked(["-c", code, code], cwd=ROOT, stderr=subprocess.PIPE, text=True, forks=True)
    assert process.communicate(timeout=30)[1] == ""  # returns when no process holds the pipe any more
    assert process.returncode == -signal.SIGKILL


def test_processes_end_in_silence_with_the_first():
    code = (
        "import sys; from subprocess import Popen; from recognition.training import companions\n"
        "companions.watch([Popen(['sleep', '60'])]); sys.exit(75)"
    )
    result = run_script("-c", code, cwd=ROOT, timeout=50)
    assert (result.returncode, result.stderr) == (75, "")
