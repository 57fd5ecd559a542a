"""The command that trains captioners: nothing is lost on the way, and what it has learned from is known again."""

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from caption_room import CONFIG, TRAIN, copy_room, finished_room, train, train_apart, train_with_stops
from conftest import assert_same_run, metrics_of, refusal, run_here, write_features
from language_folder import TEXTS
from safetensors.torch import load_file

from captioning.language import small_language

FROZEN = ("language_model.train=mapper", "language_model.path=language")


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_room(tmp_path_factory)


@pytest.fixture
def away(room: Path, tmp_path: Path) -> Path:
    return copy_room(room, tmp_path)


def test_run_has_all_that_was_promised(room: Path):
    run = room / "runs/run"
    assert [line["epoch"] for line in metrics_of(run)] == [1, 2]
    scores = json.loads((run / "test.json").read_text())
    assert scores.keys() == {f"test_{name}" for name in ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d")}
    said = json.loads((run / "captions.json").read_text())
    assert {film: len(clips) for film, clips in said.items()} == {"film_8": 4, "film_9": 2, "film_10": 3}
    assert all(clip["references"][0].endswith(".") for clips in said.values() for clip in clips)
    alone = [{"clip": 0, "share": 1.0}]  # nothing else was there to be read
    assert [clip["retrieved"] for clip in said["film_9"]] == [[], alone]
    assert (run / "captions.html").is_file()
    told = json.loads((run / "features.json").read_text())
    assert (told["backbone"], told["weights"], len(told["films"])) == ("resnet18", "random:0", 11)


def test_finished_run_is_not_trained_again(room: Path):
    result = run_here(TRAIN, "-f", "run.yaml", "--resume", cwd=room)
    assert (result.returncode, "is finished" in result.stdout) == (0, True)
    assert "runs/run exists: go on with it by --resume" in refusal(run_here(TRAIN, "-f", "run.yaml", cwd=room))


def test_run_stopped_in_every_step_ends_as_one_that_was_not(room: Path, away: Path):
    stopped = train_with_stops(away)
    assert_same_run(stopped, room / "runs/run")
    assert (stopped / "captions.json").read_bytes() == (room / "runs/run/captions.json").read_bytes()


def test_stopped_run_of_clips_alone_with_a_frozen_language_model_ends_the_same(away: Path):
    words = (*FROZEN, "memory.scope=clip", "training.best_by=loss", "training.batch_size=3")
    train(away, *words, "--runs_dir=whole")
    stopped, whole = train_with_stops(away, *words, num_steps=4), away / "whole/run"
    assert_same_run(stopped, whole)
    assert (stopped / "captions.json").read_bytes() == (whole / "captions.json").read_bytes()
    weights, last = load_file(whole / "checkpoints/best.safetensors"), torch.load(whole / "checkpoints/last.pt")
    assert not [name for name in [*weights, *last["model"]] if "language" in name]
    assert len(last["optimizer"]["state"]) == len([name for name in weights if not name.startswith(("feature", "_"))])
    said = json.loads((whole / "captions.json").read_text())
    assert not any(clip["retrieved"] for clips in said.values() for clip in clips)


def test_another_frozen_language_model_is_refused(away: Path):
    train(away, *FROZEN)
    small_language(TEXTS, away / "language", width=32, layers=1, heads=2, seed=1)
    (away / "runs/run/test.json").unlink()
    assert "another language model" in refusal(run_here(TRAIN, "-f", "run.yaml", "--resume", *FROZEN, cwd=away))
    assert "another language model" in refusal(run_here("captioning.generate", "runs/run", cwd=away))


def test_language_model_of_a_run_that_never_began_is_made_anew(away: Path):
    small_language(["nothing of these."], away / "runs/run/language", width=32, layers=1, heads=2)
    train(away, "training.n_epochs=1")
    assert json.loads((away / "runs/run/language/config.json").read_text())["n_embd"] == 96


def change_captions(folder: Path) -> None:
    text = (folder / "captions.csv").read_text()
    (folder / "captions.csv").write_text(text.replace("ball", "cube", 1))


def change_film(folder: Path) -> None:
    write_features(folder / "features", [31])  # film_0 had 30 frames


def change_eye(folder: Path) -> None:
    import h5py

    for path in (folder / "features").glob("*.h5"):
        with h5py.File(path, "r+") as file:
            file.attrs["weights_sha256"] = "1" * 64


@pytest.mark.parametrize(
    ("change", "words", "told"),
    [
        (change_captions, (), "captions.csv has changed since runs/run was trained on its captions"),
        (change_film, (), "the features of film_0 have changed since runs/run was trained on them"),
        (change_eye, (), "its features are by resnet18 (random:0), those of runs/run by resnet18"),
        (lambda folder: None, ("memory.scope=clip",), "was started with memory.scope = 'film', now it is 'clip'"),
    ],
)
def test_run_does_not_go_on_with_other_inputs(room: Path, away: Path, change, words, told: str):
    shutil.copytree(room / "runs", away / "runs")
    (away / "runs/run/test.json").unlink()
    change(away)
    assert told in refusal(run_here(TRAIN, "-f", "run.yaml", "--resume", *words, cwd=away))


def test_run_goes_on_where_its_inputs_were_moved(room: Path, away: Path):
    shutil.copytree(room / "runs", away / "runs")
    (away / "runs/run/test.json").unlink()
    (away / "captions.csv").rename(away / "said.csv")
    (away / "features").rename(away / "seen")
    train(away, "--resume", "data.captions=said.csv", "data.video_path=seen")
    assert_same_run(away / "runs/run", room / "runs/run")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("memory.modell=lstm",), "memory.modell: unknown"),
        (("memory.model=lstmm",), "memory.model: unknown model 'lstmm'; did you mean 'lstm'?"),
        (("memory.args.heads=3",), "memory.args.heads: unknown"),
        (("data.video_path=none",), "no features of film film_0: none/film_0.h5 is not there; run step 2"),
        (("data.captions=none.csv",), "none.csv"),
        (("language_model.train=mapper",), "made-of-captions has learned nothing yet; set it to both"),
        (("language_model.path=nowhere",), "nowhere: is no folder, and no language model of this name can be had"),
        (("--video", "x"), "unrecognized"),
    ],
)
def test_bad_settings_are_refused_in_one_line(room: Path, tmp_path: Path, words, told: str):
    assert told in refusal(run_here(TRAIN, "-f", "run.yaml", f"--runs_dir={tmp_path}", "name=x", *words, cwd=room))


