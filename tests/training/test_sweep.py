"""A sweep: all runs and their comparison, going on, failures, a scheduler's stop, refusals before anything starts."""

import csv
import json
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from conftest import ROOT, refusal, run_script
from forking import Forked
from test_train import config_text

import train
from recognition import sweep
from recognition.common.command_line import InputError
from recognition.training.runs import Run
from recognition.training.sweeps import Metric

SWEEP = """
program: train.py
method: grid
metric: {name: validation_accuracy, goal: maximize}
parameters:
  training.learning_rate: {values: [RATES]}
  training.seed: {values: [0, 1]}
command: ['${program}', --config-file=base.yaml, logging.wandb=true, '${args_no_hyphens}']
"""


@pytest.fixture
def sweep_here(tmp_path: Path, small_bank: Path, write_yaml: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Run the sweep on tiny runs, and the scripts that it starts, in this process; returns the exit status.

    Evaluation takes longer than all the rest, so it is left out unless `compares`.
    """
    monkeypatch.chdir(tmp_path)
    write_yaml(config_text(small_bank, n_epochs=1), "base.yaml")

    def script(name: str, *words: str) -> int:
        if name == "evaluate.py" and not run.compares:
            run.evaluated = list(words)
            return 0
        monkeypatch.setattr(sys, "argv", [name, *words])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / name), run_name="__main__")
        return ended.value.code or 0

    def run(*words: str, rates: str = "0.001, 0.01", text: str = SWEEP, compares: bool = False) -> int:
        run.compares, run.evaluated = compares, []
        path = write_yaml(text.replace("RATES", rates), "small.yaml")
        monkeypatch.setattr(sweep, "script", script)
        monkeypatch.setattr(sys, "argv", ["sweep.py", str(path), *words])
        return sweep.main()

    return run


def names(folder: Path) -> list[str]:
    """The runs that have been trained to their end."""
    return sorted(path.parent.name for path in folder.glob("*/test.json"))


def test_sweep_trains_every_run_and_compares_seeds_as_one_row(
    sweep_here: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
):
    assert sweep_here(compares=True) == 0
    runs = tmp_path / "runs/small"
    assert names(runs) == [f"learning_rate={rate}-seed={seed}" for rate in (0.001, 0.01) for seed in (0, 1)]
    with open(runs / "comparison.csv") as file:
        rows = [(row["name"], row["num_seeds"]) for row in csv.DictReader(file) if row["model"]]
    assert rows == [("learning_rate=0.001", "2"), ("learning_rate=0.01", "2")]
    metrics = {name: json.loads((runs / name / "metrics.jsonl").read_text()) for name in names(runs)}
    assert all({*get_args(Metric.model_fields["name"].annotation)} <= line.keys() for line in metrics.values())
    table = re.findall(r"^ +(\d\.\d{4})  (.+)$", capsys.readouterr().out, re.M)
    assert [(float(score), name) for score, name in table] == sorted(
        [(pytest.approx(line["validation_accuracy"], abs=5e-5), name) for name, line in metrics.items()],
        key=lambda row: -metrics[row[1]]["validation_accuracy"],
    )
    assert not (tmp_path / "wandb").exists()


def test_finished_runs_are_kept_when_a_value_is_added(sweep_here: Callable, tmp_path: Path):
    assert sweep_here(rates="0.01") == 0
    runs = tmp_path / "runs/small"
    before = {path: path.stat().st_mtime_ns for path in runs.glob("*/metrics.jsonl")}
    assert len(before) == 2
    assert sweep_here(rates="0.001, 0.01") == 0
    assert len(names(runs)) == 4
    assert sorted(sweep_here.evaluated) == [f"runs/small/{name}" for name in names(runs)]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_finished_runs_learn_that_their_data_has_moved(sweep_here: Callable, small_bank: Path, tmp_path: Path):
    assert sweep_here(rates="0.01") == 0
    bank = shutil.copytree(small_bank, tmp_path / "bank")
    files = [f"dataset.{split}_indices_file={bank}/{split}_indices.h5" for split in ("train", "test")]
    assert sweep_here(*files, f"dataset.video_path={bank}", rates="0.01") == 0
    for config in (tmp_path / "runs/small").glob("*/config.yaml"):
        assert str(small_bank) not in config.read_text()
    assert len(sweep_here.evaluated) == 2


def test_a_failed_run_does_not_end_the_sweep_and_is_listed(
    sweep_here: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
):
    """A learning rate at which the loss is soon no number."""
    assert sweep_here(rates="1.0e+30, 0.01") == 1
    assert names(tmp_path / "runs/small") == ["learning_rate=0.01-seed=0", "learning_rate=0.01-seed=1"]
    *_, head, first, second = capsys.readouterr().err.splitlines()
    assert head == "2 of 4 runs failed:"
    assert first == "run 1, runs/small/learning_rate=1e+30-seed=0: status 1"
    assert second.startswith("run 2, ")
    assert len(sweep_here.evaluated) == 2


def test_one_run_alone_is_that_of_its_number(sweep_here: Callable, tmp_path: Path):
    assert sweep_here("--run", "3") == 0
    assert names(tmp_path / "runs/small") == ["learning_rate=0.01-seed=0"]
    assert not sweep_here.evaluated
    assert sweep_here("--run", "3") == 0
    with pytest.raises(InputError, match="--run 5: the sweep has 4 runs, counted from 1"):
        sweep_here("--run", "5")
    assert sweep_here("--run", "1", rates="1.0e+30") == 1


def test_list_prints_what_would_be_run(sweep_here: Callable, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert sweep_here("--list", "training.n_epochs=7", "--runs_dir=elsewhere") == 0
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines] == [["python", "train.py"]] * 4
    args = train.parse_arguments(lines[2][2:])
    assert (args.runs_dir, args.config.name, args.resume) == (Path("elsewhere"), "learning_rate=0.01-seed=0", True)
    assert (args.config.training.learning_rate, args.config.training.n_epochs) == (0.01, 7)
    assert not args.config.logging.wandb
    assert not (tmp_path / "runs").exists()


def test_random_sweep_has_as_many_runs_as_it_says(sweep_here: Callable, capsys: pytest.CaptureFixture):
    text = SWEEP.replace("grid", "random").replace("RATES", "0.001, 0.01")

    def listed(*words: str, text: str = text) -> list[str]:
        assert sweep_here("--list", *words, text=text) == 0
        return capsys.readouterr().out.splitlines()

    assert len(listed("--count=3")) == 3
    assert listed(text=f"{text}\nrun_cap: 2") == listed("--count=2")
    assert listed("--count=5")[:3] == listed("--count=3")
    assert listed("--count=5", "--seed=1") != listed("--count=5")
    with pytest.raises(InputError, match=r"small\.yaml: run_cap: is missing"):
        listed()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("training.seed", "training.sead", "small.yaml: run 1: base.yaml: training.sead: unknown key; did you mean"),
        ("RATES", "0.001, -1", "small.yaml: run 3: base.yaml: training.learning_rate: must be greater than 0"),
        (
            "RATES",
            "0.001, 0.001",
            "parameters: two runs are called learning_rate=0.001-seed=0; give values that differ",
        ),
        ("base.yaml", "bass.yaml", "small.yaml: run 1: bass.yaml: No such file"),
        (
            "training.seed: {values: [0, 1]}",
            "model.args.d_embd: {value: 8}",
            "run 1: base.yaml: model.args.d_embd: unknown",
        ),
        ("logging.wandb=true", "logging.wandb=maybe, logging.wnadb=true", "base.yaml: logging.wnadb: unknown key"),
    ],
)
def test_mistakes_are_found_before_the_first_run(
    old: str, new: str, message: str, sweep_here: Callable, tmp_path: Path
):
    assert old in SWEEP
    with pytest.raises(InputError, match=re.escape(message)):
        sweep_here(text=SWEEP.replace(old, new))
    assert not (tmp_path / "runs").exists()


def test_finished_runs_are_not_mixed_with_runs_of_other_settings(sweep_here: Callable):
    assert sweep_here("--run=1") == 0
    with pytest.raises(
        InputError, match=r"run 1: --resume: runs/small/.* was started with training\.n_epochs = 1, now"
    ):
        sweep_here("training.n_epochs=2")


def test_a_name_for_all_runs_is_refused(sweep_here: Callable):
    with pytest.raises(InputError, match="run 1: name: the runs of a sweep are named by their values"):
        sweep_here("name=mine")


def test_mistakes_on_the_command_line_are_told_in_one_line(write_yaml: Callable, tmp_path: Path):
    path = write_yaml(SWEEP.replace("RATES", "0.001"))
    for words, message in [
        (["absent.yaml"], "absent.yaml: No such file"),
        ([path, "--lits"], "unrecognized arguments: --lits; did you mean '--list'?"),
        ([path, "more"], "unrecognized arguments: more"),
        ([path, "--run=0"], "argument --run: 0 is too small"),
    ]:
        assert message in refusal(run_script("recognition.sweep", *words, cwd=tmp_path))
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_a_stop_is_passed_on_to_the_run(small_bank: Path, write_yaml: Callable, tmp_path: Path):
    """As a user runs it, in two processes, of which the scheduler knows one."""
    write_yaml(config_text(small_bank, n_epochs=4000), "base.yaml")
    path = write_yaml(SWEEP.replace("RATES", "0.001"), "small.yaml")
    process = Forked(
        ["recognition.sweep", path],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        forks=True,
    )
    run = tmp_path / "runs/small/learning_rate=0.001-seed=0"
    while process.poll() is None and not (run / "checkpoints/last.pt").exists():  # the first one may be lost to a stop
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)
    _, errors = process.communicate()
    assert process.returncode == 75
    assert "train.py: stopped by " in errors
    assert errors.splitlines()[-1].startswith("python -m recognition.sweep: stopped by SIGUSR1")
    assert Run(run).load_last(), "nothing to go on from"  # the one before, if the stop came while one was written
    assert [folder.name for folder in run.parent.iterdir()] == [run.name]


def test_a_run_that_was_stopped_by_itself_stops_the_sweep(sweep_here: Callable, monkeypatch: pytest.MonkeyPatch):
    """A scheduler may signal all processes of a job, and the run's answer come first."""
    started = []
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "finish", lambda one: started.append(one.config.name) or 75)
        assert sweep_here() == 75
    assert started == ["learning_rate=0.001-seed=0"]
