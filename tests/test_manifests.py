"""pyproject.toml is the list of what the project needs; pixi.toml, constraints.txt and the Makefile must follow it."""

import json
import re
import shlex
import sys

import pytest
from conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONDA_NAMES = {"torch": "pytorch", "opencv-python-headless": "py-opencv", "matplotlib": "matplotlib-base"}
PIXI_ONLY = {"python", "deno"}
TESTED = {"torch": "2.13.0", "torchvision": "0.28.0"}


def read_toml(name: str) -> dict:
    return tomllib.loads((ROOT / name).read_text())


def required(lines: list[str]) -> dict[str, str]:
    """Requirements as {name: bounds}, without extras, markers and the "a0" that lets pre-releases in."""
    split = [re.match(r"([\w-]+)(?:\[[\w,-]+\])?([^;]*)", line).groups() for line in lines]
    return {name: bounds.strip().replace("a0", "") for name, bounds in split}


def in_pixi(table: dict) -> dict[str, str]:
    """The conda and PyPI dependencies of a table of pixi.toml as {PyPI's name: bounds}."""
    pypi_names = {conda: pypi for pypi, conda in CONDA_NAMES.items()}
    found = table.get("dependencies", {}) | table.get("pypi-dependencies", {})
    bounds = {name: spec if isinstance(spec, str) else spec["version"] for name, spec in found.items()}
    return {pypi_names.get(name, name): spec for name, spec in bounds.items()}


def test_pixi_and_pyproject_require_the_same_versions():
    project, pixi = read_toml("pyproject.toml")["project"], read_toml("pixi.toml")
    wanted = required(project["dependencies"] + project["optional-dependencies"]["dev"])
    found = in_pixi(pixi)
    assert found.pop("python") == project["requires-python"]
    assert {name: spec for name, spec in found.items() if name not in PIXI_ONLY} == wanted


def test_pixi_s_gpu_environment_adds_what_the_gpu_extra_adds():
    project, pixi = read_toml("pyproject.toml")["project"], read_toml("pixi.toml")
    found = in_pixi(pixi["feature"]["gpu"])
    assert found.pop("pytorch-gpu") == in_pixi(pixi)["torch"]
    assert found == required(project["optional-dependencies"]["gpu"])


def test_pixi_s_bench_environment_adds_what_the_bench_extra_adds():
    project, pixi = read_toml("pyproject.toml")["project"], read_toml("pixi.toml")
    assert in_pixi(pixi["feature"]["bench"]) == required(project["optional-dependencies"]["bench"])


def test_developers_have_what_the_captioning_extra_brings():
    extras = read_toml("pyproject.toml")["project"]["optional-dependencies"]
    assert required(extras["captioning"]).items() <= required(extras["dev"]).items()


def test_pixi_has_a_task_for_every_step():
    tasks = read_toml("pixi.toml")["tasks"]
    assert {"download", "preprocess", "generate", "train", "evaluate", "demo", "test", "lint"} <= tasks.keys()
    for task in tasks.values():
        for command in task["cmd"].split("&&"):
            python, script, *_ = shlex.split(command)
            assert python == "python"
            assert script == "-m" or (ROOT / script).is_file()


def test_pixi_uses_no_deprecated_table():
    pixi = read_toml("pixi.toml")
    assert not {"project", "system-requirements"} & pixi.keys()


def test_pixi_toml_follows_pixi_s_schema():
    schema = ROOT.parent / "shared" / "pixi_schema.json"
    if not schema.exists():
        pytest.skip("pixi's schema is not on this machine")
    from jsonschema import Draft7Validator

    errors = Draft7Validator(json.loads(schema.read_text())).iter_errors(read_toml("pixi.toml"))
    assert [f"{error.json_path}: {error.message}" for error in errors] == []


def test_constraints_pin_every_dependency_to_one_version():
    project = read_toml("pyproject.toml")["project"]
    pins = dict(
        re.match(r"([\w.-]+)==([^\s;]+)", line).groups()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    )
    wanted = required(project["dependencies"] + project["optional-dependencies"]["dev"])
    assert wanted.keys() <= pins.keys()
    assert {name: pins[name] for name in TESTED} == TESTED


def test_sfd_csv_lists_films_that_youtube_could_have():
    import pandas as pd

    films = pd.read_csv(ROOT / "sfd.csv")
    assert list(films.columns) == ["video_id", "video_url", "title"]
    assert len(films) > 1000
    assert films.video_id.is_unique
    assert films.video_id.str.fullmatch(r"[\w-]{11}").all()