def test_memory_that_sees_later_clips_is_refused(away: Path):
    text = CONFIG.replace("{width: 8, args: {n_heads: 2, kv_heads: 2, k: 4}}", "{model: transformer, width: 8}")
    (away / "run.yaml").write_text(text)
    assert "sees later clips; set causal to true" in refusal(run_here(TRAIN, "-f", "run.yaml", cwd=away))


def test_film_in_two_splits_is_refused(away: Path):
    with open(away / "captions.csv", "a") as file:
        file.write("film_0,9,0,1,a ball.,test\n")
    assert "a film must be in one split" in refusal(run_here(TRAIN, "-f", "run.yaml", cwd=away))


def test_run_that_a_scheduler_stopped_goes_on_to_the_same_end(room: Path, away: Path):
    words = ("training.n_epochs=5", "training.best_by=loss")  # some of which are left when it is told to stop
    process = train_apart(away, *words)
    metrics, deadline = away / "runs/run/metrics.jsonl", time.monotonic() + 60
    while not (metrics.exists() and metrics.stat().st_size) and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.terminate()  # by SIGTERM
    process.join(60)
    assert process.exitcode == 75, (away / "log.txt").read_text()
    assert not (away / "runs/run/test.json").exists()
    train(away, "--resume", *words)
    train(away, "--runs_dir=whole", *words)
    assert_same_run(away / "runs/run", away / "whole/run")


def test_two_processes_learn_what_one_learns(room: Path, away: Path):
    words = ("training.num_devices=2", "data.jitter=false")
    process = train_apart(away, *words)
    process.join(100)
    told = (away / "log.txt").read_text()
    assert process.exitcode == 0, told
    assert told.count("test cider d") == 1
    assert "2 x cpu" in told
    train(away, "--runs_dir=one", "data.jitter=false")
    weights, of_one = (load_file(away / runs / "run/checkpoints/best.safetensors") for runs in ("runs", "one"))
    torch.testing.assert_close(weights, of_one, rtol=1e-3, atol=1e-4)  # sums in another order, through Adam
    for line, other in zip(metrics_of(away / "runs/run"), metrics_of(away / "one/run"), strict=True):
        assert line == pytest.approx(other, rel=1e-3)
