"""Read the published people: Zheng et al. 2022, of whose task ours is a copy.

python -m recognition.participants published 000207/ --output runs/zheng2022

000207 is the folder of the data set of this number in the DANDI archive, as its own client downloads it: an NWB file a
person, in folders sub-1 to sub-19, under the names of any of its versions. A person whose session comes in two files is
counted once. The films are not in the data, so models cannot see the same episodes: people and models are compared in
their scores, by kind of clip, and in the order task, not probe by probe.

Writes people.json and answers.npz (the crowd), evaluation.json and report.html. Data: doi 10.48324/dandi.000207, CC BY
4.0; article: doi 10.1038/s41593-022-01020-w.
"""

import json
import re
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recognition.common.command_line import ArgumentParser, InputError, folder_path, one_line
from recognition.common.files import is_there, written_whole
from recognition.people.crowd import Crowd, write_crowd
from recognition.people.published_file import SPAN, Published, read_published

SOURCE = "Zheng et al. 2022 (doi 10.1038/s41593-022-01020-w), DANDI 000207 (doi 10.48324/dandi.000207), CC BY 4.0"
LEAST_ANSWERED = 0.8  # of the pictures, as of our own sessions


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `participants published`."""
    parser.add_argument("folder", type=Path, help="folder with the NWB files of DANDI 000207, or one of them")
    parser.add_argument(
        "--output", type=folder_path, required=True, help="folder for what was read, such as runs/zheng2022"
    )


def main(args: Namespace) -> None:
    """Read all files, score and write."""
    from recognition.people.crowd_scores import describe_crowd
    from recognition.people.importing import EVALUATION_FILE, check_output, written_folder
    from recognition.people.people_page import write_page

    check_output(args.output)
    people, again = read_people(args.folder)
    for line in again:
        print(one_line(line), file=sys.stderr)
    crowd = crowd_of(args.output.name, people)
    told = describe_crowd(crowd)
    with written_folder(args.output) as part:
        write_crowd(part, crowd)
        with written_whole(part / EVALUATION_FILE) as file:
            file.write_text(json.dumps(told, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        write_page(part, crowd, told)
    for person in crowd.persons:
        if person["left_out"]:
            print(one_line(f"{person['id']} is left out: {person['left_out']}"))
        elif person["flags"]:
            print(one_line(f"{person['id']}: {'; '.join(person['flags'])}"))
    print(
        f"{len(crowd.counted)} of {len(crowd.persons)} people count: accuracy {told['accuracy']:.3f}, "
        f"d' {told['d_prime']:.2f}; report: {args.output / 'report.html'}"
    )


def read_people(folder: Path) -> tuple[list[Published], list[str]]:
    """The people in a folder's NWB files, those of its folders included, in order of their numbers; and a line for each
    file that tells of one of them again.

    Raises InputError if there is no such file, or one is not of this study.
    """
    if not is_there(folder):
        raise InputError(f"{folder}: no such folder; download DANDI 000207")
    paths = [folder] if folder.is_file() else [path for path in folder.rglob("*.nwb") if path.name[0] != "."]
    if not paths:
        raise InputError(f"{folder}: no NWB file (.nwb) there; download DANDI 000207")
    found: dict[str, tuple[Path, Published]] = {}
    again = []
    for path in sorted(paths, key=_in_order):
        person = read_published(path)
        if person.identifier in found:
            again.append(f"{path}: is {person.identifier} again, who is counted once, by {found[person.identifier][0]}")
        else:
            found[person.identifier] = path, person
    return [person for _, person in found.values()], again


def crowd_of(name: str, people: Sequence[Published]) -> Crowd:
    """Published people as a crowd. Who saw fewer pictures than others has no answer to the rest."""
    num_probes = max(len(person.answer) for person in people)

    def rows(field: str, missing: float, kind: type) -> np.ndarray:
        array: np.ndarray = np.full((len(people), num_probes), missing, kind)
        for row, person in zip(array, people, strict=True):
            row[: len(person.answer)] = getattr(person, field)
        return array

    return Crowd(
        name,
        SOURCE,
        None,
        [describe(person) for person in people],
        rows("answer", np.nan, np.float32),
        rows("is_old", 0, np.uint8),
        rows("rt_ms", np.nan, np.float32),
        rows("lag_s", np.nan, np.float32),
        np.full(len(people), -1, np.int32),
        np.array([person.identifier for person in people]),
    )


def describe(person: Published) -> dict[str, Any]:
    """A person of a `Crowd`."""
    from recognition.people.person import describe_order, describe_person

    order, left_out = describe_order(person.order_answer, person.pairs), None
    if order:
        is_known = ~np.isnan(person.order_answer)
        order["by_distance"] = _by_distance(person, is_known)
        order["median_rt_s"] = float(np.median(person.order_rt_ms[is_known])) / 1000
    if (share := float((~np.isnan(person.answer)).mean())) < LEAST_ANSWERED:
        left_out = f"{100 * share:.0f} % of the pictures answered"
    return describe_person(
        person.identifier,
        person.answer,
        person.is_old,
        person.rt_ms,
        person.clip_kind,
        left_out=left_out,
        flags=person.flags,
        order=order,
        facts=person.facts,
    )


def _by_distance(person: Published, is_known: np.ndarray) -> list[dict[str, Any]]:
    """Accuracy of the order task for pictures near each other in their clip, and far apart."""
    is_left = np.array([pair["earlier"] == "left" for pair in person.pairs], bool)
    is_right, spans = (person.order_answer > 0) == is_left, np.array([pair["span"] or "" for pair in person.pairs])
    return [
        {"distance": span, "accuracy": float(is_right[chosen].mean()), "num_pairs": int(chosen.sum())}
        for span in SPAN.values()
        if (chosen := is_known & (spans == span)).any()
    ]


def _in_order(path: Path) -> tuple[int, str]:
    """sub-2 before sub-10."""
    number = re.match(r"sub-(\d+)", path.name)
    return int(number[1]) if number else sys.maxsize, str(path)
