"""Put people beside models: one figure, one table, and how far they agree about each probe.

python -m recognition.participants compare runs/people runs/transformer          people and one model
python -m recognition.participants compare runs/people runs/zheng2022 runs/*     published people too, all models
python -m recognition.participants compare runs/* --output comparison --figures  also the figure as PDF, SVG, PNG

People are folders that `participants read` or `participants published` made, models runs that evaluate.py has scored;
those that differ in their seed alone are one row. Where `participants order` has asked a model which of two frames came
first, that is compared too. Writes compare.html and compare.csv; and where people answered the very episodes that
models were tested on, agreement.csv, and agreement_probes.csv with what people and models said of each probe.
"""

import sys
from argparse import Namespace
from os.path import commonpath
from pathlib import Path
from typing import TYPE_CHECKING

from recognition.common.command_line import ArgumentParser, InputError, as_folder, expanded, folder_path, one_line

if TYPE_CHECKING:
    from recognition.people.crowd import Crowd
    from recognition.people.side_by_side import ScoredRun


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `participants compare`."""
    parser.add_argument(
        "folders", nargs="+", metavar="FOLDER", help="folder of people, such as runs/people, or of a run that is scored"
    )
    parser.add_argument(
        "--output", type=folder_path, help="folder for the comparison; the folder of those compared if not given"
    )
    parser.add_argument("--figures", action="store_true", help="also write the figure as PDF, SVG and PNG")


def main(args: Namespace) -> None:
    """Compare what can be read, naming what cannot."""
    from recognition.evaluation.report import COMPARISON_FIGURES, COMPARISON_FILES
    from recognition.people.compare_page import FILES, compare_people, write_comparison

    ours = (*COMPARISON_FILES, COMPARISON_FIGURES, *FILES)  # runs/* also names what earlier comparisons left there
    paths = dict.fromkeys(path for path in map(Path, map(expanded, args.folders)) if path.name not in ours)
    crowds: dict[Path, Crowd] = {}
    runs: list[ScoredRun] = []
    for path in paths:
        try:
            _open(path, crowds, runs)
        except InputError as error:
            if len(paths) == 1:
                raise
            print(one_line(f"{path} is left out: {error}"), file=sys.stderr)
    if not crowds and not runs:
        raise InputError(f"none of the {len(paths)} can be compared, for the reasons above")
    folder = as_folder(args.output or Path(commonpath([path.resolve().parent for path in paths])))
    compared = compare_people(crowds, runs)
    write_comparison(compared, folder, args.figures)
    for note in compared.notes:
        print(one_line(note))
    num_people, num_models = (sum(row.is_people == wanted for row in compared.rows) for wanted in (True, False))
    words = f"people: {num_people}, models: {num_models}, agreement with {len(compared.agreements)} of the people"
    print(f"{words}: {folder / FILES[0]}")


def _open(path: Path, crowds: "dict[Path, Crowd]", runs: "list[ScoredRun]") -> None:
    """Add a folder to those of people or to those of models."""
    from recognition.people.crowd import is_crowd, read_crowd
    from recognition.people.side_by_side import open_scored

    if is_crowd(path):
        crowd = read_crowd(path)
        if not crowd.counted:
            raise InputError(f"all {len(crowd.persons)} persons are left out; nothing is left to compare")
        crowds[path] = crowd
    else:
        runs.append(open_scored(path))
