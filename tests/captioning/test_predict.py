"""Captions of any film: from its features or from itself, in pieces of a length, of a table, of times."""

import json
from pathlib import Path

import h5py
import pytest
from caption_room import CONFIG, finished_room, train
from conftest import refusal, run_here, write_features

from captioning.films import write_caption_films

PREDICT = "captioning.predict"


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_room(tmp_path_factory)


def predict(folder: Path, *words: object) -> str:
    result = run_here(PREDICT, "runs/run", *words, cwd=folder)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_pieces_of_the_table_have_the_captions_of_the_run(room: Path, tmp_path: Path):
    output, numbered = tmp_path / "out.json", tmp_path / "numbered.json"
    files = [f"features/film_{k}.h5" for k in (8, 9, 10)]
    told = predict(room, *files, "--segments=captions.csv", f"--output={output}", f"--numbered={numbered}")
    assert output.read_text() == (room / "runs/run/captions.json").read_text()
    said = [clip for clips in json.loads(output.read_text()).values() for clip in clips]
    assert json.loads(numbered.read_text()) == {str(k): clip["caption"] for k, clip in enumerate(said)}
    line = f"   1  0.5-1.0 s  {said[1]['caption'] or '(nothing)'}   [read: 0 (1.00)]"
    assert told.splitlines()[:3][::2] == ["film_8", line]


def test_film_that_no_table_has_gets_captions_without_references(room: Path, tmp_path: Path):
    write_features(tmp_path, [100])
    output = tmp_path / "out.json"
    told = predict(room, tmp_path / "film_0.h5", "--every=1", f"--output={output}")
    assert [line.split()[1] for line in told.splitlines()[1:]] == ["0.0-1.0", "1.0-2.0", "2.0-3.3"]
    clips = json.loads(output.read_text())["film_0"]
    assert [clip["references"] for clip in clips] == [[], [], []]
    assert [clip["clip"] for clip in clips] == [0, 1, 2]
    assert "has no references; give --reference_file" in refusal(run_here("captioning.score", output, cwd=room))
    told = predict(room, tmp_path / "film_0.h5", "--segments=1-2.5,0-1", "generation.num_beams=2")
    assert [line.split()[1] for line in told.splitlines()[1:]] == ["0.0-1.0", "1.0-2.5"]


def test_film_itself_is_read_by_the_network_of_the_run(tmp_path: Path):
    films = list(write_caption_films(tmp_path / "films", 2, 1, 1))
    words = ("--input_dir=films", "--output_dir=features", "--backbone=shufflenet_v2_x0_5", "--weights=random:0")
    assert run_here("preprocess_videos.py", "--workers=0", "--fps=2", *words, cwd=tmp_path).returncode == 0
    (tmp_path / "run.yaml").write_text(CONFIG.replace("captions.csv", "films/captions.csv"))
    train(tmp_path, "training.n_epochs=1")
    of_film, of_file = (
        predict(tmp_path, file, "--segments=films/captions.csv") for file in (films[3], f"features/{films[3].stem}.h5")
    )
    assert of_film == of_file
    features = tmp_path / "runs/run/features.json"
    told = json.loads(features.read_text())
    assert told["backbone"] == "shufflenet_v2_x0_5, 2 frames a second"
    features.write_text(json.dumps(told | {"weights": "random:1"}))
    message = refusal(run_here(PREDICT, "runs/run", films[3], cwd=tmp_path))
    assert "is not at hand as it was; make its features by preprocess_videos.py" in message


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("runs", "features/film_8.h5"), "runs: is not the folder of a run"),
        (("runs/run", "none.mp4"), "none.mp4: no such film or feature file"),
        (("runs/run",), "film"),
        (("runs/run", "generation.top_p=0.9"), "no film is given"),
        (("runs/run", "captions.csv"), "captions.csv"),
        (("runs/run", "captions.h5"), "captions.h5: no such film"),
        (("runs/run", "features/film_8.h5", "--every=0"), "out of range"),
        (("runs/run", "features/film_8.h5", "--segments=1-0"), "1-0 does not end after it starts"),
        (("runs/run", "features/film_8.h5", "--segments=now"), "neither a table (.csv) nor times such as"),
        (("runs/run", "features/film_8.h5", "--segments=0-1,50-60"), "50 to 60 s is outside film film_8"),
        (("runs/run", "features/film_8.h5", "--segments=none.csv"), "none.csv: no such file"),
        (("runs/run", "features/film_8.h5", "features/film_8.h5"), "film_8: two files have this name"),
        (("runs/run", "features/film_8.h5", "data.jitter=false"), "cannot be changed in a trained run"),
    ],
)
def test_bad_words_are_refused_in_one_line(room: Path, words, told: str):
    assert told in refusal(run_here(PREDICT, *words, cwd=room))


def test_features_of_another_network_or_that_are_none_are_refused(room: Path, tmp_path: Path):
    [file] = write_features(tmp_path, [40]).glob("*.h5")
    with h5py.File(file, "r+") as features:
        features.attrs["weights_sha256"] = "1" * 64
    told = refusal(run_here(PREDICT, "runs/run", file, cwd=room))
    assert "film_0: its features are by resnet18 (random:0), those of runs/run by resnet18 (random:0)" in told
    file.write_bytes(b"no features")
    assert "not a whole feature file" in refusal(run_here(PREDICT, "runs/run", file, cwd=room))
