"""Models asked which of two studied frames came first, by the command."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import config_text, refusal, run_here

from recognition.evaluation.answers import subject_of
from recognition.evaluation.one_run import open_run, open_test_set
from recognition.people.model_order import ask_model
from recognition.people.order import asked_about, draw_pairs

COMMAND = ("recognition.participants", "order")


@pytest.fixture
def knn_run(train_here, small_bank) -> Path:
    """A kNN memory with room for all frames, nearly as it starts."""
    args = "{d_embed: 16, k: 4, capacity: 100, segment: 5}"
    return train_here(text=config_text(small_bank, "knn_memory", args, n_epochs=1, learning_rate=1e-6), name="knn")


def test_memory_with_room_for_all_frames_tells_the_order_of_distinct_ones(knn_run, tmp_path):
    result = run_here(*COMMAND, knn_run, "--pairs=6", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    told = json.loads((knn_run / "order.json").read_text())
    assert told["account"] == "places"
    assert told["accuracy"] == told["controls"]["nearest_frame"]["accuracy"] == 1.0
    assert told["num_pairs"] == 8 * 6
    assert result.stdout.startswith("knn: which came first, by places: accuracy 1.000")
    assert len(result.stdout.splitlines()) == 1


def test_memory_that_found_nothing_is_given_a_coin(knn_run):
    run, config = open_run(knn_run)
    subject, dataset = subject_of(run, config), open_test_set(run, config)
    pairs = draw_pairs(dataset, np.random.default_rng(0), 6)
    told = subject.ask(subject.build(asked_about(dataset, pairs), {}), asked_about(dataset, pairs))
    told[1]["retrieval"][-1].found["retrieved"][:, ::2] = -1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(subject), "ask", lambda *_: told)
        assert (ask_model(subject, dataset, pairs)[1] == 0.5).all()


def test_other_models_call_the_less_familiar_frame_earlier(train_here, small_bank, tmp_path):
    run_folder = train_here(name="other")
    result = run_here(*COMMAND, run_folder, tmp_path / "nothing", f"dataset.video_path={small_bank}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "nothing is left out: " in result.stderr
    told = json.loads((run_folder / "order.json").read_text())
    assert told["account"] == "familiarity"
    run, config = open_run(run_folder)
    subject, dataset = subject_of(run, config), open_test_set(run, config)
    pairs = draw_pairs(dataset, np.random.default_rng((0, 4)), 90)
    asked = asked_about(dataset, pairs)
    answer, _ = subject.ask(subject.build(asked, {}), asked)
    right = []
    for n, q in np.ndindex(pairs.distance.shape):
        left, other = answer[n, 2 * q : 2 * q + 2]
        right.append(left < other if pairs.is_first_left[n, q] else other < left)
    assert told["accuracy"] == pytest.approx(np.mean(right), abs=1e-3)  # a tie counts as half


def test_what_is_no_run_is_refused_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "not a run" in refusal(run_here(*COMMAND, "empty", cwd=tmp_path))
    assert "no run among these" in refusal(run_here(*COMMAND, "dataset.video_path=x", cwd=tmp_path))
    assert not list((tmp_path / "empty").iterdir())
