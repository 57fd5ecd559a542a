"""The benchmarks run: on small sizes, whose ratios mean nothing."""

import json
from dataclasses import asdict

import pytest
import torch

from benchmarks import CASES, __main__, busy, data, films, mamba2, mlstm, transformer, ur_lstm
from benchmarks.measure import Row
from recognition.films import write_films


def measured(case, *args) -> list[Row]:
    """The rows of a case on the CPU, each with times."""
    rows = list(case("cpu", *args))
    assert all(row.ours_s > 0 and row.rival_s > 0 for row in rows)
    return rows


def test_transformer_of_the_benchmark_equals_torchs(monkeypatch):
    monkeypatch.setattr(transformer, "NUM_FRAMES", 300)
    ours, torchs = (prepare("cpu")() for prepare in (transformer.prepare_ours, transformer.prepare_torchs))
    torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("package", "ours", "theirs"),
    [
        ("xlstm", mlstm.prepare_ours, mlstm.prepare_xlstm),
        ("transformers", mamba2.prepare_ours, mamba2.prepare_transformers),
    ],
)
def test_layers_of_the_benchmark_equal_those_of_other_packages(package, ours, theirs):
    pytest.importorskip(package, reason="comes with the extra 'bench'")
    torch.testing.assert_close(ours("cpu", 300)(), theirs("cpu", 300)(), rtol=1e-4, atol=1e-4)


def test_ur_lstm_is_compared_with_torchs_and_with_the_loop(monkeypatch):
    monkeypatch.setattr(ur_lstm, "NUM_FRAMES_WIDE", 20)
    monkeypatch.setattr(ur_lstm.prepare, "__defaults__", (40, ur_lstm.WIDTH))
    assert len(measured(ur_lstm.ur_lstm)) == 3


def test_episodes_are_drawn_gathered_and_trained_on(monkeypatch):
    sizes = {"NUM_EPISODES": 256, "NUM_DRAWN_PLAINLY": 8, "NUM_FILMS": 12, "FILM_LENGTH": 6_000}
    for name, size in {**sizes, "NUM_EPOCH_EPISODES": 32}.items():
        monkeypatch.setattr(data, name, size)
    assert [len(measured(case)) for case in (data.generate, data.batch, data.epoch)] == [2, 2, 1]


def test_trainings_share_the_cores(monkeypatch):
    monkeypatch.setattr(busy, "MEASURED_S", 0.1)
    assert len(measured(busy.busy)) == 3


def test_films_are_preprocessed_and_compared_with_the_parts_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(films, "NUM_BATCHES", 2)
    monkeypatch.setattr(films, "NUM_PLAIN_FRAMES", 10)
    list(write_films(tmp_path, 2, 2, fps=12))
    whole, plain = measured(films.preprocess, tmp_path)
    assert whole.ours_s == plain.ours_s


def test_published_results_are_of_the_cases_that_there_are():
    results = json.loads((__main__.FOLDER / "results.json").read_text())
    assert len(results["rows"]) > len(CASES)
    for row in results["rows"]:
        fields = {name: value for name, value in row.items() if name != "ratio"}
        assert asdict(Row(**fields)) == fields
        assert row["ratio"] == pytest.approx(Row(**fields).ratio)
    assert (__main__.DOCS / "speed.md").read_text() == __main__.describe(**results)
