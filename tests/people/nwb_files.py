"""NWB files as those of DANDI 000207, with every trap of theirs, made by pynwb from one real person's table."""

import csv
from datetime import datetime, timezone
from pathlib import Path

import h5py
import numpy as np
from pynwb import NWBHDF5IO, NWBFile
from pynwb.core import VectorData
from pynwb.epoch import TimeIntervals
from pynwb.file import Subject

SUB4 = Path(__file__).parent / "zheng_sub4.csv"
SECOND_NAME = {"recognition": "old_new", "timediscrimination": "leftright"}
TRUTH = {"recognition": "stimuli_type", "timediscrimination": "key"}


def rows(table: str) -> list[dict[str, str]]:
    """The rows of one of the three tables."""
    lines = [line for line in SUB4.read_text().splitlines() if not line.startswith("#")]
    return [row for row in csv.DictReader(lines) if row["table"] == table]


def write_nwb(path: Path, identifier: str = "TWH103_CBID4") -> Path:
    """The behaviour of sub-4 as pynwb writes it; names are texts."""
    started = datetime(2019, 1, 1, tzinfo=timezone.utc)
    nwb = NWBFile("made for tests", identifier, started, subject=Subject(subject_id="4", sex="U", age="P40Y"))
    nwb.add_time_intervals(_intervals("encoding_table", _encoding(rows("encoding"))))
    for table in ("recognition", "timediscrimination"):
        nwb.add_time_intervals(_intervals(f"{table}_table", _answers(table, rows(table))))
    path.parent.mkdir(parents=True, exist_ok=True)
    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)
    with h5py.File(path, "r+") as file:  # not in colnames: pynwb's tables lack it
        for table in ("recognition", "timediscrimination"):
            group = file[f"intervals/{table}_table"]
            group["response_time"] = group["stop_time"][:] + group["RT"][:]
    return path


def set_column(path: Path, table: str, column: str, values: np.ndarray) -> None:
    """Put other values in place of a column's."""
    with h5py.File(path, "r+") as file:
        group = file[f"intervals/{table}_table"]
        del group[column]
        group[column] = values


def get_column(path: Path, table: str, column: str) -> np.ndarray:
    """A column as it is stored."""
    with h5py.File(path) as file:
        return file[f"intervals/{table}_table/{column}"][:]


def _intervals(name: str, columns: dict[str, list]) -> TimeIntervals:
    made = [VectorData(name=column, description=column, data=values) for column, values in columns.items()]
    return TimeIntervals(name=name, description=name, columns=made)


def _times(table: list[dict[str, str]], cross_s: float) -> dict[str, list]:
    start, stop = ([float(row[name]) for row in table] for name in ("start_time", "stop_time"))
    return {"start_time": start, "stop_time": stop, "fixcross_time": [time - cross_s for time in start]}


def _encoding(table: list[dict[str, str]]) -> dict[str, list]:
    columns = _times(table, 1.0)
    columns["Clip_name"] = [row["name"] for row in table]
    columns["stimCategory"] = [int(row["category"]) for row in table]  # 0 to 2
    columns["boundary1_time"] = [float(row["boundary1_time"]) for row in table]
    for number in (2, 3):  # where there is none they have the start of the clip
        columns[f"boundary{number}_time"] = columns["start_time"]
    return columns


def _answers(name: str, table: list[dict[str, str]]) -> dict[str, list]:
    columns = _times(table, 0.5)
    columns["frameName"] = [row["name"] for row in table]
    columns["boundary_type"] = [int(row["category"]) for row in table]  # 1 to 3
    columns[TRUTH[name]] = [int(row["truth"]) for row in table]
    columns[SECOND_NAME[name]] = [int(row["old_new_or_side"]) for row in table]
    for column in ("resp_value", "accuracy", "confidence"):
        columns[column] = [int(row[column]) for row in table]
    columns["RT"] = [float(row["RT"]) for row in table]
    columns["trial_num"] = list(range(1, len(table) + 1))
    return columns
