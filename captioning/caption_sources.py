"""Captions as others have them: ActivityNet's JSON, rows of its copy on the hub, and tables of one's own films."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from captioning.captions import SPLITS, Caption, check_film, clean, has_words, read_table, read_text, seconds
from captioning.json_file import read_json
from recognition.common.command_line import InputError, nearest, shown
from recognition.films.manifest import VIDEO_ID

OVERHANG_S = 1.0  # how far a segment may reach beyond its film, which rounding and conversion do
HUB_COLUMNS = ("video_id", "captions_starts", "captions_ends", "en_captions")
# What the columns of one's own tables may be called.
NAMES = {
    "film": ("film", "video", "video_id"),
    "start_s": ("start_s", "start"),
    "end_s": ("end_s", "end"),
    "caption": ("caption", "sentence", "text"),
}


class Segment(NamedTuple):
    """A caption as it is found, before it is checked."""

    place: str  # file, line, and what of it
    film: str
    start_s: Any
    end_s: Any
    text: Any
    split: str = ""  # where the source says one
    duration_s: float | None = None  # of the film
    address: str = ""  # of the film


def activitynet(path: Path) -> list[Segment]:
    """Segments of a file of ActivityNet Captions: `{"v_ID": {"duration", "timestamps", "sentences"}}`, or rows with the
    columns of its copy on the hub, in JSON, a list or a line each, or in columns.

    A film is named by its ID alone, as step 1 names its file. Raises InputError, which names file and line.
    """
    if path.suffix == ".jsonl":
        return [segment for place, row in _json_lines(path) for segment in _hub_row(place, row)]
    content = read_json(path)
    if isinstance(content, list):
        place = f"{path}, row"
        return [segment for number, row in enumerate(content, 1) for segment in _hub_row(f"{place} {number}", row)]
    if isinstance(content, dict) and content.keys() >= set(HUB_COLUMNS):
        rows = _rows_of_columns(path, content)
        return [segment for number, row in enumerate(rows, 1) for segment in _hub_row(f"{path}, row {number}", row)]
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path}: is neither {{film: {{timestamps, sentences}}}} nor rows of {', '.join(HUB_COLUMNS)}")
    lines = _lines_of_keys(path, content)
    return [
        segment
        for film, row in content.items()
        for segment in _of_film(f"{path}:{lines[film]}: {film}", film, row, ("timestamps", "sentences"))
    ]


def own_table(path: Path) -> list[Segment]:
    """Segments of a table of one's own: film, start_s, end_s, caption, perhaps split, in CSV or as a list of objects in
    JSON; or JSON as ActivityNet has it. Raises InputError, which names file and line."""
    if path.suffix != ".json":
        return [_own_row(place, row) for place, row in read_table(path)]
    content = read_json(path)
    if not isinstance(content, list):
        return activitynet(path)
    return [_own_row(f"{path}, row {number}", row) for number, row in enumerate(content, 1)]


def is_wrong(segment: Segment) -> str | None:
    """What is wrong with a segment's times or text, in one line that names its place; None if nothing is."""
    try:
        start_s, end_s = _times(segment)
    except InputError as error:
        return str(error)
    length = segment.duration_s
    if end_s <= start_s:
        return f"{segment.place}: the segment ends at {end_s:g} s, and starts at {start_s:g} s"
    if length is not None and (start_s >= length or end_s > length + OVERHANG_S):
        return f"{segment.place}: the segment, {start_s:g} to {end_s:g} s, is outside its film of {length:g} s"
    if not isinstance(segment.text, str):
        return f"{segment.place}: the caption {shown(segment.text)} is no text"
    if not has_words(segment.text):
        return f"{segment.place}: the caption {shown(segment.text)} says nothing"
    return None


def as_captions(segments: Sequence[Segment], split: str = "") -> list[Caption]:
    """Segments as captions of clips, numbered within each film by start, then end, from 0.

    Args:
        segments: with nothing wrong, see `is_wrong`.
        split: of those that say none themselves.
    """
    films: dict[str, list[Segment]] = {}
    for segment in segments:
        films.setdefault(segment.film, []).append(segment)
    return [
        Caption(film, number, *_cut(segment), clean(segment.text), segment.split or split, segment.place)
        for film, of_film in films.items()
        for number, segment in enumerate(sorted(of_film, key=_times))
    ]


