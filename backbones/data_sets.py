"""Films of published data sets: where they lie, of which class they are, and in which split.

Films are found in whatever folders below `folder`, full-size or small; the data set's own lists in or below `lists`.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from backbones.list_readers import SPLIT_WORDS, read_lines, read_table, seconds, segment_name, source_of
from backbones.stored_frames import DATABASE
from recognition.common.command_line import InputError, shown
from recognition.films.video import VIDEO_SUFFIXES


class SetFilm(NamedTuple):
    """A film of a data set."""

    name: str  # as the data set has it
    path: Path | None  # None: it is not there
    label: str
    split: str


def find_films(folder: Path) -> list[Path]:
    """The films in a folder and the folders below it, and folders with frames.db, by name; hidden ones are passed over.

    Raises InputError if there is no such folder, or no film in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the one with the films")
    found, seen = [], set()
    for root, folders, names in os.walk(folder, followlinks=True):  # data sets are often links to where there is room
        place = Path(root)
        if (real := place.resolve()) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        visible = [place / name for name in names if not name.startswith(".")]
        found += [path for path in visible if path.suffix.lower() in VIDEO_SUFFIXES]
        found += [place] if DATABASE in names else []
    if not found:
        raise InputError(f"{folder}: holds no film ({', '.join(sorted(VIDEO_SUFFIXES))}), nor do the folders in it")
    return sorted(found)


def ucf101(folder: Path, lists: Path, split: int) -> list[SetFilm]:
    """UCF101 (Soomro et al., arXiv 1212.0402): <class>/v_<class>_gNN_cNN, trainlist0K.txt and testlist0K.txt.

    Classes are taken from the paths: the lists number them from 1, and those for testing not at all.
    """
    films = _by_class(find_films(folder))
    rows = []
    for word in ("train", "test"):
        for place, line in read_lines(_only(lists, f"{word}list{split:02d}.txt")):
            label, slash, name = re.sub(r"\s+\d+$", "", line).partition("/")
            if not slash:
                raise InputError(f"{place}: {shown(line)} is not of the form class/film.avi")
            rows.append(SetFilm(f"{label}/{name}", films.get((label, _stem(name))), label, word))
    return rows


def hmdb51(folder: Path, lists: Path, split: int) -> list[SetFilm]:
    """HMDB51 (Kuehne et al., ICCV 2011): <class>/<film>, and <class>_test_splitK.txt with a film and a flag a line:
    1 for training, 2 for testing, 0 for neither."""
    films = _by_class(find_films(folder))
    paths = sorted(lists.rglob(f"*_test_split{split}.txt"))
    if not paths:
        raise InputError(f"{lists}: has no <class>_test_split{split}.txt; unpack test_train_splits.rar there")
    rows = []
    for path in paths:
        label = path.name.rpartition("_test_split")[0]
        for place, line in read_lines(path):
            name, _, flag = line.rpartition(" ")
            if flag not in ("0", "1", "2") or not name:
                raise InputError(f"{place}: {shown(line)} is no film with a flag of 0, 1 or 2")
            name = name.strip()
            if flag != "0":
                found = films.get((label, _stem(name)))
                rows.append(SetFilm(f"{label}/{name}", found, label, "train" if flag == "1" else "test"))
    return rows


def kinetics400(folder: Path, lists: Path) -> list[SetFilm]:
    """Kinetics (Kay et al., arXiv 1705.06950): <id>_<start>_<end> in whatever folders, and train.csv with val.csv or
    validate.csv, of columns label, youtube_id, time_start, time_end, split.

    Films for validation are the test films, as the field has them; those that Kinetics has for testing are left out.
    """
    films = {path.name if path.is_dir() else path.stem: path for path in find_films(folder)}
    rows = []
    for path in (_only(lists, "train.csv"), _only(lists, "val.csv", "validate.csv")):
        for place, row in read_table(path):
            if missing := {"label", "youtube_id", "time_start", "time_end"} - row.keys():
                raise InputError(f"{path}:1: lacks the column {min(missing)}")
            word = SPLIT_WORDS.get(row.get("split") or path.stem)
            start_s, end_s = (seconds(place, column, row[column]) for column in ("time_start", "time_end"))
            if word is None or start_s is None or end_s is None:
                raise InputError(f"{place}: lacks its split, or the times of its segment")
            name = segment_name(row["youtube_id"], start_s, end_s)
            if word != "test":
                rows.append(SetFilm(name, films.get(name), row["label"], "train" if word == "train" else "test"))
    return rows


def class_folders(folder: Path, test_share: float, seed: int) -> list[SetFilm]:
    """A folder of class folders, with its own split: of each class the clips of `test_share` of what they were cut from
    (see `source_of`), at least of one and not of all, by a draw that the seed and the class's name decide."""
    by_class: dict[str, dict[str, list[Path]]] = {}
    for path in find_films(folder):
        label, *rest = path.relative_to(folder).parts
        if not rest:
            raise InputError(f"{path}: is in no class's folder; have folders of classes in {folder}, with the films")
        by_class.setdefault(label, {}).setdefault(source_of("/".join((label, *rest))), []).append(path)
    rows = []
    for label, sources in by_class.items():
        order = np.random.default_rng((seed, *label.encode())).permutation(sorted(sources))
        num_tests = min(max(1, round(test_share * len(order))), len(order) - 1) if test_share else 0
        tests = set(order[:num_tests])
        for source, paths in sources.items():
            split = "test" if source in tests else "train"
            rows += [SetFilm(path.relative_to(folder).as_posix(), path, label, split) for path in paths]
    return rows


def _by_class(films: Iterable[Path]) -> dict[tuple[str, str], Path]:
    """Films by their class's folder and their name without its suffix, so that small films are found too."""
    return {(path.parent.name, path.name if path.is_dir() else path.stem): path for path in films}


def _stem(name: str) -> str:
    """A name of a film without its suffix."""
    return Path(name).stem if Path(name).suffix.lower() in VIDEO_SUFFIXES else name


def _only(folder: Path, *names: str) -> Path:
    """The one file of these names in a folder and those below it."""
    found = [path for name in names for path in sorted(folder.rglob(name))]
    if len(found) != 1:
        many = f"{len(found)} of them, such as {found[0]} and {found[1]}" if found else "none"
        raise InputError(
            f"{folder}: there must be one {' or '.join(names)} in it or in the folders below; found {many}"
        )
    return found[0]
