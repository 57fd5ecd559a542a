"""What lists of films say, a line each, in the forms that are about: our own CSV, the CSV files of data sets, and lines
of a path and the number of a class."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from recognition.common.command_line import InputError, shown

SPLITS = ("train", "validation", "test")
# As names of files and columns have them.
SPLIT_WORDS = {"train": "train", "val": "validation", "validate": "validation", "validation": "validation"}
SPLIT_WORDS |= {"test": "test"}
# Where a film was cut from: UCF101's groups, and what Kinetics and HACS call a segment of a film on YouTube.
GROUP, SEGMENT = re.compile(r"(v_.+_g\d+)_c\d+"), re.compile(r"(.+)_\d{6}_\d{6}")


class Entry(NamedTuple):
    """A line of a list."""

    place: str  # file:line
    names: tuple[tuple[str, bool], ...]  # that the film may have, and whether it then is a longer one to be cut
    label: str
    split: str  # a word of SPLITS
    source: str
    is_alone: bool = False  # whether the source must not be in two splits
    start_s: float | None = None
    end_s: float | None = None


def read_entries(path: Path) -> list[Entry]:
    """All that a list says; of one in several files, a split each, all files: those named as `path` is but for train,
    val or test, or named `path` with _train, _val or _test.

    Where validation films are all there is to test on they are test films, unless the list is our own.

    Raises InputError, which names file and line, for what cannot be understood.
    """
    files = split_files(path)
    kind = _kind(files[0][0])
    if kind == "ours":
        return [entry for file, _ in ([(path, "")] if path.is_file() else files) for entry in _own_entries(file)]
    read = _data_set_entries if kind == "data set" else _numbered_entries
    entries = list(read(files))
    if not any(entry.split == "test" for entry in entries):
        entries = [entry._replace(split="test") if entry.split == "validation" else entry for entry in entries]
    return entries


def source_of(name: str) -> str:
    """What film a clip was cut from, by its name; the name itself where that does not say."""
    last = PurePosixPath(name).name
    stem = last.rpartition(".")[0] or last
    match = GROUP.fullmatch(stem) or SEGMENT.fullmatch(stem)
    return match[1] if match else name


def split_files(path: Path) -> list[tuple[Path, str]]:
    """The files of a list that are there, and the split of each by its name, "" where that does not say one."""
    found = list(re.finditer("train|validation|validate|val|test", path.stem))
    if found:
        start, end = found[-1].span()
        others = [
            (path.with_name(path.stem[:start] + word + path.stem[end:] + path.suffix), word) for word in SPLIT_WORDS
        ]
    else:
        others = [(path.with_name(f"{path.stem}_{word}{path.suffix}"), word) for word in SPLIT_WORDS]
        if path.is_file():
            return [(path, "")]
    files = [(other, SPLIT_WORDS[word]) for other, word in others if other.is_file()]
    if not files or (found and not path.is_file()):
        raise InputError(f"{path}: no such list of films; python -m backbones.prepare makes one")
    return files


def read_table(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a CSV file with a header, each with its place. Raises InputError where it is none."""
    reader = csv.reader(io.StringIO(_text(path), newline=""))
    header: list[str] = []
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if not header:
                header = [cell.strip() for cell in row]
            elif len(row) != len(header):
                raise InputError(f"{path}:{reader.line_num}: has {len(row)} columns, the header has {len(header)}")
            else:
                yield f"{path}:{reader.line_num}", dict(zip(header, map(str.strip, row), strict=True))
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: cannot be read as CSV ({error})") from None


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines of a file that are not blank, each with its place, without blanks at their ends."""
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            yield f"{path}:{number}", line.strip()


def seconds(place: str, column: str, text: str | None) -> float | None:
    """A time of a row; None where it is not said. Raises InputError where it is none."""
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise InputError(f"{place}: {column} {shown(text)} is no time in seconds")
    return value


def segment_name(name: str, start_s: float, end_s: float) -> str:
    """The name of a segment's file, as Kinetics and HACS have it: whole seconds of six digits."""
    return f"{name}_{int(start_s):06d}_{int(end_s):06d}"


