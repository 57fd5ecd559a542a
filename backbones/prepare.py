"""Prepare films for training: small films that are read fast, and lists with classes and splits.

  python -m backbones.prepare films videos                      videos/ -> small-films/, in the same folders
  python -m backbones.prepare films videos --short_side 256     larger ones, for networks that see 224 x 224 pixels
  python -m backbones.prepare films videos --sqlite --output frames      folders with frames.db in place of small films
  python -m backbones.prepare ucf101 UCF101 --split 1           -> ucf101/split1.csv
  python -m backbones.prepare hmdb51 HMDB51 --split 1           -> hmdb51/split1.csv
  python -m backbones.prepare kinetics400 K400                  -> kinetics400/list.csv
  python -m backbones.prepare folders films-by-class            -> folders/list.csv, with a split drawn by --seed

Small films come first: a list is then made of them, and its films need not be decoded to be checked.

  python -m backbones.prepare films UCF101 --output small-ucf101
  python -m backbones.prepare ucf101 small-ucf101 --lists UCF101/ucfTrainTestlist

A small film has all frames of its film, each at its time, but no sound; the index.h5 in each folder says where its
frames are. Run it again after an interruption or with new films: finished films are kept, and films that have changed
are made anew. Films that cannot be decoded to their end are listed in failed.csv; the exit status is then 1.

A list is a CSV file of video,label,split, with paths from where it lies. Beside it are classes.txt, and failed.csv with
the films of the data set that are missing or cannot be decoded, and so are not in the list.
"""

import csv
import functools
import os
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from backbones import data_sets
from backbones.data_sets import SetFilm, find_films
from backbones.film_index import Shape
from backbones.film_work import check, do_all, make, write_stored
from backbones.small_films import films_of, is_made_of, update_index, write_small_film
from backbones.stored_frames import is_whole
from recognition.common.command_line import (
    ArgumentParser,
    InputError,
    folder_path,
    number_between,
    one_line,
    run,
    whole_number,
)
from recognition.common.files import written_whole
from recognition.common.machine import granted_cores


def main() -> int:
    args = parse_arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    return prepare_films(args) if args.command == "films" else prepare_list(args)


def prepare_films(args: Namespace) -> int:
    """Make a small film, or a folder with frames.db, of every film; returns the exit status."""
    output, shape = args.output.resolve(), Shape(args.short_side, args.keyframes)
    films = [path for path in find_films(args.films) if not path.is_dir() and output not in path.resolve().parents]
    targets = targets_of(films, args.films, args.output, "" if args.sqlite else ".mp4")
    if args.sqlite:
        todo = [film for film in films if not is_whole(targets[film])]
        write: Callable[[Path, Path], None] = functools.partial(write_stored, short_side=args.short_side)
    else:
        made = {folder: films_of(folder, shape)[0] for folder in {path.parent for path in targets.values()}}
        todo = [
            film
            for film in films
            if not is_made_of(film, targets[film], made[targets[film].parent].get(targets[film].name))
        ]
        write = functools.partial(write_small_film, shape=shape)
    print(f"{args.films}: {len(films)} films, {len(films) - len(todo)} of them finished")
    failures = do_all(functools.partial(make, [(film, targets[film]) for film in todo], write), todo, args.workers)
    for folder in [] if args.sqlite else sorted(made):
        update_index(folder, shape)
    print(f"{args.output}: {len(films) - len(failures)} films, of {args.short_side} pixels or less on the shorter side")
    return tell_failures(args.output, [(film.relative_to(args.films), failures[film]) for film in sorted(failures)])


