"""Runs side by side: which are one row, what their table says, and that names cannot break it."""

import csv
import io

import pytest

from recognition.evaluation.comparison import CALIBRATED, SCORES, compare
from recognition.evaluation.report import render_comparison
from recognition.evaluation.signal_detection import seed_interval
from recognition.training.config import RunConfig


def a_run(
    name: str, seed: int = 0, accuracy: float = 0.8, model: str = "lstm", calibrated: float | None = None, **dataset
) -> tuple[RunConfig, dict]:
    """A run's configuration and what of its evaluation.json a comparison reads; `calibrated` is an accuracy."""
    config = RunConfig(name=name, dataset=dataset, model={"model": model}, training={"seed": seed})
    control = dict.fromkeys(SCORES, 0.7) | {"state_bytes": 4096}
    evaluation = {
        **dict.fromkeys(SCORES, accuracy),
        **{"state_size": 512, "state_bytes": 2048, "num_episodes": 9, "num_study_frames": 30, "n_old": 18, "n_new": 18},
        "sha256": {"test": config.dataset.test_indices_file},
        "calibrated": calibrated and {"threshold": 0.25, "accuracy": calibrated},
        "trained_on": {},
        "seconds_per_episode": 0.0025 * (1 + seed),
        "controls": {"chance": {"accuracy": 0.5}, "nearest_frame": control},
    }
    return config, evaluation


def test_runs_that_differ_in_their_seed_alone_are_one_row():
    comparison = compare([a_run("a", 0, 0.8), a_run("other", 0, 0.6, "mlstm"), a_run("b", 1, 0.9), a_run("c", 2, 0.7)])
    assert [row["seeds"] for row in comparison.rows] == [[0, 1, 2], [0]]
    first, second = comparison.rows
    assert first["accuracy_values"] == [0.8, 0.9, 0.7]
    mean, (low, high) = seed_interval([0.8, 0.9, 0.7])
    assert (first["d_prime"], first["d_prime_interval"]) == (mean, [low, high])
    assert high > 1  # a share can be no more
    assert (first["accuracy"], first["accuracy_interval"]) == (mean, [low, 1])
    assert (second["accuracy"], second["accuracy_interval"]) == (0.6, None)
    assert comparison.notes == []
    assert [row["seconds_per_episode"] for row in comparison.rows] == [0.005, 0.0025]


@pytest.mark.parametrize(
    "change", [{"training": {"learning_rate": 0.1}}, {"model": {"model": "lstm", "args": {"n": 2}}}]
)
def test_runs_that_differ_in_anything_else_are_rows_of_their_own(change: dict):
    config, evaluation = a_run("a", 1)
    changed = RunConfig.model_validate({**config.model_dump(), **change, "name": "b"})
    assert len(compare([(config, evaluation), (changed, evaluation)]).rows) == 2


@pytest.mark.parametrize("change", [{"show_timing": True}, {"logging": {"wandb": True}}])
def test_what_does_not_change_a_result_does_not_part_runs(change: dict):
    config, evaluation = a_run("a", 0)
    changed = RunConfig.model_validate({**config.model_dump(), **change, "name": "b", "training": {"seed": 1}})
    assert len(compare([(config, evaluation), (changed, evaluation)]).rows) == 1


def test_the_same_seed_twice_counts_once_and_is_told():
    comparison = compare([a_run("a", 0, 0.8), a_run("again", 0, 0.8), a_run("b", 1, 0.9)])
    [row] = comparison.rows
    assert row["runs"] == ["a", "b"]
    assert comparison.notes == ["again is left out: a has the same settings and the same seed."]


