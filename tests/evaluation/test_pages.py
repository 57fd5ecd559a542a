"""What layers have to tell: pages find their layers, and a layer with a page of its own touches no other file."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import config_text
from torch import Tensor

import evaluate
import models
from models import CONFIGS, MODELS, build_model
from models.config import MixerConfig
from models.mixer import Mixer
from models.recogniser import Layout
from recognition.episodes.dataset import EpisodeDataset
from recognition.episodes.index_file import read_index
from recognition.evaluation import pages
from recognition.evaluation.pages import Told, find_pages, retrieval, temporal_gates
from recognition.evaluation.retention import studied_at
from recognition.features.feature_bank import FeatureBank
from recognition.training.config import load_config
from recognition.training.runs import Run


@pytest.fixture
def dataset(small_bank: Path) -> EpisodeDataset:
    index = read_index(small_bank / "test_indices.h5")
    return EpisodeDataset(index, FeatureBank(small_bank, index.video_ids), 2)


class Surprise(Mixer):
    """A toy layer that notices how long the vectors of probes are."""

    page = "surprise"

    class Config(MixerConfig):
        boost: float = 1.0

    def __init__(self, config: Config):
        super().__init__()
        self.boost, self.linear, self.num_probes = config.boost, torch.nn.Linear(config.d_embed, config.d_embed), 0

    def forward(self, x: Tensor, num_last: int | None = None) -> Tensor:
        y = self.boost * self.linear(x)
        self.surprise = y[:, y.shape[1] - self.num_probes :].norm(dim=2)
        return y if num_last is None else y[:, y.shape[1] - num_last :]

    def state_size(self, num_frames: int) -> int:
        return 0

    def place(self, num_probes: int, clip_frames: int | None) -> None:
        self.num_probes = num_probes

    def tell(self) -> dict[str, Tensor]:
        return {"surprise": self.surprise}

    def describe(self) -> dict[str, float]:
        return {"boost": self.boost}

    def change(self, *, boost: float) -> None:
        self.boost = boost


PAGE = """
from recognition.common.plotting import finished, panel


def describe(dataset, answer, layers):
    if not layers:
        return None
    means = [float(layer.found["surprise"].mean()) for layer in layers]
    return {"boost": layers[0].about["boost"], "surprise": means, "other_settings": []}


def other_settings(described, dataset, score):
    rows = []
    for boost in (0.0, 1.0, 2.0):
        scores = score({"boost": boost})
        rows.append({"boost": boost, "accuracy": scores["accuracy"], "surprise": scores["surprise"]["surprise"]})
    return rows


def figures(described):
    figure, axis = panel()
    axis.plot(described["surprise"])
    return {"surprise": finished(figure, axis)}
"""
SECTION = '<h2>Surprise</h2>\n<p>{{ described.surprise|length }} layers</p>\n{{ figure("surprise") }}\n'


@pytest.fixture
def surprise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The toy as one more family, and its page as one more file of evaluation."""
    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "surprise.py").write_text(PAGE)
    (folder / "surprise.html").write_text(SECTION)
    monkeypatch.setattr(pages, "__path__", [*pages.__path__, str(folder)])
    for table, entry in ((models.MODELS, Surprise), (CONFIGS, Surprise.Config)):
        monkeypatch.setitem(table, "surprise", entry)
    importlib.invalidate_caches()
    yield
    sys.modules.pop("recognition.evaluation.pages.surprise", None)


def evaluated(folder: Path, bank: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> tuple[dict, str]:
    """evaluation.json and the report of a run of the toy with the weights it starts from."""
    (folder / "toy.yaml").write_text(config_text(bank, "surprise", "{d_embed: 8, n_layers: 2, residual: false}"))
    config, run = load_config(folder / "toy.yaml"), Run(folder / "toy")
    torch.manual_seed(0)
    run.start(config, {})
    run.save_best(build_model("surprise", Surprise.Config(**config.model.args), Layout(16, 8)).state_dict())
    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(run.path), *options])
    evaluate.main()
    return json.loads(run.evaluation_file.read_text()), run.report_file.read_text()