def prepare_list(args: Namespace) -> int:
    """Write the list of a data set, of films that are there and whole; returns the exit status."""
    rows = rows_of(args)
    paths = sorted({row.path for row in rows if row.path})
    if not paths:
        raise InputError(f"{args.films}: none of the {len(rows)} films of the list is there, such as {rows[0].name}")
    failures = do_all(functools.partial(check, paths), paths, args.workers)
    kept = [(row.path.resolve(), row) for row in rows if row.path and row.path not in failures]
    left_out = [
        (row.name, failures[row.path] if row.path else "missing")
        for row in rows
        if row.path is None or row.path in failures
    ]
    path, here = args.output / (f"split{args.split}.csv" if "split" in args else "list.csv"), args.output.resolve()
    write_table(
        path, ("video", "label", "split"), [(os.path.relpath(film, here), row.label, row.split) for film, row in kept]
    )
    classes = sorted({row.label for _, row in kept})
    with written_whole(args.output / "classes.txt") as part:
        part.write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    numbers = Counter(row.split for _, row in kept)
    print(f"{path}: {numbers['train']} films for training and {numbers['test']} to test, of {len(classes)} classes")
    status = tell_failures(args.output, left_out)
    # Films go from YouTube all the time.
    return 0 if args.command == "kinetics400" and not failures else status


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    helps = {
        "films": "small films",
        "ucf101": "list of UCF101",
        "hmdb51": "list of HMDB51",
        "kinetics400": "list of Kinetics-400",
        "folders": "list of a folder with a folder of films for each class",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text, description=f"Make {text}.", prog=f"{parser.prog} {name}")
        command.add_argument("films", type=Path, help="folder with the films, in it or in folders below")
        output = Path("small-films" if name == "films" else name)
        command.add_argument("--output", type=folder_path, default=output, help="folder for what is made")
        command.add_argument(
            "--workers", type=whole_number(0), default=granted_cores(), help="processes; 0 does all in this one"
        )
        if name == "films":
            command.add_argument(
                "--short_side",
                type=whole_number(16, 4096),
                default=144,
                help="pixels of a picture's shorter side, where it has more; 256 for networks of 224 x 224",
            )
            command.add_argument(
                "--keyframes", type=whole_number(1, 10_000), default=16, metavar="K", help="a key frame every K frames"
            )
            command.add_argument(
                "--sqlite", action="store_true", help="folders with frames.db and n_frames in place of small films"
            )
        elif name == "folders":
            command.add_argument(
                "--test_share", type=number_between(0, 0.9), default=0.25, help="of each class, to test on"
            )
            command.add_argument("--seed", type=whole_number(0), default=0, help="of the draw of what is tested on")
        else:
            command.add_argument("--lists", type=Path, help="folder with the data set's own lists; where the films are")
        if name in ("ucf101", "hmdb51"):
            command.add_argument("--split", type=whole_number(1, 3), default=1, help="which of the published three")
    args, unknown = parser.parse_known_args()
    if unknown:
        commands.choices[args.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    return args


def rows_of(args: Namespace) -> list[SetFilm]:
    """What the data set has, films that are missing with it."""
    if args.command == "folders":
        return data_sets.class_folders(args.films, args.test_share, args.seed)
    lists = args.lists or args.films
    if args.command == "kinetics400":
        return data_sets.kinetics400(args.films, lists)
    read = data_sets.ucf101 if args.command == "ucf101" else data_sets.hmdb51
    return read(args.films, lists, args.split)


def targets_of(films: Sequence[Path], folder: Path, output: Path, suffix: str) -> dict[Path, Path]:
    """What is made of each film: the same path below `output`, with another suffix. Raises InputError if two films
    would become one."""
    targets = {film: output / film.relative_to(folder).with_suffix(suffix) for film in films}
    first: dict[Path, Path] = {}
    for film, target in targets.items():
        if first.setdefault(target, film) != film:
            raise InputError(f"{first[target]} and {film} would both become {target}; rename one of them")
    return targets


def tell_failures(output: Path, failures: Sequence[tuple[object, str]]) -> int:
    """List what failed in failed.csv, or have none; returns the exit status."""
    path = output / "failed.csv"
    if not failures:
        path.unlink(missing_ok=True)
        return 0
    write_table(path, ("video", "reason"), [(one_line(str(name)), reason) for name, reason in failures])
    print(f"Films left out: {len(failures)}; list in {path}", file=sys.stderr)
    return 1


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file, whole."""
    with written_whole(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


if __name__ == "__main__":
    run(main)
