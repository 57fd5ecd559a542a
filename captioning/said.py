"""What was said of clips, captions.json: `{film: [{clip, start_s, end_s, caption, references, retrieved}]}`, retrieved
being `[{clip, share}]`; and the pairs of files that other programs write and read, `{running number: text}`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from captioning.caption_sources import activitynet, as_captions, is_wrong
from captioning.captions import read_captions, seconds
from captioning.json_file import read_json
from recognition.common.command_line import InputError, shown
from recognition.common.files import written_whole

SAME_SEGMENT = 0.5  # how much of the time that two segments take together both must share to be of one clip


@dataclass(frozen=True)
class Read:
    """An earlier clip that memory read, and its share in all that was read, from 0 to 1."""

    clip: int
    share: float


@dataclass(frozen=True)
class Said:
    """The caption of a clip, with what it is compared to."""

    film: str
    clip: int
    start_s: float
    end_s: float
    caption: str  # may be empty
    references: list[str]  # none of a film that is not in a table
    retrieved: list[Read] = field(default_factory=list)  # what memory read most for it, the most first


def read_said(path: Path) -> list[Said]:
    """The captions of a captions.json, film by film. Raises InputError, which names film and clip."""
    films = read_json(path)
    if not (isinstance(films, dict) and all(isinstance(clips, list) for clips in films.values())):
        raise InputError(f"{path}: is to hold {{film: [{{clip, start_s, end_s, caption, references}}]}}")
    said = [
        _said(f"{path}: film {shown(film)}, entry {number}", film, clip)
        for film, clips in films.items()
        for number, clip in enumerate(clips, 1)
    ]
    if not said:
        raise InputError(f"{path}: has no captions")
    seen = set()
    for clip in said:
        if (clip.film, clip.clip) in seen:
            raise InputError(f"{path}: clip {clip.clip} of {shown(clip.film)} is there twice")
        seen.add((clip.film, clip.clip))
    return said


def write_said(path: Path, said: Iterable[Said]) -> None:
    """Write captions.json, whole."""
    films: dict[str, list[dict[str, Any]]] = {}
    for clip in said:
        row = {name: value for name, value in asdict(clip).items() if name != "film"}
        films.setdefault(clip.film, []).append(row)
    with written_whole(path) as part:
        part.write_text(json.dumps(films, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def is_numbered(films: Any) -> bool:
    """Whether what a JSON file holds is {running number: text}."""
    return isinstance(films, dict) and bool(films) and all(isinstance(text, str) for text in films.values())


def read_numbered(path: Path, reference_files: Sequence[Path]) -> list[Said]:
    """Captions {running number: text} with the references of files alike. Each is a film of its own, as nothing says
    which film it is of. Raises InputError if the numbers are not the same."""
    captions = read_json(path)
    if not reference_files:
        raise InputError(f"{path}: has captions by running numbers and no references; give --reference_file")
    references = [read_json(file) for file in reference_files]
    for file, texts in zip(reference_files, references, strict=True):
        if not is_numbered(texts):
            raise InputError(f"{file}: is to hold {{running number: text}}, as {path} does")
        if wrong := sorted(captions.keys() ^ texts.keys()):
            raise InputError(f"{file}: {shown(wrong[0])} is not in both this file and {path}; their numbers must agree")
    return [Said(key, 0, 0.0, 0.0, text, [texts[key] for texts in references]) for key, text in captions.items()]


def with_references(said: Sequence[Said], files: Sequence[Path]) -> list[Said]:
    """Captions with the references of other files, tables, captions.json or ActivityNet's, in place of their own.

    Of each file a clip gets the caption of its film whose segment shares the most time with its own, if that is half of
    the time that the two take together, or more. Raises InputError for a clip that gets none of any file.
    """
    of_files = [_references(file) for file in files]
    found = []
    for clip in said:
        texts = [text for films in of_files for text in _of_segment(clip, films.get(clip.film, []))]
        if not texts:
            raise InputError(
                f"{files[0]}: has no caption for clip {clip.clip} of {shown(clip.film)}, {clip.start_s:g} to "
                f"{clip.end_s:g} s" + (", nor have the other files" if len(files) > 1 else "")
            )
        found.append(Said(clip.film, clip.clip, clip.start_s, clip.end_s, clip.caption, texts, clip.retrieved))
    return found


def _said(place: str, film: str, clip: Any) -> Said:
    if not isinstance(clip, Mapping):
        raise InputError(f"{place}: {shown(clip)} is no clip")
    if missing := {"clip", "start_s", "end_s", "caption", "references"} - clip.keys():
        raise InputError(f"{place}: has no {min(missing)}")
    number, caption, references = clip["clip"], clip["caption"], clip["references"]
    if not isinstance(number, int) or isinstance(number, bool):
        raise InputError(f"{place}: clip {shown(number)} is no whole number")
    if not isinstance(references, list):
        raise InputError(f"{place}: references are to be a list of texts, not {shown(references)}")
    for text in (caption, *references):
        if not isinstance(text, str):
            raise InputError(f"{place}: {shown(text)} is no text")
    start_s, end_s = (seconds(place, name, clip[name]) for name in ("start_s", "end_s"))
    return Said(film, number, start_s, end_s, caption, references, _read(place, clip.get("retrieved") or []))


def _read(place: str, retrieved: Any) -> list[Read]:
    try:
        found = [Read(entry["clip"], float(entry["share"])) for entry in retrieved]
    except (TypeError, KeyError, ValueError):
        found = None
    if found is None or any(type(read.clip) is not int or not 0 <= read.share <= 1 for read in found):
        raise InputError(
            f"{place}: retrieved is to be a list of {{clip, share}}; python -m captioning.generate writes it anew"
        )
    return found


def _references(file: Path) -> dict[str, list[Said]]:
    """What a file of references says of each film."""
    content = read_json(file) if file.suffix == ".json" else None
    if isinstance(content, dict) and all(isinstance(clips, list) for clips in content.values()):
        said = read_said(file)
    else:
        if content is None:
            rows = read_captions(file)
        else:
            rows = as_captions([row for row in activitynet(file) if not is_wrong(row)])
        said = [Said(row.film, row.clip, row.start_s, row.end_s, "", [row.caption]) for row in rows]
    films: dict[str, list[Said]] = {}
    for clip in said:
        films.setdefault(clip.film, []).append(clip)
    return films


def _of_segment(clip: Said, others: Sequence[Said]) -> list[str]:
    """The references of the segment that is the clip's, of equals that of its number; none if no segment is."""
    shares = [(_shared(clip, other), other.clip == clip.clip) for other in others]
    if not shares or max(shares)[0] < SAME_SEGMENT:
        return []
    return others[shares.index(max(shares))].references


def _shared(clip: Said, other: Said) -> float:
    together = max(clip.end_s, other.end_s) - min(clip.start_s, other.start_s)
    common = min(clip.end_s, other.end_s) - max(clip.start_s, other.start_s)
    return max(common, 0.0) / together if together else 1.0
