"""The threshold that validation finds: none is better, it is kept with the weights, and nothing else changes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_same_run, config_text, metrics_of, run_script
from lightning_fabric import Fabric
from safetensors.torch import load_file

from recognition.common.stopping import Stopped
from recognition.training.calibration import all_answers, best_threshold
from recognition.training.data import open_split
from recognition.training.episode_task import score
from recognition.training.model import read_config, trained_model

CALIBRATE = "training.calibrate=true"


@pytest.mark.parametrize("levels", [None, 1, 2, 5])
@pytest.mark.parametrize("num", [2, 3, 63])
@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_is_better_than_the_best(seed, num, levels):
    rng = np.random.default_rng(seed)
    answer = rng.normal(size=num) if levels is None else rng.integers(0, levels, num).astype(float)
    is_old = np.append(rng.integers(0, 2, num - 2), [0, 1])
    distinct = np.unique(answer)
    candidates = np.concatenate([[distinct[0] - 1], (distinct[:-1] + distinct[1:]) / 2, [distinct[-1] + 1]])
    shares = [np.mean((answer > threshold) == is_old) for threshold in candidates]
    threshold = best_threshold(answer, is_old)
    assert threshold == pytest.approx(candidates[np.argmax(shares)])  # the lowest of equals
    assert np.mean((answer > threshold) == is_old) == pytest.approx(max(shares))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("low", [0.99999994, 1.0, -1e9, 3e16])
def test_threshold_parts_answers_that_only_rounding_tells_apart(low, dtype):
    low = dtype(low)
    answer = np.array(
        [low, np.nextafter(low, dtype(np.inf)), np.nextafter(np.nextafter(low, dtype(np.inf)), dtype(9e20))]
    )
    for is_old in ([0, 1, 1], [0, 0, 1], [1, 1, 1]):
        says_old = answer > best_threshold(answer, np.array(is_old))
        assert says_old.tolist() == [bool(kind) for kind in is_old]


def end_of(run: Path) -> dict:
    return json.loads((run / "test.json").read_text())


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints/best.safetensors")


def test_calibrated_run_differs_in_its_threshold_alone(train_here: Callable, capsys: pytest.CaptureFixture):
    plain, calibrated = train_here(name="plain"), train_here(CALIBRATE, name="calibrated")
    scores = end_of(calibrated)
    assert {"threshold", "calibrated_accuracy"} == scores.keys() - end_of(plain).keys()
    assert scores == {**scores, **end_of(plain)}
    assert metrics_of(calibrated) == metrics_of(plain)
    weights = weights_of(calibrated)
    assert weights.pop("threshold").item() == scores["threshold"]
    torch.testing.assert_close(weights, weights_of(plain), rtol=0, atol=0)
    told = capsys.readouterr().out.splitlines()[-1]
    assert f"calibrated accuracy {scores['calibrated_accuracy']:.4f}, threshold {scores['threshold']:.4f};" in told


def test_threshold_is_the_best_of_all_on_the_validation_episodes(train_here: Callable):
    run = train_here(CALIBRATE, "dataset.standardise=true")
    config, fabric = read_config(run / "config.yaml"), Fabric(accelerator="cpu", devices=1)
    validation_set, test_set = (open_split(config.dataset, split) for split in ("validation", "test"))
    model = trained_model(config, weights_of(run), validation_set)
    threshold = model.threshold.item()
    is_old = validation_set.episodes.is_old
    logits = all_answers(fabric, model, validation_set, config.training)
    shares = [np.mean((logits > t) == is_old) for t in [0.0, *np.nextafter(logits, -np.inf).ravel(), *logits.ravel()]]
    assert np.mean((logits > threshold) == is_old) == max(shares) > shares[0]
    loss, accuracy, calibrated = score(fabric, model, test_set, config.training, (0.0, threshold))
    assert end_of(run) == {
        "threshold": threshold,
        "calibrated_accuracy": calibrated,
        "test_loss": loss,
        "test_accuracy": accuracy,
    }


def test_several_processes_find_the_threshold_of_one(train_here: Callable, small_bank: Path, tmp_path: Path):
    """Of the last two of eight episodes, in batches of six, the third process has none."""
    text = config_text(small_bank, args="{d_embed: 8}", batch_size=6, calibrate=True)
    one = train_here(text=text, name="one")
    (tmp_path / "three.yaml").write_text(text)
    result = run_script("train.py", "-f", "three.yaml", "training.num_devices=3", cwd=tmp_path, forks=True)
    assert result.returncode == 0, result.stderr
    assert end_of(tmp_path / "runs/three") == pytest.approx(end_of(one), abs=1e-5)
    assert weights_of(tmp_path / "runs/three")["threshold"].item() == end_of(tmp_path / "runs/three")["threshold"]


@pytest.mark.parametrize("moment", ["calibration.calibrate", "reporting.Reporter.finish"])
def test_run_that_is_stopped_before_or_after_its_threshold_is_kept_ends_the_same(
    moment: str, train_here: Callable, monkeypatch: pytest.MonkeyPatch
):
    def stop(*_) -> None:
        raise Stopped("SIGTERM")

    whole = train_here(CALIBRATE, name="whole")
    with monkeypatch.context() as patch:
        patch.setattr(f"recognition.training.{moment}", stop)
        with pytest.raises(Stopped):
            train_here(CALIBRATE, name="stopped")
    run = train_here(CALIBRATE, "--resume", name="stopped")
    assert_same_run(run, whole)


def test_calibrated_weights_are_taken_to_start_from_without_their_threshold(train_here: Callable, tmp_path: Path):
    first = train_here(CALIBRATE, name="first")
    still = "model.load=true", "training.learning_rate=1e-30"
    paths = [first / "checkpoints/best.safetensors", tmp_path / "weights.pt"]
    torch.save(weights_of(first), paths[1])
    for path in paths:
        weights = weights_of(train_here(*still, f"model.load_path={path}", name=path.stem))
        assert "threshold" not in weights
        torch.testing.assert_close({**weights_of(first), **weights}, weights_of(first))
