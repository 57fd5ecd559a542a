"""The benchmarks run: on small sizes, whose ratios mean nothing."""

import importlib
import json
from dataclasses import asdict
from importlib.util import find_spec

import pytest
import torch
from forking import python_forked

from benchmarks import CASES, __main__, mamba2, mlstm, tiny, transformer
from benchmarks.growth import draw, measurements, prepare, table
from benchmarks.measure import Row, peak_memory


@pytest.fixture(autouse=True)
def tiny_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.shrink(monkeypatch.setattr)


@pytest.mark.parametrize(
    ("name", "num_rows"),
    {
        "ur_lstm": 3,
        "steps": 10,
        "batch": 2,
        "generate": 2,
        "epoch": 1,
        "busy": 3,
        "preprocess": 2,
        "clips": 10,
        "clip_step": 1,
        "captions": 2,
        "caption_step": 1,
        "knn_search": 2,
        "search": 4 if find_spec("faiss") else 3,
    }.items(),
)
def test_case_measures_all_its_rows(name: str, num_rows: int):
    with python_forked():
        rows = list(getattr(importlib.import_module(f"benchmarks.{CASES[name]}"), name)("cpu"))
    assert len(rows) == num_rows
    assert all(row.rival_s > 0 for row in rows)
    # Of preprocessing the start is taken off, which on a busy machine may take longer than so few frames.
    assert all(row.ours_s > 0 or name == "preprocess" for row in rows)


@pytest.mark.parametrize(
    ("package", "ours", "theirs"),
    [
        ("torch", transformer.prepare_ours, transformer.prepare_torchs),
        ("xlstm", mlstm.prepare_ours, mlstm.prepare_xlstm),
        ("transformers", mamba2.prepare_ours, mamba2.prepare_transformers),
    ],
)
def test_layers_of_the_benchmark_equal_those_of_other_packages(package, ours, theirs):
    pytest.importorskip(package, reason="comes with the extra 'bench'")
    torch.testing.assert_close(ours("cpu")(), theirs("cpu")(), rtol=1e-4, atol=1e-4)


def test_memory_grows_with_the_length_of_an_episode(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tiny, "is_tiny", False)
    short, long = (peak_memory(prepare, "cpu", "transformer", length) for length in (512, 8192))
    assert 0 < 4 * short < long


def test_growth_is_measured_written_and_drawn(tmp_path):
    found: dict[str, list] = {}
    for name, length, *costs in measurements("cpu"):
        assert length > 0
        assert min(costs) > 0
        found.setdefault(name, []).append(costs)
    draw(found, tmp_path / "growth.svg")
    assert all(name in table(found) for name in found)
    assert (tmp_path / "growth.svg").read_text().count("<path") > 10


def test_published_results_are_of_the_cases_that_there_are():
    results = json.loads((__main__.FOLDER / "results.json").read_text())
    assert len(results["rows"]) > len(CASES)
    for row in results["rows"]:
        fields = {name: value for name, value in row.items() if name != "ratio"}
        assert asdict(Row(**fields)) == fields
        assert row["ratio"] == pytest.approx(Row(**fields).ratio)
    assert (__main__.DOCS / "speed.md").read_text() == __main__.describe(**results)
