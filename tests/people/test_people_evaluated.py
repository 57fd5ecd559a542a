"""People beside models: evaluate.py takes the folder of a crowd as it takes that of a run."""

import csv
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import config_text, refusal, run_here
from made_up_people import made_key, made_rows, right_grades

import train
from recognition.people.crowd import read_crowd
from recognition.people.key import write_key


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, small_bank: Path) -> Path:
    """A folder with a run and three people who did two of its test episodes."""
    folder = tmp_path_factory.mktemp("beside")
    (folder / "model.yaml").write_text(config_text(small_bank, n_epochs=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", "-f", str(folder / "model.yaml"), f"--runs_dir={folder}"])
        train.main()
    key = made_key(small_bank / "test_indices.h5")
    write_key(folder / "experiment.key.json", key)
    (folder / "data").mkdir()
    for k, name in enumerate(("anna", "ben", "cora")):
        episode = str(k % 2)
        grades = np.array(right_grades(key, episode), float)
        grades[: k + 1] *= -1
        grades[-1] = np.nan
        rows = made_rows(key, name, grades.tolist(), episode, order="161")
        (folder / "data" / f"{name}.json").write_text(json.dumps(rows))
    words = ("read", "experiment.key.json", "data", "--output=people")
    assert run_here("recognition.participants", *words, cwd=folder).returncode == 0
    return folder


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "comparison.csv").read_text())))


def test_people_are_a_row_beside_a_model(runs: Path):
    result = run_here("evaluate.py", "people", "model", cwd=runs)
    assert result.returncode == 0, result.stderr
    rows = {row["name"]: row for row in table(runs)}
    people, persons = rows["people"], read_crowd(runs / "people").persons
    assert (people["model"], people["num_seeds"]) == ("people", "3")
    for score in ("accuracy", "d_prime"):
        mean = np.mean([person["scores"][score] for person in persons])
        assert float(people[score]) == pytest.approx(mean)
        assert float(people[f"{score}_low"]) < mean < float(people[f"{score}_high"])
    assert people["state_bytes"] == ""
    assert rows["model"]["num_seeds"] == "1"
    assert "nearest frame" in rows  # controls are still told
    page = (runs / "comparison.html").read_text()
    assert "people, 3 persons" in page
    assert "people saw, of the models’ test episodes, only these: 0, 1." in page
    assert "people: 3 persons, accuracy" in result.stdout


def test_one_person_is_a_row_too(runs: Path):
    [person, *_] = read_crowd(runs / "people").persons
    result = run_here("evaluate.py", f"people/{person['id']}", "people", "--output=one", cwd=runs)
    assert result.returncode == 0, result.stderr
    rows = {row["name"]: row for row in table(runs / "one")}
    assert float(rows[person["id"]]["accuracy"]) == pytest.approx(person["scores"]["accuracy"])
    assert rows[person["id"]]["accuracy_low"] == ""


def test_a_crowd_without_an_evaluation_gets_one_and_its_page(runs: Path):
    shutil.copytree(runs / "people", runs / "bare")
    for name in ("evaluation.json", "report.html"):
        (runs / "bare" / name).unlink()
    result = run_here("evaluate.py", "bare", cwd=runs)
    assert result.returncode == 0, result.stderr
    told = json.loads((runs / "bare/evaluation.json").read_text())
    assert told["accuracy"] == json.loads((runs / "people/evaluation.json").read_text())["accuracy"]
    assert (runs / "bare/report.html").is_file()


def test_crowds_alone_are_compared_and_other_episodes_told(runs: Path):
    shutil.copytree(runs / "people", runs / "others")
    told = json.loads((runs / "others/evaluation.json").read_text())
    (runs / "others/evaluation.json").write_text(json.dumps(told | {"index_sha256": None, "source": "elsewhere"}))
    result = run_here("evaluate.py", "people", "others", "--output=both", cwd=runs)
    assert result.returncode == 0, result.stderr
    assert "elsewhere, saw other episodes" in (runs / "both/comparison.html").read_text()


def test_a_damaged_crowd_is_refused_and_left_out_of_several(runs: Path):
    shutil.copytree(runs / "people", runs / "damaged")
    (runs / "damaged/evaluation.json").write_text("{}")
    assert "not an evaluation of people" in refusal(run_here("evaluate.py", "damaged", cwd=runs))
    result = run_here("evaluate.py", "damaged", "people", cwd=runs)
    assert result.returncode == 0
    assert "damaged is left out" in result.stderr
