"""The whole pipeline through the command lines: films in, scores out."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, refusal, run_script
from PIL import Image

from demo import summary
from models import CONFIGS
from recognition.films.synthetic import write_films


def test_films_become_scores(tmp_path: Path):
    """Films too short for the demo's episodes, one of them damaged: smaller episodes are drawn from the others."""
    films = list(write_films(tmp_path / "films", 7, 4, fps=12))
    films[6].write_bytes(films[6].read_bytes()[:2000])
    text = (ROOT / "config-files/demo/transformer.yaml").read_text()
    assert "n_epochs: 6\n" in text
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/transformer.yaml").write_text(text.replace("n_epochs: 6\n", "n_epochs: 3\n"))
    result = run_script("demo.py", "--videos=films", "--seeds=1", "--configs=runs", cwd=tmp_path, forks=True)
    assert result.returncode == 0, result.stdout + result.stderr
    features = tmp_path / "demo-run/films/video-features"
    assert len(list(features.glob("film_*.h5"))) == 6
    assert (features / "failed.csv").read_text().splitlines()[1].startswith("film_006.mp4,")
    run = tmp_path / "demo-run/films/runs/transformer"
    scores = json.loads((run / "evaluation.json").read_text())
    lines = result.stdout.splitlines()
    experiment = tmp_path / "demo-run/films/experiment"
    assert experiment.is_dir() == experiment.with_name("experiment.key.json").is_file()
    if experiment.is_dir():  # jsPsych was to be had
        assert lines.pop().endswith(str(experiment / "index.html"))
    *_, head, row, _, report, episode = lines
    assert head.split()[:3] == ["run", "test", "accuracy"]
    assert row.split()[:2] == ["transformer", f"{scores['accuracy']:.3f}"]
    assert f"{scores['d_prime']:.2f}" in row
    assert row.endswith(f"{scores['controls']['nearest_frame']['accuracy']:.3f}")
    assert report.endswith(str(run / "report.html"))
    assert episode.endswith(str(tmp_path / "demo-run/films/episode.mp4"))
    assert scores["accuracy"] > 0.6
    assert scores["n_old"] == scores["n_new"] == 512 * 2
    assert [row["num_clips"] for row in scores["capacity"]] == [1, 2]
    assert scores["audit"]["films"]["shared_films"]["count"] == 0
    assert "data:image/jpeg" in (run / "report.html").read_text()  # the gallery, from the films
    assert (tmp_path / "demo-run/films/episode.mp4").stat().st_size > 10_000

    result = run_script("docs/pictures.py", "--videos=films", "--output=docs", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / "docs/task.jpg") as picture:
        assert picture.size == (1600, 720)
        assert len(picture.getcolors(1600 * 720)) > 10_000  # of films, not of words alone
    assert all("<svg" in (tmp_path / f"docs/{name}.svg").read_text() for name in ("scores", "retention", "memories"))


def test_table_at_the_end_has_a_row_for_each_run_and_names_their_comparison(tmp_path: Path):
    for name, ends in (("lstm", [0.5, 0.6]), ("lstm-seed1", None)):
        (tmp_path / name).mkdir()
        scores = {"accuracy": 0.55, "accuracy_interval": ends, "d_prime": 0.25, "calibrated": None}
        scores["controls"] = {"nearest_frame": {"accuracy": 0.988}}
        (tmp_path / name / "evaluation.json").write_text(json.dumps(scores))
    lines = summary([tmp_path / "lstm", tmp_path / "lstm-seed1"], tmp_path / "episode.mp4")
    assert [line.split() for line in lines[1:3]] == [
        ["lstm", "0.550", "[0.500,", "0.600]", "0.25", "0.988"],
        ["lstm-seed1", "0.550", "0.25", "0.988"],
    ]
    assert [line.split()[-1] for line in lines[4:]] == [
        str(tmp_path / path)
        for path in ("lstm/report.html", "lstm-seed1/report.html", "comparison.html", "episode.mp4")
    ]


def test_table_at_the_end_has_the_calibrated_accuracy_where_a_run_has_one(tmp_path: Path):
    for name, calibrated in (("delta", {"accuracy": 0.6}), ("lstm", None)):
        (tmp_path / name).mkdir()
        scores = {"accuracy": 0.55, "accuracy_interval": None, "d_prime": 0.25, "calibrated": calibrated}
        scores["controls"] = {"nearest_frame": {"accuracy": 0.988}}
        (tmp_path / name / "evaluation.json").write_text(json.dumps(scores))
    head, *rows = summary([tmp_path / "delta", tmp_path / "lstm"], tmp_path / "episode.mp4")[:3]
    assert [line.split() for line in rows] == [
        ["delta", "0.550", "0.600", "0.25", "0.988"],
        ["lstm", "0.550", "0.25", "0.988"],
    ]
    assert rows[0].index("0.600") == head.index("calibrated")
    assert {line.index("0.25") for line in rows} == {head.index("d'")}
    assert {line.index("0.988") for line in rows} == {head.index("nearest")}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model=transfomer"], "there is no 'transfomer'; did you mean 'transformer'?"),
        (["--videos=absent"], "absent: no such folder"),
        (["--configs=absent"], "argument --configs: no YAML file in this folder"),
        (["--seeds=0"], "0 is too small, must be at least 1"),
        (["--vidoes=films"], "unrecognized arguments: --vidoes=films; did you mean '--videos'?"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(words: list[str], message: str, tmp_path: Path):
    assert message in refusal(run_script("demo.py", *words, cwd=tmp_path))
    assert not list(tmp_path.iterdir())


def test_commands_are_found_from_any_folder(tmp_path: Path):
    code = "import demo; demo.command('recognition.render', '--help')"
    result = run_script("-c", code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "usage: " in result.stdout


def test_a_folder_without_films_ends_with_the_message_of_the_step_that_needs_them(tmp_path: Path):
    (tmp_path / "films").mkdir()
    assert "films: holds no film" in refusal(run_script("demo.py", "--videos=films", cwd=tmp_path, forks=True))


def test_every_easy_demo_has_a_full_one():
    names = {path.stem for path in (ROOT / "config-files/demo").glob("*.yaml")}
    easy = {name for name in names if name.endswith("-easy")}
    assert easy
    assert {name.removesuffix("-easy") for name in easy} <= names


def test_comparison_has_every_family_with_one_budget():
    files = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "config-files/compare").glob("*.yaml")}
    assert set(files) == set(CONFIGS)
    assert len({(config["training"]["n_epochs"], config["training"]["batch_size"]) for config in files.values()}) == 1
