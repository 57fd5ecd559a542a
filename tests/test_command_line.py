"""What a script says to its user, and the status with which it exits."""

import sys
from argparse import ArgumentTypeError

import pytest

from recognition.command_line import (
    LARGEST_NUMBER,
    ArgumentParser,
    Failure,
    InputError,
    nearest,
    number_between,
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
        (MemoryError("Unable to allocate 7 TiB"), 1),
    ],
)
def test_foreseen_error_is_told_in_one_line(monkeypatch, capsys, error, code):
    monkeypatch.setattr(sys, "argv", ["/some/where/script.py"])
    assert status(raiser(error)) == code
    assert capsys.readouterr() == ("", f"script.py: error: {error}\n")


def test_ctrl_c_exits_quietly_with_130(capsys):
    assert status(raiser(KeyboardInterrupt())) == 130
    assert capsys.readouterr() == ("", "")


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
