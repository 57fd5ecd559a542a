"""One person of DANDI 000207 as arrays: what an NWB file of Zheng et al. 2022 says of behaviour, by h5py alone.

Three tables in `intervals` have it: encoding_table, a row a clip, recognition_table, a row a picture, and
timediscrimination_table, a row a pair of pictures. What they say is not all as their descriptions have it:

- Answers are resp_value 2 to 7. A 1 (in the descriptions, -1) is no valid answer, yet its row says accuracy 1, which is
  wrong, and a side: nothing but resp_value is read of answers.
- Kinds of clips are 0, 1, 2 in one table and 1, 2, 3 in the others. Names tell them alike everywhere: NB, SB, HB.
- Names of SB and HB clips have lost a digit in recognition_table, where SB_1 is several clips: lags are for NB alone.
- RT counts from the end of the picture, and can be below 0.

Shapes: P pictures, Q pairs.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from recognition.common.command_line import InputError, first_line, shown
from recognition.common.files import is_of_system, why
from recognition.common.hdf5 import opened_hdf5

GRADE = {2: 3, 3: 2, 4: 1, 5: -1, 6: -2, 7: -3}  # sure old to sure new, or sure left to sure right
KIND = {"NB": "no_cut", "SB": "cut", "HB": "other_film"}  # of clips: no, soft and hard boundary
SPAN = {"short": "near", "long": "far"}  # between the pictures of a pair, in their names
NAME = re.compile(r"(NB|SB|HB)_(\d+)")  # of a clip, and how names of pictures begin
MOST_ROWS = 100_000  # of a table; the study's have 90 and 180
TEXTS = ("Clip_name", "frameName")
ANSWER = ("start_time", "stop_time", "frameName", "boundary_type", "resp_value", "RT")
TABLES = {
    "encoding_table": ("start_time", "stop_time", "Clip_name"),
    "recognition_table": (*ANSWER, "stimuli_type"),
    "timediscrimination_table": (*ANSWER, "key"),
}
Table = dict[str, Any]  # columns by their names


class Published(NamedTuple):
    """What one person answered."""

    identifier: str  # of the session, such as TWH103_CBID4; the same person has other numbers elsewhere
    facts: dict[str, float | str]
    flags: list[str]
    answer: np.ndarray  # (P,) float32, 3 sure old ... -3 sure new, nan for none
    is_old: np.ndarray  # (P,) uint8
    rt_ms: np.ndarray  # (P,) from the onset of the picture, nan where there is no answer
    lag_s: np.ndarray  # (P,) from the middle of the clip to the picture: where in it the frame was is not told
    clip_kind: list[str]  # (P,) that of the picture's clip
    order_answer: np.ndarray  # (Q,) float32, 3 surely left first ... -3 surely right, nan for none
    order_rt_ms: np.ndarray  # (Q,)
    pairs: list[dict[str, str | None]]  # (Q,) earlier: left or right; clip_kind; span: near, far or None


def read_published(path: Path) -> Published:
    """Read one file. Raises InputError if it is cut off, or none of this study, and OSError if the system does not let
    it be read."""
    try:
        with opened_hdf5(path) as file:
            identifier, subject = _text(file, "identifier"), file.get("general/subject", {})
            told = {name: _text(subject, name) for name in ("sex", "age") if name in subject}
            study, test, order = (_table(file, name) for name in TABLES)
        return _person(path, identifier, told, study, test, order)
    except Exception as error:  # h5py raises many kinds for a damaged file
        if isinstance(error, FileNotFoundError):
            raise InputError(f"{why(error)}; fetch its content, or remove it") from None
        if is_of_system(error):
            raise
        raise InputError(
            f"{path}: not a whole NWB file of DANDI 000207 ({first_line(error)}); download it anew, or remove it"
        ) from error


def _person(path: Path, identifier: str, told: Mapping[str, str], study: Table, test: Table, order: Table) -> Published:
    if not 0 < len(identifier) <= 100 or not identifier.isprintable():
        raise ValueError(f"its identifier is {shown(identifier)}")
    is_old = _coded(test, "stimuli_type", {0: 0, 1: 1}).astype(np.uint8)
    earlier = _coded(order, "key", {1: 1, 2: 2})
    if not len(is_old) or not len(study["Clip_name"]):
        raise ValueError("its tables are empty")
    clips = [_clip(name) for name in test["frameName"]]
    pairs: list[dict[str, str | None]] = []
    for name, side in zip(order["frameName"], earlier, strict=True):
        span = next((span for word, span in SPAN.items() if word in name.lower()), None)
        pairs.append({"earlier": "left" if side == 1 else "right", "clip_kind": KIND[_clip(name)[0]], "span": span})
    answer, order_answer = _answers(test), _answers(order)
    facts: dict[str, float | str] = {"file": path.name, **told, "num_probes": float(len(answer))}
    facts |= {"num_answered": float((~np.isnan(answer)).sum()), "num_pairs": float(len(pairs))}
    facts["num_pairs_answered"] = float((~np.isnan(order_answer)).sum())
    return Published(
        identifier,
        facts,
        _flags(test, order, is_old),
        answer,
        is_old,
        _rt_ms(test, answer),
        _lags(study, test, clips, is_old),
        [KIND[kind] for kind, _ in clips],
        order_answer,
        _rt_ms(order, order_answer),
        pairs,
    )


def _answers(table: Table) -> np.ndarray:
    """Grades, nan where there is no valid answer."""
    grades = dict.fromkeys(range(-1, 2), np.nan) | GRADE
    value = np.nan_to_num(table["resp_value"], nan=-1)
    return _coded({"resp_value": value}, "resp_value", grades).astype(np.float32)


def _rt_ms(table: Table, answer: np.ndarray) -> np.ndarray:
    """Response times from the onset of the picture; nan without an answer."""
    from_onset_s = table["RT"] + table["stop_time"] - table["start_time"]
    return np.where(np.isnan(answer), np.nan, 1000 * from_onset_s).astype(np.float32)


def _lags(study: Table, test: Table, clips: Sequence[tuple[str, str]], is_old: np.ndarray) -> np.ndarray:
    """Seconds from the middle of its clip to an old picture, of NB clips; nan for others."""
    middle_s = (study["start_time"] + study["stop_time"]) / 2
    middle = dict(zip(map(_clip, study["Clip_name"]), middle_s.tolist(), strict=True))
    seen_s = [middle.get(clip, np.nan) if clip[0] == "NB" else np.nan for clip in clips]
    return np.where(is_old == 1, test["start_time"] - np.array(seen_s), np.nan).astype(np.float32)


def _flags(test: Table, order: Table, is_old: np.ndarray) -> list[str]:
    """Where names and numbers disagree, as they do nowhere in what was seen."""
    number = {kind: float(place) for place, kind in enumerate(KIND, 1)}
    names, codes = ([*test[column], *order[column]] for column in ("frameName", "boundary_type"))
    odd = sum(number[_clip(name)[0]] != code for name, code in zip(names, codes, strict=True))
    is_foil = np.array(["foil" in name.lower() for name in test["frameName"]])
    wrong = int((is_foil == (is_old == 1)).sum())
    told = {f"{odd} names tell another kind of clip than boundary_type": odd}
    told[f"{wrong} names tell otherwise than stimuli_type what is old"] = wrong
    return [text for text, count in told.items() if count]


def _clip(name: str) -> tuple[str, str]:
    """Kind and number of the clip that a name names, as far as it does."""
    if not (found := NAME.match(name)):
        raise ValueError(f"a clip or picture is called {shown(name)}")
    return found[1], found[2]


def _coded(table: Table, column: str, codes: Mapping[int, float]) -> np.ndarray:
    """What a column's numbers stand for. Raises ValueError for a number that stands for nothing."""
    values = table[column].tolist()
    if unknown := [value for value in values if value not in codes]:
        raise ValueError(f"{column} is {unknown[0]:g}, known are {', '.join(map(str, codes))}")
    return np.array([codes[value] for value in values], np.float64)


def _table(file: h5py.File, name: str) -> Table:
    """The columns of a table that are read: numbers (rows,) float64, and lists of texts."""
    path = f"intervals/{name}"
    if path not in file:
        raise ValueError(f"it has no {path}")
    table: Table = {}
    for column in TABLES[name]:
        if not isinstance(data := file[path].get(column), h5py.Dataset) or data.ndim != 1:
            raise ValueError(f"{path} has no column {column}")
        if len(data) > MOST_ROWS:
            raise ValueError(f"{path} has {len(data)} rows")
        # Names are texts in some files, and bytes in others.
        table[column] = [_decoded(x) for x in data[:]] if column in TEXTS else data[:].astype(np.float64)
    if len({len(values) for values in table.values()}) > 1:
        raise ValueError(f"the columns of {path} differ in length")
    return table


def _text(group: Any, name: str) -> str:
    return _decoded(group[name][()])


def _decoded(text: Any) -> str:
    if not isinstance(text, bytes | str):
        raise ValueError(f"{shown(text)} stands where a text is due")
    return text.decode() if isinstance(text, bytes) else text
