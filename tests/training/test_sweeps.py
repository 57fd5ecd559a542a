"""Sweep files: the runs they stand for, what is refused, and that an agent of Weights & Biases starts the same runs."""

import os
import re
import shutil
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from test_train import config_text

import train
from recognition.common.command_line import InputError
from recognition.training.sweeps import Parameter, arguments, draw_runs, load_sweep, run_names

SHIPPED = sorted((ROOT / "config-files/sweeps").glob("*.yaml"))
HEAD = "program: train.py\nmetric: {name: validation_loss}\n"
GRID = f"""{HEAD}
method: grid
parameters:
  training: {{parameters: {{learning_rate: {{values: [0.001, 0.01]}}, gradient_clip: {{value: null}}}}}}
  training.seed: {{values: [0, 1]}}
"""
RANDOM = f"""{HEAD}
method: random
parameters:
  training.learning_rate: {{distribution: log_uniform_values, min: 0.0001, max: 0.01}}
  model.args.n_layers: {{min: 1, max: 4}}
"""


@pytest.fixture
def agent_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Have the agent of Weights & Biases start one run of a sweep file, as if its server had sent it."""
    from wandb.wandb_agent import Agent

    # The agent sets some of these; whatever it leaves behind is undone after the test.
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, "")
    for name, value in {"WANDB_DIR": tmp_path, "WANDB_SWEEP_ID": "sweep9", "WANDB_MODE": "offline"}.items():
        monkeypatch.setenv(name, str(value))

    def run(path: Path, run_id: str) -> int:
        sweep = yaml.safe_load(path.read_text())  # as `wandb sweep` reads it
        agent = Agent(api=None, queue=None)
        agent._sweep_command = sweep["command"]
        agent._command_run({"run_id": run_id, "program": sweep["program"], "args": pick(sweep["parameters"])})
        return agent._run_processes[run_id].wait()

    return run


def pick(parameters: dict[str, Any]) -> dict[str, Any]:
    """A value for each parameter in the server's form, {"value": ...} at the top and plain values within."""

    def first(spec: dict[str, Any]) -> Any:
        if "parameters" in spec:
            return {key: first(inner) for key, inner in spec["parameters"].items()}
        return spec["value"] if "value" in spec else spec["values"][0] if "values" in spec else spec["min"]

    return {key: {"value": first(spec)} for key, spec in parameters.items()}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_an_agent_s_command_line_is_understood(
    path: Path, agent_runs: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The agent starts `python`; here that is a script which keeps its arguments."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/words\n')
    python.chmod(0o755)
    monkeypatch.setenv("PATH", f"{python.parent}:{os.environ['PATH']}")
    monkeypatch.chdir(ROOT)
    assert agent_runs(path, "k3y") == 0
    script, *words = (tmp_path / "words").read_text().splitlines()
    assert script == "train.py"
    config = train.parse_arguments(words).config
    base = next(word.partition("=")[2] for word in words if word.startswith("--config-file="))
    assert config.name == f"{Path(base).stem}-k3y"
    assert config.logging.wandb
    monkeypatch.delenv("WANDB_SWEEP_ID")
    unchanged = train.parse_arguments([f"--config-file={base}"]).config
    varied = load_sweep(path).varied
    assert config.training.n_epochs == unchanged.training.n_epochs  # no other setting of the section was lost
    assert ("training.learning_rate" in varied) == (config.training.learning_rate != unchanged.training.learning_rate)


def test_an_agent_s_run_is_trained_under_a_name_of_its_own(
    agent_runs: Callable, small_bank: Path, write_yaml: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_yaml(config_text(small_bank, n_epochs=1), "base.yaml")
    command = [
        *("${env}", "${interpreter}", str(ROOT / "train.py"), "--config-file=base.yaml", "logging.wandb=true"),
        "${args}",
    ]
    path = write_yaml(f"{GRID}\ncommand: {command}", "sweep.yaml")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert shutil.which("python")
    assert agent_runs(path, "k3y") == 0
    run = tmp_path / "runs/base-k3y"
    assert (run / "test.json").exists()
    told = yaml.safe_load((run / "config.yaml").read_text())["training"]
    assert (told["learning_rate"], told["seed"], told["n_epochs"], told["gradient_clip"]) == (0.001, 0, 1, None)
    assert list((tmp_path / "wandb").glob("offline-run-*-k3y/run-k3y.wandb"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_file_reads_the_same_for_weights_and_biases(path: Path):
    """Its YAML reader takes 1e-3 for text, ours for a number."""
    from recognition.training.config import read_yaml

    assert yaml.safe_load(path.read_text()) == read_yaml(path)


def test_command_line_is_the_one_of_an_agent(write_yaml: Callable):
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    values = {"training.learning_rate": 1e-5, "training.gradient_clip": None, "dataset.standardise": True}
    values |= {"model.args.layers": ["mamba2", "transformer"], "training.seed": 3}
    expected = create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})
    for macro in ("args", "args_no_hyphens"):
        sweep = load_sweep(write_yaml(f"{GRID}\ncommand: ['${{program}}', -f, a.yaml, '${{{macro}}}', name=b]"))
        assert arguments(sweep, values) == ["-f", "a.yaml", *expected[macro], "name=b"]


def test_grid_is_every_combination_and_the_last_parameter_changes_fastest(write_yaml: Callable):
    sweep = load_sweep(write_yaml(GRID))
    runs = draw_runs(sweep, None, seed=0)
    assert [(run["training.learning_rate"], run["training.seed"]) for run in runs] == [
        *((0.001, 0), (0.001, 1), (0.01, 0), (0.01, 1))
    ]
    assert all(run["training.gradient_clip"] is None for run in runs)
    assert run_names(sweep, runs)[1] == "learning_rate=0.001-seed=1"
    assert draw_runs(sweep, 3, seed=0) == runs[:3]


def test_names_tell_configurations_and_keys_apart(write_yaml: Callable):
    parameters = (
        "{config-file: {values: [a/lstm.yaml, a/mlstm.yaml]}, a.size: {values: [1, 2]}, b.size: {values: ['x y']}}"
    )
    sweep = load_sweep(write_yaml(f"{HEAD}\nmethod: grid\nparameters: {parameters}"))
    assert run_names(sweep, draw_runs(sweep, None, seed=0)) == [
        *("lstm-a.size=1-b.size=x_y", "lstm-a.size=2-b.size=x_y"),
        *("mlstm-a.size=1-b.size=x_y", "mlstm-a.size=2-b.size=x_y"),
    ]


def test_a_random_run_depends_on_seed_number_and_key_alone(write_yaml: Callable):
    sweep = load_sweep(write_yaml(RANDOM))
    runs = draw_runs(sweep, 20, seed=1)
    assert draw_runs(sweep, 5, seed=1) == runs[:5]
    assert draw_runs(sweep, 5, seed=2) != runs[:5]
    longer = load_sweep(write_yaml(RANDOM.replace("parameters:", "parameters:\n  training.seed: {values: [0, 1]}")))
    assert [{**run, "training.seed": 0} for run in runs] == [
        {**run, "training.seed": 0} for run in draw_runs(longer, 20, seed=1)
    ]
    # Written down, so that another version of Python cannot silently draw other runs into the same folders.
    rate = pytest.approx(0.0019038654338411288, rel=1e-12)
    assert runs[0] == {"training.learning_rate": rate, "model.args.n_layers": 2}
    assert run_names(sweep, runs)[0] == "001-learning_rate=0.001904-n_layers=2"


@pytest.mark.parametrize(
    ("spec", "quartiles"),
    [
        ({"min": 1, "max": 4}, [2, 3, 4]),
        ({"min": 0.0, "max": 8}, [2, 4, 6]),
        ({"distribution": "q_uniform", "min": 0, "max": 100, "q": 40}, [40, 40, 80]),
        ({"distribution": "log_uniform_values", "min": 1e-4, "max": 1.0}, [1e-3, 1e-2, 1e-1]),
        ({"distribution": "q_log_uniform_values", "min": 1, "max": 256, "q": 8}, [0, 16, 64]),
        ({"distribution": "log_uniform", "min": 0, "max": 4}, [2.718282, 7.389056, 20.08554]),
        ({"distribution": "normal", "mu": 3, "sigma": 2}, [1.651020, 3, 4.348980]),
        ({"distribution": "log_normal", "mu": 0, "sigma": 1}, [0.5094163, 1, 1.963031]),
        ({"values": ["a", "b", "c", "d"]}, ["b", "c", "d"]),
        ({"values": ["a", "b"], "probabilities": [0.7, 0.3]}, ["a", "a", "b"]),
        ({"value": None}, [None, None, None]),
    ],
)
def test_draws_follow_the_distribution(spec: dict, quartiles: list):
    found = [Parameter(**spec).quantile(share) for share in (0.25, 0.5, 0.75)]
    if isinstance(quartiles[0], str | None):
        assert found == quartiles
    else:
        assert found == pytest.approx(quartiles, rel=1e-5)
    assert all(isinstance(value, int) for value in found) or not isinstance(spec.get("q"), int)


def test_draws_fill_the_range_evenly(write_yaml: Callable):
    runs = draw_runs(load_sweep(write_yaml(RANDOM)), 2000, seed=0)
    depths = [run["model.args.n_layers"] for run in runs]
    assert all(0.22 < depths.count(depth) / 2000 < 0.28 for depth in (1, 2, 3, 4))
    rates = [run["training.learning_rate"] for run in runs]
    assert 0.9e-3 < statistics.median(rates) < 1.1e-3
    assert 1e-4 < min(rates) < 1.02e-4
    assert 0.98e-2 < max(rates) < 1e-2


def changed(old: str, new: str, text: str = GRID) -> str:
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed("method: grid", "method: bayes"), "method: bayes learns from earlier runs on the server"),
        (changed("method: grid", "method: gird"), "method: must be 'grid', 'random' or 'bayes', found 'gird'"),
        (changed("method: grid", "metod: grid"), "method: is missing"),
        (changed("train.py", "evaluate.py"), "program: must be 'train.py', found 'evaluate.py'"),
        (changed("validation_loss", "test_loss"), "metric.name: must be 'train_loss', "),
        (
            changed("values: [0, 1]", "valeus: [0, 1]"),
            "parameters.training.seed.valeus: unknown key; did you mean 'values'",
        ),
        (changed("values: [0, 1]", "values: []"), "parameters.training.seed.values: "),
        (changed("values: [0, 1]", "min: 0, max: 1"), "parameters.training.seed: a grid needs value or values alone"),
        (changed("{values: [0, 1]}", "3"), "parameters.training.seed: must be a mapping, found 3"),
        (changed("value: null", ""), "parameters.training.gradient_clip: uniform values need max and min"),
        (f"{GRID}\nearly_terminate: {{type: hyperband}}", "early_terminate: only Weights & Biases ends runs early"),
        (f"{GRID}\ncommand: [python, train.py]", "command: must contain ${program}"),
        (f"{GRID}\ncommand: ['${{program}}', '${{args_json}}']", "command: must hand over the parameters once"),
        (f"{GRID}\nrun_cap: 0", "run_cap: must be greater than or equal to 1, found 0"),
        (changed("max: 4", "max: 1", RANDOM), "parameters.model.args.n_layers: min: must be below max, found 1 and 1"),
        (changed("min: 0.0001", "min: 0", RANDOM), "parameters.training.learning_rate: min: must be above 0"),
        (changed("log_uniform_values", "log_unifrom", RANDOM), "distribution: unknown 'log_unifrom'; did you mean"),
        (changed("max: 4", "max: null", RANDOM), "parameters.model.args.n_layers: uniform values need max"),
        (changed("max: 4", "max: 4, mu: 1", RANDOM), "n_layers: mu mean nothing for int_uniform values"),
        (
            changed("min: 1, max: 4", "values: [1, 2], probabilities: [0.5, 0.4]", RANDOM),
            "n_layers: probabilities: must be as many as values, and their sum 1",
        ),
        ("- 1", "must hold a mapping"),
    ],
)
def test_wrong_sweep_file_is_refused_in_one_line_that_names_the_key(text: str, message: str, write_yaml: Callable):
    path = write_yaml(text, "sweep.yaml")
    with pytest.raises(InputError, match=re.escape(message)) as error:
        load_sweep(path)
    assert re.match(rf"{re.escape(str(path))}: \w", str(error.value))
    assert "\n" not in str(error.value)