def test_rows_tested_on_other_episodes_are_told_and_share_no_controls():
    comparison = compare([a_run("a"), a_run("b", test_indices_file="other.h5")])
    assert "different episodes" in comparison.notes[0]
    assert comparison.controls == []
    assert [row["name"] for row in compare([a_run("a"), a_run("b", 1)]).controls] == ["chance", "nearest frame"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["lstm-seed0", "lstm-seed1"], "lstm"),
        (["mamba2-seed1", "mamba2-seed12"], "mamba2"),
        (["mamba2-0", "mamba2-1"], "mamba2"),
        (["lstm_s1", "lstm_s2"], "lstm"),
        (["lstm", "lstm-again"], "lstm"),
        (["first", "second"], "first"),
    ],
)
def test_row_is_called_by_what_its_runs_have_in_common(names: list[str], expected: str):
    [row] = compare([a_run(name, seed) for seed, name in enumerate(names)]).rows
    assert row["name"] == expected


def test_rows_of_one_name_are_told_apart():
    runs = [a_run("a"), a_run("a", model="mlstm"), a_run("a", model="mamba2")]
    assert len({row["name"] for row in compare(runs).rows}) == 3


def test_csv_holds_every_row_with_its_interval():
    comparison = compare([a_run("a-0", 0, 0.8), a_run("a-1", 1, 0.9), a_run("b", 0, 0.5, "mlstm")])
    lines = list(csv.DictReader(io.StringIO(comparison.csv)))
    assert [line["name"] for line in lines] == ["a", "b", "chance", "nearest frame"]
    low, high = comparison.rows[0]["accuracy_interval"]
    assert float(lines[0]["accuracy"]) == pytest.approx(0.85)
    assert [float(lines[0][f"accuracy_{end}"]) for end in ("low", "high")] == pytest.approx([low, high])
    assert (lines[0]["num_seeds"], lines[0]["state_bytes"]) == ("2", "2048")
    assert (lines[1]["accuracy_low"], lines[2]["d_prime"]) == ("", "")


def test_latex_table_has_a_line_for_every_row_and_escapes_names():
    table = compare([a_run("a_b-0", 0, 0.8), a_run("a_b-1", 1, 0.9), a_run("c", 0, 0.5, "mlstm")]).latex
    lines = [line for line in table.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 1 + 4
    assert {line.count("&") for line in lines} == {8}
    assert lines[1].startswith(r"a\_b & 2 & $0.850$ [$0.215$, $1.000$] &")
    assert lines[3].startswith(r"chance &  & $0.500$ & -- & -- &")
    assert r"\toprule" in table


def test_calibrated_accuracy_is_a_column_where_any_run_has_it():
    runs = [a_run("a-0", 0, calibrated=0.85), a_run("a-1", 1, calibrated=0.95), a_run("b", model="mlstm")]
    comparison = compare(runs)
    first, second = comparison.rows
    mean, (low, high) = seed_interval([0.85, 0.95])
    assert (first[CALIBRATED], first[f"{CALIBRATED}_interval"]) == (mean, [low, 1])
    assert first[f"{CALIBRATED}_values"] == [0.85, 0.95]
    assert high > 1
    assert (second[CALIBRATED], second[f"{CALIBRATED}_interval"]) == (None, None)
    lines = list(csv.DictReader(io.StringIO(comparison.csv)))
    assert [line[CALIBRATED] for line in lines[1:]] == ["", "", ""]
    assert [float(lines[0][f"{CALIBRATED}{end}"]) for end in ("", "_low", "_high")] == pytest.approx([mean, low, 1])
    rows = [line.split(" & ") for line in comparison.latex.splitlines() if line.endswith(r"\\")]
    assert [row[3] for row in rows] == ["Calibrated", f"$0.900$ [${low:.3f}$, $1.000$]", "--", "--", "--"]
    page = render_comparison(comparison, {})
    assert '<th scope="col" class="number">calibrated accuracy</th>' in page
    assert "best on validation" in page


def test_without_a_calibrated_run_there_is_no_such_column():
    comparison = compare([a_run("a")])
    for text in (comparison.csv, comparison.latex, render_comparison(comparison, {})):
        assert "alibrated" not in text