def test_a_new_layer_with_a_page_of_its_own_is_told_of_in_all_that_is_written(
    surprise: None, tmp_path: Path, small_bank: Path, monkeypatch: pytest.MonkeyPatch
):
    scores, report = evaluated(tmp_path, small_bank, monkeypatch, "--try_settings", "--figures")
    described = scores["surprise"]
    assert described["boost"] == 1
    assert len(described["surprise"]) == 2
    shut, own, doubled = described["other_settings"]
    assert (shut["surprise"], shut["accuracy"]) == ([0, 0], 0.5)
    assert (own["surprise"], own["accuracy"]) == (described["surprise"], scores["accuracy"])
    assert doubled["surprise"][0] == pytest.approx(2 * own["surprise"][0])
    assert "<h2>Surprise</h2>\n<p>2 layers</p>" in report
    assert '<figure id="figure-surprise">' in report
    assert (tmp_path / "toy/figures/surprise.pdf").exists()
    assert scores["retrieval"] is None


def test_layer_that_has_nothing_to_tell_has_no_section(
    surprise: None, tmp_path: Path, small_bank: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Surprise, "tell", lambda self: {})
    scores, report = evaluated(tmp_path, small_bank, monkeypatch)
    assert scores["surprise"] is None
    assert "Surprise" not in report


@pytest.mark.parametrize("name", MODELS)
def test_page_that_a_family_names_is_there(name: str):
    assert MODELS[name].page is None or MODELS[name].page in find_pages()


@pytest.mark.parametrize("name", MODELS)
def test_setting_that_belongs_to_the_weights_cannot_be_changed(name: str):
    layer = MODELS[name](CONFIGS[name](d_embed=64))
    with pytest.raises(ValueError, match="cannot change d_embed"):
        layer.change(d_embed=32)


def test_pages_come_in_one_order_and_say_nothing_of_models_without_their_layers(dataset: EpisodeDataset):
    answer = np.zeros(dataset.episodes.is_old.shape)
    described = {name: page.describe(dataset, answer, []) for name, page in find_pages().items()}
    assert list(described) == sorted(described)
    assert described == {"retrieval": None, "temporal_gates": []}


def test_retrieval_is_that_of_the_last_layer_at_the_last_showing_of_each_probe(dataset: EpisodeDataset):
    dataset.repeat_test = 3
    places = retrieval.source_places(dataset)[..., None]  # (N, P, 1)
    found = np.full((8, 8, 3, 1), -1)
    found[:, :, 2] = places
    of_last = found.reshape(8, 24, 1)
    about = {"k": 1, "capacity": 15, "gates": [0.5]}
    layers = [Told({**about, "k": 9}, {"retrieved": np.full((8, 24, 9), -1)}), Told(about, {"retrieved": of_last})]
    described = retrieval.describe(dataset, np.zeros((8, 8)), layers)
    assert (described["k"], described["gates"]) == (1, [0.5])
    assert [row["recall"] for row in described["recall"]] == [1]
    none = retrieval.describe(dataset, np.zeros((8, 8)), layers[:1])
    assert {row["recall"] for row in none["recall"]} == {0}


def test_probes_of_open_clips_are_told_from_those_of_others(dataset: EpisodeDataset):
    """Two layers, clips of 5 study frames cut after the 4th: all probes of open clips are answered rightly."""

    def describe(answer: np.ndarray, *openness: np.ndarray) -> list[dict]:
        layers = [Told({"clip_frames": 4}, {"openness": of_layer.astype(float)}) for of_layer in openness]
        return temporal_gates.describe(dataset, answer, layers)

    row, frame = studied_at(dataset)
    is_open = np.random.default_rng(0).integers(0, 2, (8, 4))
    of_probe = np.take_along_axis(is_open, (5 * row + frame) // 4, 1)
    told = describe(of_probe - 0.5, is_open, 1 - is_open)
    num_open = of_probe[dataset.episodes.is_old == 1].sum()
    assert [row["openness"] for row in told] == [is_open.mean(), 1 - is_open.mean()]
    assert [(row["n_open"], row["accuracy_open"]) for row in told] == [(num_open, 1), (32 - num_open, 0)]
    assert [(row["n_shut"], row["accuracy_shut"]) for row in told] == [(32 - num_open, 0), (num_open, 1)]
    [alike] = describe(of_probe - 0.5, np.ones((8, 4)))
    assert (alike["openness"], alike["n_open"], alike["accuracy_open"], alike["n_shut"]) == (1, 0, None, 32)
