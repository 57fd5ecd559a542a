"""Read sessions back: answers of people, scored as models are.

python -m recognition.participants read experiment.key.json data/ --output runs/people

Takes files as jsPsych and its hosts write them, .json and .csv, JATOS's text, .zip and .jrzip archives, and folders of
them. Of every session its longest version counts. Writes into --output people.json and answers.npz (the crowd),
participants.csv (a line a session: scores, what is odd, and why one is left out), evaluation.json and report.html, and
a folder for each session with the same of this person alone. evaluate.py takes these folders beside those of runs.

A file that is cut off, was edited or is of another experiment ends the reading, in one line; nothing is written then.
"""

import csv
from argparse import Namespace
from pathlib import Path

from recognition.common.command_line import ArgumentParser, InputError, folder_path


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `participants read`."""
    parser.add_argument("key", type=Path, help="the key of the experiment, which `export` wrote beside its folder")
    parser.add_argument("answers", nargs="+", type=Path, help="files, archives and folders with answers")
    parser.add_argument("--output", type=folder_path, required=True, help="folder for what was read, as runs/people")
    parser.add_argument(
        "--exclude", type=Path, metavar="FILE", help="CSV of sessions or participants to leave out, and the reason"
    )
    parser.add_argument("--keep_all", action="store_true", help="leave nobody out of whom there are answers")


def main(args: Namespace) -> None:
    """Read, score and write."""
    from recognition.people.importing import import_sessions
    from recognition.people.key import read_key
    from recognition.people.sessions import read_sessions

    key, excluded = read_key(args.key), read_excluded(args.exclude) if args.exclude else {}
    sessions = read_sessions(key, args.answers)
    if not sessions:
        raise InputError(f"{args.answers[0]}: no session there; see --help for the files that are read")
    crowd = import_sessions(args.key, key, sessions, args.output, excluded, args.keep_all)
    for person in crowd.persons:
        if person["left_out"]:
            print(f"{person['id']} is left out: {person['left_out']}")
        elif person["flags"]:
            print(f"{person['id']}: {'; '.join(person['flags'])}")
    print(f"{len(crowd.counted)} of {len(crowd.persons)} sessions count; report: {args.output / 'report.html'}")


def read_excluded(path: Path) -> dict[str, str]:
    """{session or participant: reason} from lines "name, reason". Raises InputError if there is no such file."""
    try:
        lines = list(csv.reader(path.read_text("utf-8-sig").splitlines()))
    except FileNotFoundError:
        raise InputError(f"--exclude {path}: no such file") from None
    except (UnicodeDecodeError, csv.Error, IsADirectoryError):
        raise InputError(f"--exclude {path}: not a text of lines such as anna-01, fell asleep") from None
    return {line[0].strip(): ", ".join(word.strip() for word in line[1:]) for line in lines if line and line[0].strip()}
