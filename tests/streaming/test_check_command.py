"""Runs calibrated and checked as a user does it, on made-up features in which no two frames are alike."""

import csv
import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest
from conftest import config_text, run_here, write_features

from recognition import live
from recognition.common.command_line import InputError
from recognition.streaming.checking import bench, calibrating, check, check_page
from recognition.streaming.checking.calibration import read_calibration
from recognition.streaming.trained import open_trained

EPISODES = ("--n_clips=3", "--clip_length=60", "--clip_margin=15", "--n_tests=3", "--subsample=10")
SPLITS = ("--n_samples_train=8", "--n_samples_validation=4", "--n_samples_test=4", "--validation_set_fraction=0.2")
RUNS = {
    "knn": ("knn_memory", "{d_embed: 16, capacity: 4000}"),
    "<b>lstm": ("lstm", "{d_embed: 8}"),
    "looks_ahead": ("transformer", "{d_embed: 8}"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with features/ of 20 films of 40 s and runs/: two that stream and one that cannot. Read only."""
    folder = tmp_path_factory.mktemp("runs")
    features = write_features(folder / "features", [1200] * 20, 12)
    words = (*EPISODES, *SPLITS, "--test_set_fraction=0.5", f"--input_dir={features}", f"--output_dir={features}")
    assert run_here("generate_dataset.py", *words, cwd=folder).returncode == 0
    for name, (model, args) in RUNS.items():
        (folder / "run.yaml").write_text(config_text(features, model, args, n_epochs=1))
        result = run_here("train.py", "-f", "run.yaml", f"name={model}", cwd=folder)
        assert result.returncode in (0, None), result.stderr
        (folder / "runs" / model).rename(folder / "runs" / name)
    return folder


@pytest.fixture
def copied(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder runs/ by itself, to be written into."""
    copytree(runs / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def arguments(*words: object) -> Namespace:
    """What `recognition.live` makes of these words."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["live", "--device=cpu", *map(str, words)])
        return live.parse_arguments()


def checked(runs: Path, *words: object) -> Namespace:
    return arguments(*words, "--check", runs / "features" / "test_indices.h5", "--hours=0.045", "--output=checked")


def test_runs_are_calibrated_and_those_that_cannot_stream_are_left_out(copied: Path, capsys: pytest.CaptureFixture):
    calibrating.main(arguments(*copied.iterdir(), "--calibrate", "--false_events=60"))
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert "knn: old above" in out
    assert "for 60 false events an hour, the plain ring above 0." in out
    assert "found on 8 windows in which nothing returns, 0.02 h" in out
    [line] = err.splitlines()
    assert "looks_ahead is left out" in line
    assert "cannot go frame by frame" in line
    trained = open_trained(copied / "knn")
    digests = trained.live_digests(10, 3)
    kept = copied / "knn" / "live.json"
    found, ring = (read_calibration(kept, digests, of_ring) for of_ring in (False, True))
    digests_of_other = open_trained(copied / "<b>lstm").live_digests(10, 3)
    other = read_calibration(copied / "<b>lstm" / "live.json", digests_of_other, of_ring=True)
    assert found
    assert ring
    assert found != ring == other
    with pytest.raises(InputError, match="calibrated with other delay"):
        read_calibration(kept, trained.live_digests(5, 3))
    assert not (copied / "looks_ahead" / "live.json").exists()


def test_a_run_that_cannot_stream_by_itself_is_refused(runs: Path, copied: Path):
    alone = copied / "looks_ahead"
    for main, args in ((calibrating.main, arguments(alone, "--calibrate")), (check.main, checked(runs, alone))):
        with pytest.raises(InputError, match="cannot go frame by frame"):
            main(args)
    with pytest.raises(InputError, match="none of the 2 runs can be checked"):
        check.main(checked(runs, alone, copied / "missing"))


def test_validation_films_too_short_for_an_event_are_told(copied: Path):
    args = arguments(copied / "knn", "--calibrate")
    args.delay = 0.1
    with pytest.raises(InputError, match=r"knn: nothing to calibrate on: .*--delay 0\.1, are too short"):
        calibrating.main(args)


def test_interrupted_calibration_keeps_what_was_there(copied: Path, monkeypatch: pytest.MonkeyPatch):
    (copied / "knn" / "live.json").write_text("before")
    monkeypatch.setattr("recognition.streaming.checking.asked.ask_all", stopped)
    with pytest.raises(KeyboardInterrupt):
        calibrating.main(arguments(copied / "knn", "--calibrate"))
    assert (copied / "knn" / "live.json").read_text() == "before"


def test_a_check_tells_of_each_run_beside_the_ring_and_chance(runs: Path, copied: Path, capsys: pytest.CaptureFixture):
    calibrating.main(arguments(copied / "knn", "--calibrate", "--false_events=60"))
    capsys.readouterr()
    check.main(checked(runs, *sorted(copied.iterdir())))
    out, err = capsys.readouterr()
    assert "looks_ahead is left out" in err
    assert "Repeats are as they were, none is changed" in out
    assert "No repeat comes after 10 min: there are too few films." in out
    found = json.loads(Path("checked/check.json").read_text())
    assert [row["name"] for row in found["rows"]] == ["<b>lstm", "knn", "plain ring", "chance"]
    lstm, knn, ring, chance = found["rows"]
    assert [at["recall"] for at in ring["recall"]] == [1, 1, 1]
    assert ring["mean_precision"] == ring["calibrated"]["recall"] == 1
    for row in (knn, ring):
        assert row["when"]["median_s"] < 0.01
        assert row["when"]["within"] > 0.8
        assert row["when"]["told"] == 1
        assert row["state_bytes"] > 1000
        assert row["step_ms"] > 0
    assert lstm["recall"][0]["recall"] < 0.5
    assert lstm["when"]["median_s"] is lstm["calibrated"] is None
    assert max(at["recall"] for at in chance["recall"]) < 0.02
    [stream] = found["streams"]
    assert stream["num_repeats"] == sum(stream["by_lag"].values()) == len(ring_lags(ring))
    assert found["left_out"][0]["name"].endswith("looks_ahead")
    with open("checked/check.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["name"] for line in lines} == {"<b>lstm", "knn", "plain ring", "chance"}
    assert next(line for line in lines if line["measure"] == "recall" and line["kind"] == "ring")["value"] == "1.0"
    page = Path("checked/check.html").read_text()
    assert "&lt;b&gt;lstm" in page
    assert "<b>lstm" not in page
    assert page.count("<svg") == 2
    assert out.splitlines()[-1] == "checked/check.html"


@pytest.mark.parametrize("place", [(bench, "ask_all"), (check_page, "table_csv")], ids=["asking", "writing"])
def test_interrupted_check_leaves_nothing_half_written(
    place: tuple, runs: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(*place, stopped)
    with pytest.raises(KeyboardInterrupt):
        check.main(checked(runs, copied / "<b>lstm"))
    assert not list(Path().glob("checked/*"))


def test_features_that_differ_have_streams_of_their_own(runs: Path, copied: Path, tmp_path: Path):
    copytree(runs / "features", tmp_path / "other")
    text = (copied / "<b>lstm" / "config.yaml").read_text()
    copytree(copied / "<b>lstm", copied / "elsewhere")
    (copied / "elsewhere" / "config.yaml").write_text(text.replace(str(runs / "features"), str(tmp_path / "other")))
    check.main(checked(runs, copied / "<b>lstm", copied / "elsewhere"))
    found = json.loads(Path("checked/check.json").read_text())
    names = [row["name"] for row in found["rows"]]
    assert names == ["<b>lstm", "elsewhere", "plain ring", "plain ring 2", "chance", "chance 2"]
    assert [row["stream"] for row in found["rows"]] == [0, 1, 0, 1, 0, 1]


def ring_lags(row: dict) -> list[str]:
    return [of["name"] for of in row["recall"][0]["by_lag"] for _ in range(of["num"])]


def stopped(*_: object, **__: object) -> Callable:
    raise KeyboardInterrupt
