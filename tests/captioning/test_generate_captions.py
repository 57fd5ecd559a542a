"""The command that writes captions of a run's films anew: greedily, by beams, at random, with another film's memory."""

import json
import shutil
from pathlib import Path

import h5py
import pytest
from caption_room import GENERATE, finished_room
from conftest import refusal, run_here

from captioning import captioning_task
from captioning.captioner import Captioner


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_room(tmp_path_factory)


def generate(folder: Path, *words: object) -> str:
    """What was written, and not into the run."""
    result = run_here(GENERATE, "runs/run", f"--output={folder / 'out.json'}", *words, cwd=folder)
    assert result.returncode == 0, result.stderr
    return (folder / "out.json").read_text()


@pytest.fixture
def away(room: Path, tmp_path: Path) -> Path:
    return shutil.copytree(room, tmp_path, dirs_exist_ok=True)


def captions_of(text: str) -> list[str]:
    return [clip["caption"] for clips in json.loads(text).values() for clip in clips]


def test_captions_are_those_of_the_end_of_training(away: Path):
    whole = (away / "runs/run/captions.json").read_text()
    assert generate(away) == whole
    assert generate(away, "training.batch_size=1") == whole
    (away / "runs/run/captions.json").unlink()
    result = run_here(GENERATE, "runs/run", cwd=away)
    assert (result.returncode, "3 films, 9 clips" in result.stdout) == (0, True)
    assert (away / "runs/run/captions.json").read_text() == whole


def test_split_has_its_films_and_does_not_take_the_place_of_the_test_captions(away: Path):
    assert list(json.loads(generate(away, "--split=validation"))) == ["film_6", "film_7"]
    for words in (["--split=train"], ["--memory_of_another_film"]):
        assert "--output: is needed" in refusal(run_here(GENERATE, "runs/run", *words, cwd=away))


def test_beams_and_draws_differ_from_greedy_captions_and_draws_repeat(away: Path):
    greedy, beams = generate(away), generate(away, "generation.num_beams=4")
    drawn = [generate(away, "generation.top_p=1.0", f"generation.seed={seed}") for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    assert len({greedy, beams, drawn[0], drawn[2]}) >= 3  # beams may find what is greedy
    short = captions_of(generate(away, "generation.max_new_tokens=2"))
    assert all(len(text.split()) <= 2 for text in short)


def test_memory_of_another_film_is_that_of_the_next(away: Path, monkeypatch: pytest.MonkeyPatch):
    given = []
    generated = Captioner.generate

    def seen(self, features, has_clip, generation, memory_from=None):
        given.append((features, memory_from))
        return generated(self, features, has_clip, generation, memory_from)

    monkeypatch.setattr(captioning_task.Captioner, "generate", seen)
    told = json.loads(generate(away, "--memory_of_another_film", "training.batch_size=1"))
    for (_, other), (own, _) in zip(given, [*given[1:], given[0]], strict=True):
        assert (other.features == own).all()
    assert {film: len(clips) for film, clips in told.items()} == {"film_8": 4, "film_9": 2, "film_10": 3}
    assert not any(clip["retrieved"] for clips in told.values() for clip in clips)


def test_smaller_memory_reads_the_last_clips_alone(away: Path):
    told = json.loads(generate(away, "memory.args.capacity=3", "memory.args.k=2"))
    assert [[read["clip"] for read in clip["retrieved"]] for clip in told["film_8"]] == [[], [0], [1], [2]]


def test_memory_of_another_film_needs_one(away: Path):
    lines = (away / "captions.csv").read_text().splitlines(keepends=True)
    (away / "captions.csv").write_text("".join(line for line in lines if not line.startswith(("film_9", "film_10"))))
    words = ("--memory_of_another_film", "--output=x.json")
    assert "needs two films or more" in refusal(run_here(GENERATE, "runs/run", *words, cwd=away))


def test_features_of_another_backbone_are_refused(away: Path):
    for path in (away / "features").glob("*.h5"):
        with h5py.File(path, "r+") as file:
            file.attrs["backbone"] = "resnet34"
    told = refusal(run_here(GENERATE, "runs/run", cwd=away))
    assert "film_8: its features are by resnet34 (random:0), those of runs/run by resnet18 (random:0)" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("features",), "features: is not the folder of a run; python -m captioning.train makes one"),
        (("runs/none",), "runs/none: is not the folder of a run"),
        (("runs/run", "memory.scope=clip"), "memory.scope=clip: cannot be changed in a trained run"),
        (("runs/run", "memory.args.kv_heads=1"), "memory.args.kv_heads=1: cannot be changed in a trained run"),
        (("runs/run", "generation.beams=2"), "generation.beams: unknown"),
        (("runs/run", "generation.stop=ball red"), "is no single token of this language model"),
        (("runs/run", "data.video_path=none"), "no features of film film_8"),
        (("runs/run", "--beams"), "unrecognized"),
        (("runs/run", "--splits=test", "x"), "cannot be changed"),
    ],
)
def test_bad_words_are_refused_in_one_line(room: Path, words, told: str):
    assert told in refusal(run_here(GENERATE, *words, cwd=room))


def test_run_that_is_not_trained_yet_is_refused(away: Path):
    (away / "runs/run/checkpoints/best.safetensors").unlink()
    assert "train the run first" in refusal(run_here(GENERATE, "runs/run", cwd=away))
