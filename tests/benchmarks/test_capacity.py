"""Memory per byte is measured, told and drawn: on small sizes, whose numbers mean little."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks import capacity, tiny
from benchmarks.capacity_page import at_most_clips, bloom_accuracy, page
from recognition.evaluation import memories


@pytest.fixture(autouse=True)
def tiny_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.shrink(monkeypatch.setattr)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command makes."""
    folder = tmp_path_factory.mktemp("capacity")
    with pytest.MonkeyPatch.context() as patch:
        tiny.shrink(patch.setattr)
        patch.setattr(sys, "argv", ["capacity", "--output_dir", str(folder)])
        capacity.main()
    return folder


def test_every_memory_is_scored_at_every_length_and_told_on_the_page(folder: Path):
    results = json.loads((folder / "capacity.json").read_text())
    lengths = {name: [] for name in [*capacity.memories(), *capacity.LEARNED]}
    for row in results["rows"]:
        if row["learning"] != "before":
            lengths[row["name"]].append(row["num_clips"])
        assert 0 <= row["accuracy"] <= 1
        assert row["state_bytes"] > 0
    assert all(found == list(capacity.CLIPS) for found in lengths.values())
    assert {row["name"] for row in at_most_clips(results, "before")} == set(capacity.LEARNED)
    assert results["left_out"] == list(capacity.LEARNED_ON_GPU)
    told = (folder / "capacity.md").read_text()
    assert all(f"| {name} |" in told for name in lengths)
    assert all(name in told for name in capacity.LEARNED_ON_GPU)
    assert (folder / "capacity.svg").read_text().count("<path") > 10


def test_page_is_drawn_anew_without_measuring(folder: Path, monkeypatch: pytest.MonkeyPatch):
    before = {path.name: path.read_bytes() for path in folder.glob("capacity.*")}
    monkeypatch.setattr(sys, "argv", ["capacity", "--output_dir", str(folder), "--redraw"])
    monkeypatch.setattr(capacity, "measure", None)
    capacity.main()
    assert {path.name: path.read_bytes() for path in folder.glob("capacity.*")} == before


def test_without_time_no_family_is_trained_and_all_are_named():
    *_, results = capacity.measure("cpu", 0)
    assert results["left_out"] == [*capacity.LEARNED, *capacity.LEARNED_ON_GPU]
    assert all(row["learning"] == "none" for row in results["rows"])
    assert "No family was trained." in page(results, "capacity")


def test_no_film_is_in_two_splits():
    films = capacity.open_films("cpu")
    names = [name for part in films.values() for name in part.names]
    assert len(names) == len(set(names)) == 40


def test_a_bloom_filter_knows_what_it_was_shown_and_its_maxima_are_those_of_the_control():
    generator = torch.Generator().manual_seed(0)
    study = F.normalize(torch.randn(2, 9, 64, generator=generator), dim=2)
    probes = torch.cat([study[:, :5], F.normalize(torch.randn(2, 5, 64, generator=generator), dim=2)], 1)
    answer = capacity.bloom(512, False, study, probes)
    assert (answer[:, :5] == 1).all()
    assert (answer[:, 5:] < 1).all()
    assert capacity.bloom(512, True, study, probes).shape == memories.bloom(study, probes).shape


def test_frames_at_right_angles_fill_as_many_axes_as_there_are_frames():
    assert capacity.effective_rank(10 * torch.eye(8)[:5]) == pytest.approx(5, abs=0.01)


def test_theory_of_bloom_filters_is_chance_without_bits_and_certain_with_many():
    assert bloom_accuracy(0, 10) == 0.5
    assert bloom_accuracy(1e4, 10) == pytest.approx(1)


def test_published_page_is_that_of_the_published_results():
    results = json.loads((capacity.DOCS / "capacity.json").read_text())
    assert (capacity.DOCS / "capacity.md").read_text() == page(results, "capacity")
    assert np.isfinite([row["threshold"] for row in results["rows"]]).all()


@pytest.mark.parametrize("name", list(capacity.LEARNED_ON_GPU))
def test_families_for_a_gpu_can_be_trained_and_asked(name: str):
    films = capacity.open_films("cpu")
    axes = capacity.principal_axes(films["training"].bank, capacity.NUM_AXES_FRAMES)
    _, after = capacity.train(name, "cpu", films["training"], axes)
    dataset = capacity.episodes(films["test"], 2, 1)
    features = dataset[np.arange(1)].features.float()
    logits = after(features, [(dataset.num_study_frames, dataset.num_probes)])
    assert logits.shape == (1, 4)
    assert logits.isfinite().all()