def draw_splits(films: Sequence[str], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """A split for each film at random: those with a share, in whole films to the nearest, the rest for training. The
    same for one set of films and one seed, whatever their order."""
    order = np.random.default_rng(seed).permutation(sorted(set(films))).tolist()
    splits, start = dict.fromkeys(order, "train"), 0
    for split, share in shares.items():
        end = start + round(share * len(order))
        splits |= dict.fromkeys(order[start:end], split)
        start = end
    return splits


def bare(film: str) -> str:
    """The ID of a film on YouTube, without the `v_` that ActivityNet puts before it."""
    rest = film.removeprefix("v_")
    return rest if VIDEO_ID.fullmatch(rest) else film


def _times(segment: Segment) -> tuple[float, float]:
    return seconds(segment.place, "start", segment.start_s), seconds(segment.place, "end", segment.end_s)


def _cut(segment: Segment) -> tuple[float, float]:
    """Start and end within the film."""
    start_s, end_s = _times(segment)
    return start_s, end_s if segment.duration_s is None else min(end_s, segment.duration_s)


def _of_film(place: str, film: Any, row: Any, columns: tuple[str, str]) -> Iterator[Segment]:
    """Of an object with a film's segments and their captions."""
    check_film(place, film)
    if not isinstance(row, Mapping) or not all(isinstance(row.get(name), list) for name in columns):
        raise InputError(f"{place}: has no lists {' and '.join(columns)}")
    segments, texts = (row[name] for name in columns)
    if len(segments) != len(texts):
        raise InputError(f"{place}: has {len(segments)} segments and {len(texts)} captions")
    duration_s = row.get("duration")
    length = None if duration_s is None else seconds(place, "duration", duration_s)
    for number, (times, text) in enumerate(zip(segments, texts, strict=True), 1):
        here = f"{place}, segment {number}"
        if not isinstance(times, list) or len(times) != 2:
            raise InputError(f"{here}: {shown(times)} is no pair of start and end")
        address = row.get("video_path")
        yield Segment(
            here,
            bare(film),
            start_s=times[0],
            end_s=times[1],
            text=text,
            duration_s=length,
            address=address if isinstance(address, str) else "",
        )


def _hub_row(place: str, row: Any) -> Iterator[Segment]:
    if not isinstance(row, Mapping) or not row.keys() >= set(HUB_COLUMNS):
        raise InputError(f"{place}: is to have {', '.join(HUB_COLUMNS)}")
    film, starts, ends, texts = (row[name] for name in HUB_COLUMNS)
    if not all(isinstance(part, list) for part in (starts, ends, texts)) or len(starts) != len(ends):
        raise InputError(f"{place}: captions_starts, captions_ends and en_captions are to be lists of one length")
    pairs = [[start, end] for start, end in zip(starts, ends, strict=True)]
    whole = {**row, "timestamps": pairs, "sentences": texts}
    yield from _of_film(f"{place}: {shown(film)}", film, whole, ("timestamps", "sentences"))


def _own_row(place: str, row: Any) -> Segment:
    if not isinstance(row, Mapping):
        raise InputError(f"{place}: {shown(row)} is no row of film, start_s, end_s, caption")
    values = {}
    for name, others in NAMES.items():
        column = next((other for other in others if other in row), None)
        if column is None:
            raise InputError(f"{place}: there is no column {name}; {nearest(name, map(str, row))}")
        values[name] = row[column]
    split = row.get("split") or ""
    if split not in ("", *SPLITS):
        raise InputError(f"{place}: split {shown(split)} is none of {', '.join(SPLITS)}")
    check_film(place, values["film"])
    return Segment(place, values["film"], values["start_s"], values["end_s"], values["caption"], split)


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            try:
                yield f"{path}:{number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}:{number}: is no JSON ({error})") from None


def _rows_of_columns(path: Path, columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    values = [columns[name] for name in HUB_COLUMNS]
    if not all(isinstance(column, list) and len(column) == len(values[0]) for column in values):
        raise InputError(f"{path}: {', '.join(HUB_COLUMNS)} are to be lists of one length")
    return [dict(zip(HUB_COLUMNS, row, strict=True)) for row in zip(*values, strict=True)]


def _lines_of_keys(path: Path, content: Mapping[str, Any]) -> dict[str, int]:
    """The line on which each film of a JSON file begins."""
    text = read_text(path)
    lines, line, place = {}, 1, 0
    for film in content:  # in the order of the file
        found = max(text.find(f'"{film}"', place), place)
        line += text.count("\n", place, found)
        lines[film], place = line, found
    return lines
