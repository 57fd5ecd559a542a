"""The edge every script shares: bad input ends in one line on stderr and exit status 2."""

import argparse
import difflib
import math
import multiprocessing
import os
import reprlib
import sys
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from recognition.machine import granted_cores
from recognition.stopping import EXIT_STATUS, Stopped, farewell, stopping_at_once

# In a log file every step of a progress bar stays: a few a minute will do. tqdm reads this when it is imported.
if not sys.stderr.isatty():
    os.environ.setdefault("TQDM_MININTERVAL", "30")

# Libraries that compute count the cores that they may run on, which may be more than are granted.
if (num_cores := granted_cores()) < len(os.sched_getaffinity(0)):
    os.environ.setdefault("OMP_NUM_THREADS", str(num_cores))

LONGEST_MESSAGE = 1000  # letters
LARGEST_NUMBER = 2**31 - 1  # frames and films are counted in 32 bits


class InputError(ValueError):
    """What the user gave is wrong. The message is one line: it names the thing and says what to do."""


class Failure(Exception):
    """The work cannot go on though the input was right. The message is one line that says what happened."""


class ArgumentParser(argparse.ArgumentParser):
    """argparse, but a wrong argument is answered in one line, and --help shows every default."""

    def __init__(self, **options):
        super().__init__(formatter_class=_HelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str):
        if message.startswith("unrecognized arguments: -"):
            word = message.split()[2].partition("=")[0]
            options = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
            message += f"; {nearest(word, options)}"
        self.exit(2, f"{self.prog}: error: {one_line(message)} (see {self.prog} --help)\n")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the description, so that examples can be copied."""


def run(main: Callable[[], int | None]) -> None:
    """Call a script's `main` and exit with its status.

    0 or what it returned; 2 on InputError; 1 on Failure, on OSError (a full disk, no permission) and where memory runs
    out; 75 when a scheduler's SIGTERM or SIGUSR1 stopped it; each of these is told in one line. 130 on Ctrl-C.
    """
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    with stopping_at_once():
        try:
            sys.exit(main())
        except (InputError, Failure, OSError, MemoryError) as error:
            print(f"{Path(sys.argv[0]).name}: error: {one_line(str(error) or 'out of memory')}", file=sys.stderr)
            sys.exit(2 if isinstance(error, InputError) else 1)
        except Stopped as stopped:
            print(farewell(stopped), file=sys.stderr)
            sys.exit(EXIT_STATUS)
        except KeyboardInterrupt:
            sys.exit(130)
        finally:
            # Workers leave SIGTERM to this process; should it be stopped while it starts them, it would wait for them
            # at its exit, and they for it.
            for worker in multiprocessing.active_children():
                worker.kill()


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
