"""The key of an experiment: what its files show, and which answers are right. It never lies in the experiment's folder.

`experiment.key.json` beside the folder `experiment`. Files are named by their paths below the folder.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recognition.common.command_line import InputError, first_line, shown
from recognition.common.files import is_there, read_whole, written_whole
from recognition.episodes.episode_spec import CLIP_KINDS, PROBE_KINDS

FORMAT_VERSION = 1
DIGITS = 16  # of the digest by which sessions name their experiment

Place = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
File = Annotated[str, Field(pattern=r"^stimuli/[A-Za-z0-9/._-]+$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class _Clip(_Part):
    file: File
    rows: Annotated[list[tuple[str, Place, Place]], Field(min_length=1, max_length=2)]  # film, first frame, end
    kind: Literal[CLIP_KINDS] | None  # type: ignore[valid-type]
    num_frames: Annotated[int, Field(ge=1)]  # pictures shown
    seconds: Seconds
    sha256: Digest


class _Probe(_Part):
    file: File
    video_id: str
    frame: Place
    is_old: bool
    kind: Literal[PROBE_KINDS]  # type: ignore[valid-type]
    clip: Place | None  # in which it lies; none for a new one
    at_s: Seconds | None = None  # when that clip shows it, or the frame before it
    sha256: Digest


class _Pair(_Part):
    first_file: File  # the picture of the frame that was shown earlier
    second_file: File
    left: File
    right: File
    earlier: Literal["left", "right"]
    clip: Place | None  # with both frames; none for those of two clips
    distance_frames: int
    clip_kind: Literal[CLIP_KINDS] | None  # type: ignore[valid-type]


class _Check(_Part):
    after_clip: Annotated[int, Field(ge=1)]  # clips seen before
    key: str


class _Question(_Part):
    after_clip: Annotated[int, Field(ge=1)]
    text: str
    keys: list[str]
    answer: str


class _Episode(_Part):
    clips: list[_Clip]
    probes: list[_Probe]
    pairs: list[_Pair] = []
    checks: list[_Check] = []
    questions: list[_Question] = []


class _Content(_Part):
    format_version: Literal[FORMAT_VERSION]  # type: ignore[valid-type]
    experiment: str
    index_file: str
    index_sha256: Digest
    settings: dict[str, Any]
    practice: _Episode
    episodes: Annotated[dict[str, _Episode], Field(min_length=1)]


@dataclass(frozen=True)
class Key:
    """What an experiment shows.

    Attributes:
        index_file: the index file of the episodes, as it was named, and its SHA-256.
        settings: the options of the export.
        practice, episodes: by the number in the index, as text. Each has clips, probes, pairs, checks and questions,
            lists of what the fields of _Clip, _Probe, _Pair, _Check and _Question say.
    """

    index_file: str
    index_sha256: str
    settings: Mapping[str, Any]
    practice: Mapping[str, Any]
    episodes: Mapping[str, Mapping[str, Any]]

    @property
    def experiment(self) -> str:
        """The digest of all this, by which sessions name their experiment."""
        return _digest(self._content())

    def _content(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "index_file": self.index_file,
            "index_sha256": self.index_sha256,
            "settings": dict(self.settings),
            "practice": self.practice,
            "episodes": dict(self.episodes),
        }

    def as_json(self) -> str:
        """The content of its file."""
        return json.dumps({"experiment": self.experiment, **self._content()}, indent=1, allow_nan=False) + "\n"


def write_key(path: Path, key: Key) -> None:
    """Write a key's file. Raises OSError."""
    with written_whole(path) as part:
        part.write_text(key.as_json(), encoding="utf-8")


def read_key(path: Path) -> Key:
    """Read a key. Raises InputError if it is missing, damaged or was edited, and OSError if the system does not let it
    be read."""
    if not is_there(path) or path.is_dir():
        raise InputError(f"{path}: no such key; participants export writes it beside the experiment's folder")
    try:
        told = json.loads(read_whole(path).getvalue())
        if not isinstance(told, dict) or "format_version" not in told:
            raise ValueError("has no format_version")
        if told["format_version"] != FORMAT_VERSION:
            raise InputError(f"{path}: format {shown(told['format_version'])}, this program reads {FORMAT_VERSION}")
        content = _Content.model_validate_json(json.dumps(told))
    except InputError:
        raise
    except ValidationError as error:
        found = error.errors()[0]
        place = ".".join(map(str, found["loc"]))
        raise InputError(f"{path}: not a key: {place}: {found['msg']}; take it as export wrote it") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a key ({first_line(error)}); take it as export wrote it") from None
    if _digest({name: value for name, value in told.items() if name != "experiment"}) != content.experiment:
        raise InputError(f"{path}: was edited: it is not the experiment {shown(content.experiment)} that it says it is")
    _check(path, content)
    return Key(*(told[name] for name in ("index_file", "index_sha256", "settings", "practice", "episodes")))


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def _check(path: Path, content: _Content) -> None:
    """Raise InputError where parts of a key contradict each other."""
    for name, episode in {"practice": content.practice, **content.episodes}.items():
        for number, probe in enumerate(episode.probes):
            where = f"{path}: not a key: episode {name}, probe {number}:"
            if probe.is_old != (probe.kind == "old") or probe.is_old != (probe.clip is not None):
                raise InputError(f"{where} is_old, kind and clip disagree")
            if probe.clip is not None and not any(
                video_id == probe.video_id and start <= probe.frame < end
                for video_id, start, end in (episode.clips[probe.clip].rows if probe.clip < len(episode.clips) else ())
            ):
                raise InputError(f"{where} does not lie in its clip")
        for number, pair in enumerate(episode.pairs):
            shown_first = {"left": (pair.left, pair.right), "right": (pair.right, pair.left)}[pair.earlier]
            if shown_first != (pair.first_file, pair.second_file):
                raise InputError(f"{path}: not a key: episode {name}, pair {number}: sides and files disagree")