def _kind(path: Path) -> str:
    """Which form a list has, by its first line."""
    place, line = next(read_lines(path), ("", ""))
    columns = {cell.strip() for cell in next(csv.reader([line]), [])}
    if not place:
        raise InputError(f"{path}: lists no film; its first line is to be video,label,split")
    if columns >= {"video", "label", "split"}:
        return "ours"
    if "label" in columns and columns & {"id", "youtube_id"}:
        return "data set"
    if columns & {"video", "label", "split"} and len(columns) > 1:
        missing = {"video", "label", "split"} - columns
        raise InputError(f"{place}: lacks the column {min(missing)}; a list begins with video,label,split")
    return "numbered"


def _own_entries(path: Path) -> Iterator[Entry]:
    for place, row in read_table(path):
        if row["split"] not in SPLITS:
            raise InputError(f"{place}: split {shown(row['split'])} is none of {', '.join(SPLITS)}")
        for column in ("video", "label"):
            if not row[column]:
                raise InputError(f"{place}: {column} is empty")
        start_s, end_s = (seconds(place, column, row.get(column)) for column in ("start_s", "end_s"))
        if end_s is not None and end_s <= (start_s or 0):
            raise InputError(f"{place}: end_s {end_s:g} does not follow start_s {start_s or 0:g}")
        names = ((row["video"], True),)
        yield Entry(place, names, row["label"], row["split"], source_of(row["video"]), False, start_s, end_s)


def _data_set_entries(files: list[tuple[Path, str]]) -> Iterator[Entry]:
    """Of columns label, youtube_id or id and, where they are there, time_start, time_end and split."""
    for path, split_of_file in files:
        for place, row in read_table(path):
            split = SPLIT_WORDS.get(row.get("split") or split_of_file)
            if split is None:
                raise InputError(
                    f"{place}: split {shown(row.get('split', ''))} is none of train, val and test; name the files of a "
                    f"list without the column split ..._train.csv and ..._val.csv"
                )
            name, label = row.get("youtube_id") or row.get("id", ""), row.get("label", "")
            if not (name and label):
                raise InputError(f"{place}: {'label' if name else 'the id'} is empty")
            start_s, end_s = (seconds(place, column, row.get(column)) for column in ("time_start", "time_end"))
            names = [(f"{folder}/{name}", True) for folder in _folders(label)]
            if start_s is not None and end_s is not None:
                segment = segment_name(name, start_s, end_s)
                names += [(f"{folder}/{segment}", False) for folder in _folders(label)] + [(segment, False)]
            yield Entry(place, (*names, (name, True)), label, split, source_of(name), True, start_s, end_s)


def _folders(label: str) -> list[str]:
    """Names of a class's folder."""
    return list(dict.fromkeys([label, label.replace(" ", "_")]))


def _numbered_entries(files: list[tuple[Path, str]]) -> Iterator[Entry]:
    """Of lines such as `class/film.avi 7`, cut at the last blank, or without a number.

    A film's class is its folder's, where each folder has one number and each number one folder, and the number itself
    otherwise. Where a line has none it is the folder's in any case.
    """
    cut = [(place, split, *_cut(line)) for path, split in files for place, line in read_lines(path)]
    pairs = {(PurePosixPath(name).parent.name, number) for _, _, name, number in cut if number}
    folders, numbers = {folder for folder, _ in pairs}, {number for _, number in pairs}
    by_folder = "" not in folders and len(pairs) == len(folders) == len(numbers)
    for place, split, name, number in cut:
        folder = PurePosixPath(name).parent.name
        if not split:
            raise InputError(f"{place}: nothing says which split it is of; have train, val or test in the file's name")
        if not (folder if by_folder else number):
            raise InputError(f"{place}: {shown(name)} has no class; a line is to be path and number, or class/film")
        yield Entry(place, ((name, True),), folder if by_folder else number, split, source_of(name))


def _cut(line: str) -> tuple[str, str]:
    """A line's path and number, "" where it has none."""
    name, _, number = line.rpartition(" ")
    return (name.strip(), number) if name and number.isdecimal() else (line, "")


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such list of films; python -m backbones.prepare makes one") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not text in UTF-8 (byte {error.start})") from None
