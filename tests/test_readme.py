"""README and CONTRIBUTING against the project: commands are understood, files are there, the map shows all of them."""

import importlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from models import MODELS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def commands(program: str, page: str = README) -> list[str]:
    """Every command of a page that starts with `program`, from its blocks of code and between backticks."""
    blocks = re.findall(r"```bash\n(.*?)```", page, re.S)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    inline = [" ".join(text.split()) for text in re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", page, flags=re.S))]
    found = [re.sub(r"^(\w+=\S* )+", "", text) for text in lines + inline]
    return sorted({text for text in found if text.startswith(f"{program} ") and "..." not in text})


@pytest.mark.parametrize("command", commands("python"))
def test_python_command_is_understood(command: str, monkeypatch: pytest.MonkeyPatch):
    script, *words = shlex.split(command.replace("python -m ", "python "))[1:]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [script, *words])
    importlib.import_module(script.removesuffix(".py")).parse_arguments()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not on this machine")
@pytest.mark.parametrize("command", sorted({*commands("make"), *commands("make", CONTRIBUTING)}))
def test_make_command_is_understood(command: str):
    result = subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", commands("pixi"))
def test_pixi_command_is_understood(command: str):
    pixi = tomllib.loads((ROOT / "pixi.toml").read_text())
    words = shlex.split(command)
    if words[1] == "shell":
        return
    assert words[1] == "run"
    if words[2] == "-e":
        assert words[3] in pixi["environments"]
        del words[2:4]
    assert words[2] in pixi["tasks"]


def test_readme_shows_commands_of_every_kind():
    assert len(commands("python")) > 5
    assert {"make demo", "make test", "make demo MODEL=mlstm", "make demo VIDEOS=my-films"} <= set(commands("make"))
    assert {"pixi run demo", "pixi run test"} <= set(commands("pixi"))


def test_map_names_everything_at_the_top_level():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    top = {name.partition("/")[0] for name in listed.stdout.splitlines()}
    unnamed = {name for name in top if not re.search(rf"`{re.escape(name)}\b", README)}
    assert unnamed == {"README.md", "LICENSE", ".gitignore"}


def test_files_that_contributing_names_are_there():
    words = {word.strip("`,.;:()") for word in re.split(r"[\s\[\]()]+", CONTRIBUTING)}
    paths = {word for word in words if re.fullmatch(r"[\w.-]+(/[\w.-]*)*", word)}
    named = {path for path in paths if "/" in path or re.search(r"\.(md|py|toml|txt|yaml)$", path)}
    assert {"README.md", "models/", "constraints-oldest.txt", "tests/test_bad_text.py"} <= named
    assert {path for path in named - {".venv/bin/activate", "venv/bin/activate"} if not (ROOT / path).exists()} == set()
    assert {"make test", "make test-oldest", "make audit"} <= set(commands("make", CONTRIBUTING))


def test_every_model_is_in_the_table():
    assert all(f"| `{name}` |" in README for name in MODELS)
