"""python -m recognition, backbones and captioning list the commands of their rooms."""

import pytest
from conftest import ROOT, refusal, run_script

from recognition.common.commands import commands

NAMES = {"recognition": "render", "backbones": "classify", "captioning": "score"}


@pytest.mark.parametrize("room", NAMES)
def test_every_command_is_listed_with_a_line(room: str):
    result = run_script(room, cwd=ROOT)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    names = sorted(commands(ROOT / room))
    assert NAMES[room] in names
    assert [line.split()[2] for line in lines] == [f"{room}.{name}" for name in names]
    assert all(line.endswith(".") and len(line) <= 130 for line in lines), lines


@pytest.mark.parametrize("room", NAMES)
def test_every_file_listed_is_a_command(room: str):
    for name in commands(ROOT / room):
        text = (ROOT / room / f"{name}.py").read_text()
        assert all(part in text for part in ("def main()", "def parse_arguments(")), name


def test_every_file_of_recognition_is_a_command():
    names = sorted(path.stem for path in (ROOT / "recognition").glob("*.py") if not path.stem.startswith("__"))
    assert sorted(commands(ROOT / "recognition")) == names


def test_wrong_word_is_told_with_the_nearest_command():
    assert "'rendr' cannot follow here; did you mean 'render'?" in refusal(run_script("recognition", "rendr", cwd=ROOT))


def test_command_after_a_space_is_told_how_it_is_started():
    assert "it is started as python -m recognition.render" in refusal(run_script("recognition", "render", cwd=ROOT))
