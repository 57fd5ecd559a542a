"""How well is said what was seen before: scores by how many clips ago that was, and by the place of a clip in its film.

Shapes: N clips.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from captioning.bootstrap import group_means
from captioning.captions import read_table
from captioning.scored import Scored
from recognition.common.command_line import InputError, shown

Clip = tuple[str, int]  # the name of its film, and its number in it
Row = dict[str, Any]
MOST_PLACES = 12  # in a film; later clips count as this one


def read_lags(path: Path) -> dict[Clip, int]:
    """How many clips ago the thing that a caption tells of was first seen, 0 if it is new: the columns film, clip and
    lag_clips of a table, which may have others. Raises InputError, which names file and line."""
    lags = {}
    for place, row in read_table(path):
        if missing := {"film", "clip", "lag_clips"} - row.keys():
            raise InputError(f"{path}: has no column {min(missing)}; it needs film, clip, lag_clips")
        for column in ("clip", "lag_clips"):
            if not row[column].isdecimal():
                raise InputError(f"{place}: {column} is to be a whole number from 0 on, not {shown(row[column])}")
        lags[row["film"], int(row["clip"])] = int(row["lag_clips"])
    return lags


def by_lag(scored: Scored, lags: Mapping[Clip, int], seed: int) -> list[Row]:
    """Scores of clips that tell of something seen so many clips ago: a row for each `lag`, see `_rows`; the clips that
    have none in `lags` are left out."""
    return _rows(scored, lambda clip, _: lags.get(clip), "lag", seed)


def by_place(scored: Scored, seed: int) -> list[Row]:
    """Scores by the `place` of a clip among those of its film that were captioned, from 1 to MOST_PLACES."""
    return _rows(scored, lambda _, before: min(before + 1, MOST_PLACES), "place", seed)


def _rows(scored: Scored, group_of: Callable[[Clip, int], int | None], name: str, seed: int) -> list[Row]:
    """A row for each group of clips, given film and number of a clip and how many of its film came before: the group by
    its `name`, num_clips, and rouge_l and exact, the share of captions that are a reference to the letter, with their
    intervals over films."""
    before: dict[str, int] = {}
    groups = []
    for clip in scored.said:
        groups.append(group_of((clip.film, clip.clip), before.get(clip.film, 0)))
        before[clip.film] = before.get(clip.film, 0) + 1
    inside = {place: group for place, group in enumerate(groups) if group is not None}
    if not inside:
        return []
    exact = [clip.caption.strip() in map(str.strip, clip.references) for clip in scored.said]
    values = np.stack([scored.scores.rouge_l, np.array(exact, float)], 1)[list(inside)]
    films = [scored.films[place] for place in inside]
    told = group_means(values, list(inside.values()), films, seed)
    return [
        {
            name: group,
            "num_clips": found.num_clips,
            **dict(zip(("rouge_l", "exact"), found.means, strict=True)),
            **dict(zip(("rouge_l_interval", "exact_interval"), found.intervals, strict=True)),
        }
        for group, found in told.items()
    ]
