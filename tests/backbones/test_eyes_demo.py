"""The demo of backbones, on the smallest films: every command as a user would type it, the table and the page."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import ROOT, run_here

from backbones import demo
from recognition.common.command_line import Failure
from recognition.common.commands import command

MEMORY = """
model: {model: novelty_filter, probes_write: false, args: {d_embed: 8}}
dataset: {whiten: 8}
training: {batch_size: 4, num_workers: 0, calibrate: true, device: cpu}
"""
SMALL = ("training.batch_size=4", "training.n_epochs=1", "clip.side=16", "augmentation.short_side=null", "test.clips=1")


def one_after_the_other(tasks: Sequence[Callable[[], None]]) -> None:
    for task in tasks:
        task()


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The demo made small, in this process; returns the names of the commands that it runs."""
    (tmp_path / "memory.yaml").write_text(MEMORY)
    places, run = demo.places, []

    def run_small(folder: Path, name: str, script: str, *words: str) -> None:
        run.append(name)
        result = run_here(script, *words, cwd=ROOT)
        assert result.returncode == 0, result.stderr

    for name, value in {
        **{"NUM_TRAIN": {"ten": 20, "eight": 16}, "NUM_TEST": {"ten": 10, "eight": 8}},
        **{"MEMORY": tmp_path / "memory.yaml", "MEMORY_FILMS": 6, "FILM_S": 8, "BATCHES_OF_NORMS": 1},
        "EPISODES": ("--n_clips=2", "--clip_length=4", "--clip_margin=2", "--n_tests=2", "--subsample=1"),
        "SIZES": ("--n_samples_train=4", "--n_samples_validation=2", "--n_samples_test=2"),
        "places": lambda folder, config="": [*places(folder, config), *SMALL, "training.precision=32"],
        **{"command": run_small, "side_by_side": one_after_the_other, "EYES": ("random",)},
    }.items():
        monkeypatch.setattr(demo, name, value)
    return run


def test_demo_ends_with_a_table_and_a_page(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sys.argv", ["demo", f"--output_dir={tmp_path / 'run'}"])
    assert demo.main() == 0
    told = capsys.readouterr().out
    assert {"memory", "labels", "gates", "no-gates", "probe-random", "retrieve-random", "recall-random"} <= set(small)
    assert re.search(r"^random weights +\d\.\d{3} +\d\.\d{3} +\d\.\d{3}$", told, re.M)
    page = (tmp_path / "run/demo.html").read_text()
    assert page.count("<svg") == 3
    assert page.count("data:image/png;base64,") == 18
    assert "Infinity" not in page
    assert "nan" not in re.sub(r"<svg.*?</svg>|base64,\S+", "", page, flags=re.S)


def test_command_that_fails_is_told_with_its_last_line(tmp_path: Path):
    (tmp_path / "logs").mkdir()
    with pytest.raises(Failure, match=r"^lost: status 2: .*No such file.*all of it is in .*lost\.txt$"):
        command(tmp_path, "lost", "backbones.pretrain", f"-f={tmp_path / 'none.yaml'}")
