import csv
from pathlib import Path

from backbones.epoch_tables import write_epoch_tables
from recognition.training.runs import Run


def rows(path: Path) -> list[list[str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def line(epoch: int, **others: float) -> dict:
    numbers = {
        "train_loss": 1.5,
        "train_top1": 0.25,
        "train_top5": 0.5,
        "validation_loss": 2.0,
        "validation_top1": 0.125,
    }
    return {"epoch": epoch, "step": 10 * epoch, "learning_rate": 0.1, **numbers, "validation_top5": 0.75, **others}


def test_tables_begin_with_the_columns_and_epochs_of_other_programs(tmp_path: Path):
    write_epoch_tables(tmp_path, [line(1), line(2, train_top1=0.3)])
    header, first, second = rows(tmp_path / "train_results.csv")
    assert header[:4] == ["Epoch", "Top1", "Top5", "Loss"]
    assert first[:4] == ["0", "0.25", "0.5", "1.5"]
    assert second[:4] == ["1", "0.3", "0.5", "1.5"]
    assert header[4:] == ["learning_rate", "step"]
    assert rows(tmp_path / "val_results.csv") == [
        ["Epoch", "Top1", "Top5", "Loss"],
        ["0", "0.125", "0.75", "2.0"],
        ["1", "0.125", "0.75", "2.0"],
    ]


def test_further_numbers_stand_behind_and_may_be_missing(tmp_path: Path):
    write_epoch_tables(tmp_path, [line(1), line(2, validation_openness=0.5)])
    header, first, second = rows(tmp_path / "val_results.csv")
    assert header[4:] == ["openness"]
    assert (first[4], second[4]) == ("", "0.5")


def test_a_resumed_run_has_no_row_twice(tmp_path: Path):
    run = Run(tmp_path)
    for epoch in (1, 2, 3):
        run.append_metrics(line(epoch))
        write_epoch_tables(tmp_path, run.read_metrics())
    run.forget_metrics_after(1)
    run.append_metrics(line(2, train_loss=0.5))
    write_epoch_tables(tmp_path, run.read_metrics())
    assert [row[0] for row in rows(tmp_path / "train_results.csv")] == ["Epoch", "0", "1"]
    assert rows(tmp_path / "train_results.csv")[2][3] == "0.5"
