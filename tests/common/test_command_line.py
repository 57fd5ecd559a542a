"""What a script says to its user, and the status with which it exits."""

import os
import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest
from conftest import ROOT, refusal, run_here

from recognition.common.command_line import (
    LARGEST_NUMBER,
    ArgumentParser,
    Failure,
    InputError,
    expanded,
    folder_path,
    nearest,
    number_between,
    own_file,
    run,
    shown,
    whole_number,
)


def status(main) -> int:
    """The status with which `run(main)` exits."""
    with pytest.raises(SystemExit) as exit_info:
        run(main)
    return exit_info.value.code or 0


def raiser(error: BaseException):
    """A `main` that raises `error`."""

    def main():
        raise error

    return main


def parser() -> ArgumentParser:
    """A small parser as the scripts have them."""
    parser = ArgumentParser(prog="script.py", description="First line.\n\n  script.py --workers 2   an example")
    parser.add_argument("--workers", type=whole_number(1), default=7, help="processes")
    parser.add_argument("--fraction", type=number_between(0, 1), default=0.25, help="share of films")
    parser.add_argument("--overwrite", action="store_true", help="redo all")
    return parser


@pytest.mark.parametrize(("least", "text", "number"), [(0, "0", 0), (1, "1", 1), (-2, "-2", -2), (0, "12345", 12345)])
def test_whole_number_takes_its_least_and_more(least, text, number):
    assert whole_number(least)(text) == number


@pytest.mark.parametrize(
    ("least", "text"), [(0, "-1"), (1, "0"), (0, "1.0"), (0, "1e3"), (0, ""), (0, "none"), (0, "nan"), (0, "inf")]
)
def test_whole_number_refuses_and_names(least, text):
    with pytest.raises(ArgumentTypeError, match=r"must be at least|is not a whole number") as error:
        whole_number(least)(text)
    assert text in str(error.value)


@pytest.mark.parametrize(("text", "number"), [("0", 0.0), ("1", 1.0), ("0.5", 0.5), ("1e-3", 0.001), ("-0", 0.0)])
def test_number_between_takes_its_edges(text, number):
    assert number_between(0, 1)(text) == number


@pytest.mark.parametrize("text", ["-0.001", "1.001", "nan", "inf", "-inf", "half", ""])
def test_number_between_refuses_and_names(text):
    with pytest.raises(ArgumentTypeError, match=r"must be from 0 to 1|is not a number") as error:
        number_between(0, 1)(text)
    assert text in str(error.value)


def test_nearest_names_one_near_word_or_all():
    assert nearest("resnt18", ["resnet18", "vit_b_16"]) == "did you mean 'resnet18'?"
    assert nearest("zzz", ["resnet18", "vit_b_16"]) == "known are resnet18, vit_b_16"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--worker", "2"], "did you mean '--workers'?"),  # also: no abbreviations
        (["--work=2"], "did you mean '--workers'?"),
        (["--overwirte"], "did you mean '--overwrite'?"),
        (["--xyz"], "--fraction"),
        (["--workers", "0"], "--workers: 0 is too small"),
        (["--workers", "two"], "--workers: 'two' is not a whole number"),
        (["--workers"], "--workers: expected one argument"),
        (["--fraction", "1.5"], "--fraction: 1.5 is out of range, must be from 0 to 1"),
        (["stray"], "stray"),
    ],
)
def test_wrong_argument_is_answered_in_one_line_with_status_2(capsys, words, named):
    with pytest.raises(SystemExit) as exit_info:
        parser().parse_args(words)
    out, err = capsys.readouterr()
    assert (exit_info.value.code, out) == (2, "")
    assert err.startswith("script.py: error: ")
    assert named in err
    assert err.endswith("(see script.py --help)\n")
    assert err.count("\n") == 1


def test_help_shows_defaults_and_keeps_the_lines_of_examples(capsys):
    with pytest.raises(SystemExit) as exit_info:
        parser().parse_args(["--help"])
    out = capsys.readouterr().out
    assert exit_info.value.code == 0
    assert "\n  script.py --workers 2   an example\n" in out
    assert "processes (default: 7)" in out
    assert "share of films (default: 0.25)" in out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("films: no such folder"), 2),
        (Failure("the site is gone"), 1),
        (OSError(28, "No space left on device"), 1),
        (PermissionError(13, "Permission denied", "films"), 1),
    ],
)
def test_foreseen_error_is_told_in_one_line(monkeypatch, capsys, error, code):
    monkeypatch.setattr(sys, "argv", ["/some/where/script.py"])
    assert status(raiser(error)) == code
    assert capsys.readouterr() == ("", f"script.py: error: {error}\n")


def test_ctrl_c_exits_in_one_line_with_130_however_often_it_comes():
    code = (
        "import atexit, os, signal; from recognition.common.command_line import run\n"
        "interrupt = lambda: os.kill(os.getpid(), signal.SIGINT)\n"
        "def main():\n"
        "    try: interrupt()\n"
        "    finally: interrupt()\n"
        "atexit.register(interrupt); run(main)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 130
    assert result.stderr == "-c: stopped by SIGINT; the same command goes on\n"


@pytest.mark.parametrize(
    ("main", "expected"), [("lambda: print('done')", 0), ("lambda: 1", 1), ("lambda: open('/none')", 1)]
)
def test_stop_while_python_ends_leaves_the_status_of_the_work(main, expected):
    code = (
        "import atexit, os, signal; from recognition.common.command_line import run\n"
        f"atexit.register(lambda: os.kill(os.getpid(), signal.SIGTERM)); run({main})"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (expected, "done\n" * (expected == 0))


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")]
)
def test_want_of_memory_is_told_in_one_line(capsys, error):
    assert status(raiser(error)) == 1
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert "not enough memory" in told
    assert "lower the batch size" in told


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1)])
def test_status_is_what_main_returned(returned, code):
    assert status(lambda: returned) == code


