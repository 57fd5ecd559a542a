"""python -m backbones.retrieve: recall by numpy, which weights and views it takes, what it refuses."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refusal, run_here
from safetensors.torch import load_file
from torch.optim.swa_utils import update_bn

from backbones.action_films import write_action_films
from backbones.augmentation import still
from backbones.classifier import ClipBackbone
from backbones.config import PretrainSettings
from backbones.dataset import ClipDataset, Draw
from backbones.frame_store import open_film
from backbones.items import open_films
from backbones.scores import interval_over_sources
from models.clip_networks import clip_network
from recognition.training.config import load_settings

NUM_TRAIN, NUM_TEST = 12, 6
MEAN, DEVIATION = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
YAML = """
data: {list: list.csv, videos: ., segment_s: 2, workers: 0, validation_share: 0.3}
clip: {frames: 4, fps: 7.5, side: 32, keep_aspect: true}
network: {name: r3d_mini, width: 4}
training: {learning_rate: 0.5, batch_size: 4, n_epochs: 1, warmup_epochs: 0, device: cpu%s}
"""
BYOL = ", monitor_epochs: 0}\nbyol: {predictor: perceptron, projection: 8, hidden: 12, concepts: 0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films of ten actions and the run `byol` of pretrain. Read only but for retrieval.json."""
    folder = tmp_path_factory.mktemp("ten")
    assert len(list(write_action_films(folder, "ten", NUM_TRAIN, NUM_TEST))) == NUM_TRAIN + NUM_TEST
    (folder / "byol.yaml").write_text(YAML % BYOL)
    result = run_here("backbones.pretrain", "-f", "byol.yaml", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder


def clips_of(folder: Path, num_clips: int) -> Iterator[list[torch.Tensor]]:
    """Clips (4, 3, 64, 64) of each film of the list."""
    for line in (folder / "list.csv").read_text().splitlines()[1:]:
        film = open_film(folder / line.split(",")[0])
        # Every second frame of 15 a second: four span 7 of 64.
        starts = [57 // 2] if num_clips == 1 else [57 * k // (num_clips - 1) for k in range(num_clips)]
        yield [torch.from_numpy(film.frames([at, at + 2, at + 4, at + 6])).movedim(-1, 1) for at in starts]


def features(folder: Path, network: torch.nn.Module, num_clips: int, crops: int) -> np.ndarray:
    """Of all films in the order of the list, (18, D) of unit length: a plain loop over views."""
    backbone = ClipBackbone(network, MEAN, DEVIATION).eval()
    rows = []
    for clips in clips_of(folder, num_clips):
        with torch.no_grad():
            mean = torch.stack([backbone(still(clip, 32, True, crops)) for clip in clips]).double().mean((0, 1))
        rows.append((mean / mean.norm()).numpy())
    return np.stack(rows)


def recall_of(queries: np.ndarray, gallery: np.ndarray, k: int) -> np.ndarray:
    """Whether each query has one of its class among its k nearest; film k has action k % 10."""
    order = np.argsort(-(queries @ gallery.T), axis=1, kind="stable")[:, :k]
    return np.array([any(i % 10 == q % 10 for i in row) for q, row in enumerate(order, NUM_TRAIN)])


def network_of(weights: Path | None, folder: Path | None = None) -> torch.nn.Module:
    """With the weights of a file, or those of seed 0 and norms measured on two batches of a run's training clips."""
    torch.manual_seed(0)
    network = clip_network("r3d_mini", width=4)
    if folder:
        config = load_settings(PretrainSettings, folder / "runs/byol/config.yaml", ["data.validation_share=0"])
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            films = open_films(config.model_copy(update={"data": config.data.model_copy(update={"segment_s": None})}))
            dataset = ClipDataset(films.train, config, films.readers)
            clips = [dataset.drawn(Draw(number, 0, 4, 32))[0] for number in range(NUM_TRAIN)]
        backbone = ClipBackbone(network, MEAN, DEVIATION)
        update_bn([torch.stack(clips[:8]), torch.stack(clips[8:])], backbone)
        network.fc = torch.nn.Linear(backbone.num_features, 1)
    if weights:
        network.load_state_dict({k: v for k, v in load_file(weights).items() if not k.startswith("fc.")}, strict=False)
    return network


@pytest.mark.parametrize(
    ("words", "file", "is_random", "views"),
    [
        (["--clips=3"], "retrieval.json", False, ((3, 1), (3, 1))),
        (["--clips=2", "--source_protocol"], "retrieval.json", False, ((2, 3), (1, 1))),
        (["--clips=2", "--random"], "retrieval-random.json", True, ((2, 1), (2, 1))),
    ],
)
def test_recall_is_what_numpy_finds_in_features_of_the_views(folder: Path, words, file: str, is_random, views):
    """Of whole films, all for training in the gallery, whatever training did with them."""
    run = folder / "runs/byol"
    result = run_here("backbones.retrieve", "runs/byol", *words, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert f"items: {NUM_TRAIN} training, {NUM_TEST} test of 10 classes" in result.stdout
    told = json.loads((run / file).read_text())
    queries, gallery = (
        features(folder, network_of(None, folder) if is_random else network_of(run / "weights.safetensors"), *one)
        for one in views
    )
    queries, gallery = queries[NUM_TRAIN:], gallery[:NUM_TRAIN]
    for k in (1, 5, 10, 20, 50):
        is_found = recall_of(queries, gallery, k)
        assert told[f"recall_at_{k}"] == is_found.mean()
        assert told[f"recall_at_{k}_interval"] == interval_over_sources(is_found, np.arange(NUM_TEST))
        assert f"R@{k:<3} {is_found.mean():.3f} [" in result.stdout
    assert told["recall_at_20"] == 1.0
    low, high = told["recall_at_1_interval"]
    assert 0 <= low <= told["recall_at_1"] <= high <= 1
    assert told["source_protocol"] is ("--source_protocol" in words)


def test_a_run_of_classify_is_asked_alike_and_another_list_can_be_named(folder: Path, tmp_path: Path):
    (folder / "labels.yaml").write_text(YAML % "}\nmultigrid: {long: false" + "\ntest: {clips: 1, crops: 1}\n")
    result = run_here("backbones.classify", "-f", "labels.yaml", cwd=folder)
    assert result.returncode == 0, result.stderr
    rows = (folder / "list.csv").read_text().splitlines()
    (tmp_path / "few.csv").write_text("\n".join([*rows[:11], *rows[-4:]]) + "\n")
    words = ("--clips=1", f"--list={tmp_path / 'few.csv'}", f"--videos={folder}")
    result = run_here("backbones.retrieve", folder / "runs/labels", *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "items: 10 training, 4 test of 10 classes" in result.stdout
    told = json.loads((folder / "runs/labels/retrieval.json").read_text())
    network = network_of(folder / "runs/labels/weights.safetensors")
    found = features(folder, network, 1, 1)
    order = np.argsort(-(found[-4:] @ found[:10].T), axis=1, kind="stable")[:, 0]
    assert told["recall_at_1"] == np.mean(order == np.arange(4, 8))


def test_what_cannot_be_asked_is_refused_in_one_line(folder: Path, tmp_path: Path):
    def told(*words: object) -> str:
        return refusal(run_here("backbones.retrieve", *words, cwd=folder))

    assert "nowhere: is not the folder of a run; python -m backbones.pretrain makes one" in told("nowhere")
    rows = (folder / "list.csv").read_text().splitlines()
    (tmp_path / "train.csv").write_text("\n".join(rows[:NUM_TRAIN]) + "\n")
    words = (f"--list={tmp_path / 'train.csv'}", f"--videos={folder}")
    assert "train.csv: has no test films to ask for; name another list by --list" in told("runs/byol", *words)
    assert "none.csv" in told("runs/byol", "--list=none.csv")
    assert "--clips" in told("runs/byol", "--clips=0")
    shutil.copytree(folder / "runs/byol", tmp_path / "byol")
    config = tmp_path / "byol/config.yaml"
    config.write_text(config.read_text().replace("list: list.csv", "list: null"))
    assert "was trained without a list; name one with labels and test films by --list" in told(tmp_path / "byol")
    (tmp_path / "byol/weights.safetensors").write_bytes(b"none")
    words = ("--list=list.csv", "--videos=.")
    assert "weights.safetensors: cannot be read as weights" in told(tmp_path / "byol", *words)
    (tmp_path / "byol/weights.safetensors").unlink()
    assert "weights.safetensors: no such file" in told(tmp_path / "byol", *words)
