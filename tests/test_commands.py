"""python -m recognition lists the commands of the room."""

from conftest import ROOT, refusal, run_script

from recognition.__main__ import commands


def test_every_command_is_listed_with_a_line():
    result = run_script("recognition", cwd=ROOT)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    names = sorted(path.stem for path in (ROOT / "recognition").glob("*.py") if not path.stem.startswith("__"))
    assert "render" in names
    assert [line.split()[2] for line in lines] == [f"recognition.{name}" for name in names]
    assert all(line.endswith(".") and len(line) <= 130 for line in lines), lines
    assert "See the task" in next(line for line in lines if "recognition.render" in line)


def test_every_file_listed_is_a_command():
    for name in commands():
        text = (ROOT / "recognition" / f"{name}.py").read_text()
        assert all(part in text for part in ("def main()", "def parse_arguments()", 'if __name__ == "__main__":')), name


def test_wrong_word_is_told_with_the_nearest_command():
    assert "'rendr' cannot follow here; did you mean 'render'?" in refusal(run_script("recognition", "rendr", cwd=ROOT))


def test_command_after_a_space_is_told_how_it_is_started():
    assert "it is started as python -m recognition.render" in refusal(run_script("recognition", "render", cwd=ROOT))
