"""The demo of captions, on the fewest films: every command as a user would type it, the table and the pages."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import ROOT, run_here

from captioning import demo

SMALL = ("training.batch_size=4", "training.n_epochs=1", "training.device=cpu", "generation.max_new_tokens=8")
EYES = ("--backbone=shufflenet_v2_x0_5", "--workers=0")  # smaller ones


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The demo made small, in this process; returns the names of the commands that it runs."""
    run: list[str] = []

    def run_small(folder: Path, name: str, script: str, *words: str) -> None:
        run.append(name)
        more = EYES if name == "preprocess" else SMALL if script == "captioning.train" else ()
        result = run_here(script, *words, *more, cwd=ROOT)
        assert result.returncode == 0, result.stderr

    def one_after_the_other(tasks: Sequence[Callable[[], None]]) -> None:
        for task in tasks:
            task()

    monkeypatch.setattr(demo, "NUM_FILMS", (4, 2, 2))
    monkeypatch.setattr(demo, "command", run_small)
    monkeypatch.setattr(demo, "side_by_side", one_after_the_other)
    return run


def test_demo_ends_with_a_table_and_pages(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sys.argv", ["demo", f"--output_dir={tmp_path / 'run'}"])
    demo.main()
    told = capsys.readouterr().out
    assert small == ["preprocess", "memory", "other", "two-clips", "cleared", "none", "last-frame", "score"]
    row = r"^perfect eyes without memory +1\.00 +1\.00 +0\.50 +0\.00 +0\.50( +\d+\.\d){3}$"
    assert re.search(row, told, re.M)
    scores = json.loads((tmp_path / "run/scores.json").read_text())
    assert scores.keys() == demo.LABELS.keys()
    for name in demo.RUNS:
        assert (tmp_path / "run/runs" / name / "captions.html").read_text().count("data:image/jpeg;base64,") == 16
    report = (tmp_path / "run/runs/memory/report.html").read_text()
    assert report.count("data:image/jpeg;base64,") == 16
    for part in ("memory/two-clips", "nearest training clip", "figure-lag_exact", "figure-place"):
        assert part in report
    demo.main()  # what is finished is not done again
    assert capsys.readouterr().out.count("perfect eyes") == 1
