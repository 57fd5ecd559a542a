"""Check how well runs notice what returns in a stream, beside the plain ring and chance.

A stream is made of an index's films: pieces of 5 to 20 s, and 40 repeats of 3 to 6 s of them after about 30 s, 2 min
and 10 min; a third as they were, a third re-encoded, a third mirrored, cropped or brightened. See `check_scores` for
what is told of them.
"""

import sys
from argparse import Namespace
from pathlib import Path

from recognition.common.command_line import (
    ArgumentParser,
    InputError,
    as_folder,
    one_line,
    path,
    whole_number,
)


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of the check, but for those that calibration has too."""
    group = parser.add_argument_group("check runs on streams")
    group.add_argument(
        "--check", type=path, metavar="INDEX", help="check runs on streams made of the films of this index file"
    )
    group.add_argument("--repeats", type=whole_number(1), default=40, metavar="N", help="how often something returns")


def main(args: Namespace) -> None:
    """Check all runs that can stream, naming those that cannot; write what was found and print it."""
    from recognition.episodes.index_file import read_index
    from recognition.streaming.checking.bench import Bench
    from recognition.streaming.checking.check_page import table, write_check

    bench = Bench(args, read_index(args.check), as_folder(args.output or Path("live-check")))
    left_out: list[dict[str, str]] = []
    for number, word in enumerate(args.words):
        try:
            bench.check(Path(word), word if Path(word).name in _names(args.words, number) else Path(word).name)
        except InputError as error:
            if len(args.words) == 1:
                raise
            left_out.append({"name": word, "reason": one_line(str(error).removeprefix(f"{word}: "))})
            print(f"{one_line(word)} is left out: {left_out[-1]['reason']}", file=sys.stderr)
    if not bench.rows:
        raise InputError(f"none of the {len(args.words)} runs can be checked, for the reasons above")
    found = bench.found() | {"left_out": left_out}
    write_check(bench.output, found)
    for note in found["notes"]:
        print(one_line(note))
    print(table(found["rows"]))
    print(bench.output / "check.html")


def _names(words: list[str], number: int) -> set[str]:
    """The names of the other folders."""
    return {Path(word).name for place, word in enumerate(words) if place != number}
