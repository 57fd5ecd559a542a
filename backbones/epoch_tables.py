"""The epochs of a run as two tables, which other programs for action recognition write too."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recognition.common.files import written_whole

FILES = {"train": "train_results.csv", "validation": "val_results.csv"}
FIRST = {"Top1": "top1", "Top5": "top5", "Loss": "loss"}
OF_TRAINING = ("learning_rate", "step", "seconds")  # numbers of an epoch that have no split in their name


def write_epoch_tables(folder: Path, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Write FILES anew from all lines of metrics.jsonl: Epoch from 0, shares of 1, Loss, then whatever else was
    measured. What an epoch has no number of stays empty."""
    for split, name in FILES.items():
        found = dict.fromkeys(key for line in metrics for key in line if key.startswith(f"{split}_"))
        first = {column: f"{split}_{key}" for column, key in FIRST.items()}
        others = {key.removeprefix(f"{split}_"): key for key in found if key not in first.values()}
        if split == "train":
            others |= {key: key for key in OF_TRAINING if any(key in line for line in metrics)}
        columns = first | others
        rows = [[line["epoch"] - 1, *(line.get(key, "") for key in columns.values())] for line in metrics]
        with written_whole(folder / name) as part, open(part, "w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([["Epoch", *columns], *rows])