def test_unforeseen_error_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run(raiser(ZeroDivisionError()))


def test_whole_number_beyond_32_bits_is_refused():
    assert whole_number()(str(LARGEST_NUMBER)) == LARGEST_NUMBER
    with pytest.raises(ArgumentTypeError, match="too large, must be at most 2147483647"):
        whole_number()(str(LARGEST_NUMBER + 1))


def test_message_that_quotes_a_file_stays_on_one_line_and_moves_no_cursor(capsys):
    assert status(raiser(InputError("film 'a\x1b[2Jb'\r\nof \u202etxt " + "x" * 5000))) == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert r"film 'a\x1b[2Jb' of \u202etxt xxx" in told
    assert len(told) < 1200


def test_values_are_shown_short_however_deep_or_long_they_are():
    bomb: list = ["x", "x"]
    for _ in range(40):
        bomb = [bomb] * 9
    assert len(shown(bomb)) < 500
    assert len(shown("x" * 10**6)) < 200
    assert shown(16**5000) == "a very large int"
    assert (shown("a"), shown([1, None]), shown({"a": 1.5})) == ("'a'", "[1, None]", "{'a': 1.5}")


def test_own_folder_is_spelled_out_wherever_a_path_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    parser = ArgumentParser()
    parser.add_argument("--list", type=Path)
    parser.add_argument("--output_dir", type=folder_path)
    args = parser.parse_args(["--list=~/films.csv", "--output_dir=~/x"])
    assert (args.list, args.output_dir) == (tmp_path / "films.csv", tmp_path / "x")
    assert [expanded(word) for word in ("random:0", "./x", "a~", "~")] == ["random:0", "./x", "a~", str(tmp_path)]
    with pytest.raises(InputError, match="'~nobody-of-this-name/x': no such user; write"):
        expanded("~nobody-of-this-name/x")
    (tmp_path / "~nobody-of-this-name").touch()
    assert expanded("~nobody-of-this-name") == "~nobody-of-this-name"


@pytest.mark.parametrize("place", ["file", "file/below/it", "link"])
def test_file_where_a_folder_is_due_is_refused_by_name(tmp_path: Path, place: str):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(ArgumentTypeError, match=f"{place.split('/')[0]}: is not a folder"):
        folder_path(str(tmp_path / place))
    assert folder_path(str(tmp_path / "new/one")) == tmp_path / "new/one"


@pytest.mark.parametrize(
    "command",
    [
        "generate_dataset.py --input_dir=file",
        "generate_dataset.py --output_dir=file",
        "preprocess_videos.py --input_dir=file",
        "preprocess_videos.py --output_dir=file/x",
        "download_videos.py --output_dir=file",
        "recognition.render x.h5 --output=file/x.mp4",
        "recognition.memorability x.h5 --weights=random:0 --output_dir=file",
        "train.py -f config-files/lstm.yaml --runs_dir=file",
        "train.py -f config-files/lstm.yaml name=file --runs_dir=.",
        "train.py -f config-files/lstm.yaml logging.logfile=file/x.log",
        "train.py -f config-files/lstm.yaml model.save=true model.save_path=file/x.pt",
        "recognition.sweep config-files/sweeps/models.yaml --runs_dir=file --list",
        "demo.py --output_dir=file",
        "evaluate.py runs/x --output=file",
    ],
)
def test_script_refuses_a_file_where_its_folder_is_due(command: str, tmp_path: Path):
    (tmp_path / "file").write_text("kept")
    script, *words = command.split()
    assert "file: is not a folder" in refusal(run_here(script, *words, cwd=tmp_path))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "kept")]


def test_file_of_the_project_is_found_from_another_folder_unless_there_is_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    assert own_file("sfd.csv") == ROOT / "sfd.csv"
    assert own_file("absent.csv") == Path("absent.csv")
    (tmp_path / "sfd.csv").touch()
    assert own_file("sfd.csv") == Path("sfd.csv")


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams_change_nothing(closed: str, tmp_path: Path):
    """The file that is opened next does not become standard error, whatever number it has."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "from recognition.common.command_line import run\n"
        "def main():\n"
        "    with open('data', 'w') as file:\n"
        "        assert file.fileno() > 2\n"
        "        print('said')\n"
        "        print('told', file=sys.stderr)\n"
        "        os.write(2, b'by a library')\n"
        "        file.write('data')\n"
        "run(main)\n"
    )
    command = f"{sys.executable} {script} {closed}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True).returncode == 0
    assert (tmp_path / "data").read_text() == "data"


@pytest.mark.parametrize(
    ("body", "status", "unbuffered"),
    [
        ("print('word ' * 10**5)", 141, ""),
        ("print('word')", 141, ""),
        ("print('word')", 141, "1"),
        ("print('word'); sys.exit(0)", 141, ""),
        ("print('word'); raise Stopped('SIGTERM')", 75, ""),
        ("print('word'); raise InputError('wrong')", 2, ""),
    ],
)
def test_reader_that_has_gone_ends_a_script_as_it_ends_other_programs(
    body: str, status: int, unbuffered: str, tmp_path: Path
):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "from recognition.common.command_line import InputError, run\n"
        "from recognition.common.stopping import Stopped\n"
        f"def main(): {body}\n"
        "run(main)\n"
    )
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered}
    result = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert result.returncode == status
    assert len(result.stderr.splitlines()) == (0 if status == 141 else 1)
