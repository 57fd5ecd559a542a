"""The run directory: what a killed process leaves in it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from recognition.common.command_line import InputError
from recognition.training.runs import Run, describe_environment


def line(epoch: int) -> dict:
    return {"epoch": epoch, "train_loss": 0.1}


def test_half_written_line_of_metrics_is_dropped(tmp_path: Path):
    run = Run(tmp_path)
    run.append_metrics(line(1))
    with open(run.metrics_file, "a") as file:
        file.write('{"epoch": 2, "train_l')
    assert run.read_metrics() == [line(1)]
    run.forget_metrics_after(2)
    run.append_metrics(line(2))
    assert run.read_metrics() == [line(1), line(2)]


def test_metrics_of_epochs_that_are_run_again_are_forgotten(tmp_path: Path):
    run = Run(tmp_path)
    for epoch in (1, 2, 3):
        run.append_metrics(line(epoch))
    run.forget_metrics_after(2)
    assert run.read_metrics() == [line(1), line(2)]


def test_missing_metrics_are_no_metrics(tmp_path: Path):
    assert Run(tmp_path / "absent").read_metrics() == []


def test_damaged_checkpoint_is_refused_by_name(tmp_path: Path):
    run = Run(tmp_path)
    assert run.load_last() is None
    run.last_file.parent.mkdir()
    run.last_file.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match=r"last\.pt: cannot be read"):
        run.load_last()


def test_checkpoint_with_code_in_it_is_refused(tmp_path: Path):
    """torch.load would run it, were it allowed to unpickle everything."""
    run = Run(tmp_path)
    run.last_file.parent.mkdir()
    torch.save({"path": tmp_path}, run.last_file)
    with pytest.raises(InputError, match="cannot be read"):
        run.load_last()


def test_answers_are_kept_as_they_are(tmp_path: Path):
    answers = np.random.default_rng(0).normal(size=(7, 9)).astype(np.float32)
    Run(tmp_path).save_answers(answers)
    np.testing.assert_array_equal(Run(tmp_path).read_answers(), answers)
    assert [path.name for path in tmp_path.iterdir()] == ["answers.npz"]


def test_missing_and_damaged_answers_are_refused_by_name(tmp_path: Path):
    run = Run(tmp_path)
    with pytest.raises(InputError, match=r"answers\.npz: no such file; score the run with evaluate\.py"):
        run.read_answers()
    run.answers_file.write_bytes(b"no answers")
    with pytest.raises(InputError, match=r"answers\.npz: cannot be read"):
        run.read_answers()


def test_number_that_json_has_no_word_for_is_never_written(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON"):
        Run(tmp_path).write_evaluation({"d_prime": float("nan")})
    assert not list(tmp_path.iterdir())


def test_environment_names_versions_and_revision():
    environment = describe_environment("cpu")
    assert environment["packages"]["numpy"]
    assert environment["device"] == "cpu"
    assert environment["git_revision"] is None or len(environment["git_revision"].removesuffix("+changes")) == 40
