"""A crowd: people who did the same task, as a folder that stands beside the folders of runs.

`<folder>/people.json` has what is told of each person, `<folder>/answers.npz` what each answered:

    answer (R, P)     float32, 3 sure old, 2, 1, -1, -2, -3 sure new, nan for no answer
    is_old (R, P)     uint8
    rt_ms (R, P)      float32, from the onset of the picture, nan for no answer
    lag_s (R, P)      float32, from the onset of the frame in its clip to that of the picture, nan where it is not known
    episode (R,)      int32, of the index file, -1 for episodes of another source
    id (R,)           the person

A person is to a crowd what a seed is to a model: scores are found for each and averaged, never found of all answers
together, which would take differences in criterion for want of memory.

Shapes: R persons, P probes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recognition.common.command_line import InputError, first_line
from recognition.common.files import is_there, read_whole, written_whole

FORMAT_VERSION = 1
PEOPLE_FILE, ANSWERS_FILE = "people.json", "answers.npz"
TYPES = {"answer": np.float32, "is_old": np.uint8, "rt_ms": np.float32, "lag_s": np.float32, "episode": np.int32}
GRADES = (-3, -2, -1, 1, 2, 3)
KEYS = ("id", "left_out", "flags", "scores", "by_clip_kind", "median_rt_s", "order", "facts")  # of a person
SCORES = ("accuracy", "hit_rate", "false_alarm_rate", "d_prime", "criterion", "auc")  # of every person with answers


@dataclass(frozen=True)
class Crowd:
    """People and their answers, a row of each array for each person.

    persons: of each a mapping with KEYS: id; left_out, None or the reason; flags; scores, as `summarise` gives them,
        with "zroc", or None for a person without answers to old and new probes; by_clip_kind, [{kind, hit_rate,
        false_alarm_rate, d_prime, num_probes}]; median_rt_s; order, None or {accuracy, num_pairs, by_clip_kind};
        facts, whatever else is known.
    source: where the answers come from, in words. index_sha256: of the index file of the episodes, None if there is
        none.
    """

    name: str
    source: str
    index_sha256: str | None
    persons: list[dict[str, Any]]
    answer: np.ndarray
    is_old: np.ndarray
    rt_ms: np.ndarray
    lag_s: np.ndarray
    episode: np.ndarray
    id: np.ndarray

    @property
    def is_counted(self) -> np.ndarray:
        """(R,) who is not left out."""
        return np.array([person["left_out"] is None for person in self.persons], bool)

    @property
    def counted(self) -> list[dict[str, Any]]:
        """The persons who are not left out."""
        return [person for person in self.persons if person["left_out"] is None]


def write_crowd(folder: Path, crowd: Crowd) -> None:
    """Write a crowd into its folder, people.json last. Raises ValueError if its parts contradict each other, or for
    numbers that JSON cannot say, such as nan."""
    arrays = {name: getattr(crowd, name).astype(kind) for name, kind in TYPES.items()} | {"id": crowd.id.astype(str)}
    _check(crowd.persons, arrays)
    told = {
        "format_version": FORMAT_VERSION,
        "name": crowd.name,
        "source": crowd.source,
        "index_sha256": crowd.index_sha256,
        "persons": crowd.persons,
    }
    text = json.dumps(told, indent=2, allow_nan=False)
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / ANSWERS_FILE) as part, open(part, "wb") as file:
        np.savez_compressed(file, **arrays)
    with written_whole(folder / PEOPLE_FILE) as part:
        part.write_text(text + "\n", encoding="utf-8")


def is_crowd(folder: Path) -> bool:
    """Whether a folder is that of a crowd."""
    return is_there(folder / PEOPLE_FILE)


def read_crowd(folder: Path) -> Crowd:
    """What `write_crowd` wrote. Raises InputError if it is not there or not whole, and OSError if the system does not
    let it be read."""
    path = folder / PEOPLE_FILE
    if not is_there(path):
        raise InputError(f"{path}: no such file; make it with python -m recognition.participants read")
    told = _read_people(path)
    path = folder / ANSWERS_FILE
    if not is_there(path):
        raise InputError(f"{path}: no such file, though {PEOPLE_FILE} is there; read the answers anew")
    content = read_whole(path)
    try:
        with np.load(content, allow_pickle=False) as file:
            arrays = {name: file[name] for name in (*TYPES, "id")}
        _check(told["persons"], arrays)
    except Exception as error:  # zipfile, zlib and numpy raise many kinds for a damaged file
        raise InputError(f"{path}: not the answers of a crowd ({first_line(error)}); read them anew") from None
    return Crowd(told["name"], told["source"], told["index_sha256"], told["persons"], **arrays)


def _read_people(path: Path) -> Mapping[str, Any]:
    try:
        told = json.loads(read_whole(path).getvalue())
        version = told["format_version"]
        if version == FORMAT_VERSION:
            for name, kinds in (("name", str), ("source", str), ("index_sha256", (str, type(None))), ("persons", list)):
                if not isinstance(told[name], kinds):
                    raise ValueError(f"{name} is of a wrong type")
            for person in told["persons"]:
                _check_person(person)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
        raise InputError(f"{path}: not a file of people ({reason}); read the answers anew") from None
    if version != FORMAT_VERSION:
        raise InputError(f"{path}: format {version}, this program reads {FORMAT_VERSION}")
    return told


def _check_person(person: Mapping[str, Any]) -> None:
    """Raise ValueError or KeyError for what is not a person of `Crowd`."""
    for key in KEYS:
        person[key]
    name, scores = person["id"], person["scores"]
    if not isinstance(name, str) or not name:
        raise ValueError("a person has no id")
    if scores is None and person["left_out"] is None:
        raise ValueError(f"{name} has no scores and is not left out")
    for score in SCORES if scores is not None else ():
        if type(scores[score]) not in (int, float):
            raise ValueError(f"{score} of {name} is not a number")


def _check(persons: list[dict[str, Any]], arrays: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError where shapes, types or values contradict each other."""
    answer, is_old = arrays["answer"], arrays["is_old"]
    if any(arrays[name].dtype != kind for name, kind in TYPES.items()) or arrays["id"].dtype.kind != "U":
        raise ValueError("its arrays are of wrong types")
    if answer.ndim != 2 or any(arrays[name].shape != answer.shape for name in ("is_old", "rt_ms", "lag_s")):
        raise ValueError("answers and probes differ in number")
    if arrays["episode"].shape != (len(answer),) or arrays["id"].tolist() != [person["id"] for person in persons]:
        raise ValueError("its rows are not those of the persons")
    if len(set(arrays["id"].tolist())) < len(persons):
        raise ValueError("a person comes twice")
    if is_old.size and is_old.max() > 1:
        raise ValueError("is_old is neither 0 nor 1")
    if not (np.isnan(answer) | np.isin(answer, GRADES)).all():
        raise ValueError("an answer is none of the six grades")
