"""The edge every script shares: bad input ends in one line on stderr and exit status 2."""

import argparse
import atexit
import difflib
import io
import math
import os
import reprlib
import select
import signal
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from recognition.common.machine import share_cores
from recognition.common.stopping import is_first, leave_when_asked_again, program, say_farewell, stopping_at_once


def _open_closed_streams() -> None:
    """Let standard streams that are closed, as daemons have them, lead nowhere: the next file that is opened would take
    their number, and get what is meant for them."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


_open_closed_streams()
# In a log file every step of a progress bar stays: a few a minute will do. tqdm reads this when it is imported.
if not sys.stderr.isatty():
    os.environ.setdefault("TQDM_MININTERVAL", "30")

share_cores()

LONGEST_MESSAGE = 1000  # letters
PROJECT = Path(__file__).parents[2]
FIRST_SPEAKS_S = 3.0
LARGEST_NUMBER = 2**31 - 1  # frames and films are counted in 32 bits


class InputError(ValueError):
    """What the user gave is wrong. The message is one line: it names the thing and says what to do."""


class Failure(Exception):
    """The work cannot go on though the input was right. The message is one line that says what happened."""


class ArgumentParser(argparse.ArgumentParser):
    """argparse, but a wrong argument is answered in one line, and --help shows every default."""

    def __init__(self, **options: Any):
        super().__init__(**{"prog": program()} | options, formatter_class=_HelpFormatter, allow_abbrev=False)
        self.register("type", Path, path)

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: -"):
            word = message.split()[2].partition("=")[0]
            options = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
            message += f"; {nearest(word, options)}"
        self.exit(2, f"{self.prog}: error: {one_line(message)} (see {self.prog} --help)\n")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the description, so that examples can be copied."""


def run(main: Callable[[], int | None]) -> None:
    """Call a script's `main` and exit with its status.

    0 or what it returned; 2 on InputError; 1 on Failure, OSError (a full disk, no permission) and for want of memory;
    75 when a scheduler's SIGTERM or SIGUSR1 stopped it; 130 on Ctrl-C. Each but the first is told in one line.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    try:
        with stopping_at_once():
            status = _heard(main) or 0
    except (InputError, Failure, OSError) as error:
        say_error(str(error))
        status = 2 if isinstance(error, InputError) else 1
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):  # as torch says it
            raise
        say_error(f"not enough memory ({str(error) or 'of Python'}); ask for more, or lower the batch size")
        status = 1
    except KeyboardInterrupt as stopped:
        status = say_farewell(stopped)
        leave_when_asked_again(status)
    # A signal that comes while Python ends must not make it look as if the work were not done.
    atexit.register(leave_when_asked_again, status)
    sys.exit(status)


def say_error(message: str) -> None:
    """Print the one line with which a script fails. If all of several processes fail alike, the first says so alone."""
    if not is_first():
        time.sleep(FIRST_SPEAKS_S)  # it ends this one, or what has started both does
    print(f"{program()}: error: {one_line(message)}", file=sys.stderr)


def _heard(main: Callable[[], int | None]) -> int | None:
    """What `main` returns. If nobody reads any more what it prints, as behind `| head`, the script ends without a word
    and with the status that the shell tells of other programs."""
    try:
        status = main()
        sys.stdout.flush()
        return status
    except BaseException as error:
        is_about_this = isinstance(error, BrokenPipeError) or (isinstance(error, SystemExit) and not error.code)
        if _silence_unheard() and is_about_this:
            sys.exit(128 + signal.SIGPIPE)
        raise


def _silence_unheard() -> bool:
    """Let the standard output and error lead nowhere if nobody reads them any more; returns whether one did not."""
    streams = select.poll()
    for number in (1, 2):
        streams.register(number, 0)
    unheard = [number for number, event in streams.poll(0) if event & (select.POLLERR | select.POLLHUP)]
    for number in unheard:
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    return bool(unheard)


def first_line(error: Exception) -> str:
    """What a library says of an error, without what it says further; the error's kind if it says nothing."""
    return str(error).partition("\n")[0] or type(error).__name__


def one_line(message: str) -> str:
    """A message on one line, cut if it is very long, with control characters spelled out: it may quote a file."""
    if len(message) > LONGEST_MESSAGE:
        message = message[:LONGEST_MESSAGE] + " ..."
    line = " ".join(message.splitlines())  # HDF5 breaks its lines
    return "".join(ascii(c)[1:-1] if unicodedata.category(c).startswith("C") else c for c in line)


def shown(value: Any) -> str:
    """A value from a file as a message shows it: as Python writes it, but cut short wherever it is long or deep."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother, short.maxlong = 2, 100, 100, 100
    try:
        return short.repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return f"a very large {type(value).__name__}"


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a misspelled word: "did you mean 'x'?", or all known words where none is near."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"


def expanded(text: str) -> str:
    """A path with a folder of one's own, ~ or ~name, spelled out, as shells do it where they notice.

    Raises InputError if there is no such user, unless a file has that very name.
    """
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError:
        if Path(text).exists():
            return text
        raise InputError(f"{text!r}: no such user; write ./{text} for a file or folder of that name") from None


def as_folder(path: Path) -> Path:
    """`path`, which is a folder or can become one. Raises InputError if a file is in its place or that of a parent."""
    for place in (path, *path.parents):
        if os.path.lexists(place) and not place.is_dir():
            raise InputError(f"{place}: is not a folder, and one is due there; name another, or move it away")
    return path


def path_or_word(text: str) -> str:
    """An argparse type: a word that may be a path, in which ~ is spelled out."""
    return _told(lambda: expanded(text))


def path(text: str) -> Path:
    """An argparse type: a path, in which ~ is spelled out. Parsers take it for Path."""
    return _told(lambda: Path(expanded(text)))


def folder_path(text: str) -> Path:
    """An argparse type: a path for which `as_folder` holds."""
    return _told(lambda: as_folder(Path(expanded(text))))


def own_file(text: str) -> Path:
    """An argparse type: a path; one that does not exist here is looked for in the folder of the project."""
    return here if (here := path(text)).exists() or not (PROJECT / here).exists() else PROJECT / here


def parse_training(
    parser: ArgumentParser, words: Sequence[str] | None, needs_file: bool = True
) -> tuple[argparse.Namespace, list[str]]:
    """The arguments of a command that trains by a YAML file, and the settings among them, such as training.seed=1."""
    parser.add_argument(
        "-f", "--config-file", required=needs_file, type=own_file, help="YAML file with the settings of the run"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run of this name, if it was started")
    parser.add_argument("--runs_dir", type=folder_path, default=Path("runs"), help="folder of the runs' folders")
    args, settings = parser.parse_known_args(words)
    if options := [word for word in settings if word.startswith("-") and "=" not in word]:
        parser.error(f"unrecognized arguments: {' '.join(options)}")
    return args, settings


def _told(convert: Callable[[], Any]) -> Any:
    try:
        return convert()
    except InputError as error:  # argparse would swallow its message
        raise argparse.ArgumentTypeError(str(error)) from None


def whole_number(least: int = 0, most: int = LARGEST_NUMBER) -> Callable[[str], int]:
    """An argparse type: an integer from `least` to `most`."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if number < least:
            raise argparse.ArgumentTypeError(f"{number} is too small, must be at least {least}")
        if number > most:
            raise argparse.ArgumentTypeError(f"{number} is too large, must be at most {most}")
        return number

    return parse


def number_between(low: float, high: float) -> Callable[[str], float]:
    """An argparse type: a number x with low <= x <= high."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if math.isnan(number) or not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text} is out of range, must be from {low} to {high}")
        return number

    return parse
