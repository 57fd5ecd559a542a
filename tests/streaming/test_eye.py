"""The eye of a stream sees as preprocessing did."""

from pathlib import Path

import numpy as np
import pytest
import torch

from recognition.common.command_line import InputError
from recognition.features.backbone import Backbone
from recognition.features.feature_file import map_features, read_header, read_times
from recognition.features.same_backbone import Network, same_backbone
from recognition.streaming.eye import Eye
from recognition.streaming.sources import open_source
from recognition.streaming.trained import open_trained

CPU = torch.device("cpu")


def test_features_of_a_stream_are_those_of_the_file(live_run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(live_run)
    trained = open_trained(Path("runs/knn"))
    eye, film = trained.eye(), min(Path("films").iterdir())
    stored = map_features(f"features/{film.stem}.h5")
    assert (trained.fps, eye.reads_at(4)) == (4, 4)
    with open_source(str(film), fps=4) as source:
        for frame, row in zip(source, stored[:10].astype(np.float32), strict=False):
            assert eye.take(frame) == frame
            features = eye.now()
            assert features @ row > 0.9999 * np.linalg.norm(features) * np.linalg.norm(row)


def test_windows_of_a_stream_are_those_of_the_file(films: Path, tmp_path: Path, preprocess):
    film = min(path for path in films.iterdir() if path.is_file())
    words = "--backbone=r3d_18", "--weights=random:0", "--window_stride=4", "--dtype=float32"
    folder = tmp_path / "films"
    folder.mkdir()
    (folder / film.name).write_bytes(film.read_bytes())
    assert preprocess(f"--input_dir={folder}", f"--output_dir={tmp_path}", *words).returncode == 0
    file = tmp_path / f"{film.stem}.h5"
    header, stored, times = read_header(file), map_features(file), read_times(file)
    eye = Eye(same_backbone(header, CPU, fast=False), header.dtype)
    assert (eye.window, eye.reads_at(3)) == (16, None)
    with open_source(str(film)) as source:
        taken = [(frame.time_s, eye.now()) for frame in map(eye.take, source) if frame]
    assert [time_s for time_s, _ in taken] == times.tolist()
    assert np.allclose([features for _, features in taken], stored, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("shufflenet_v2_x0_5", {}),
        ("shufflenet_v2_x0_5", {"frame_fps": 2.5}),
        ("r3d_18", {"fps": 7.5}),
        ("r3d_18", {"fps": 7.5, "stride": 64}),
        ("r3d_18", {}),
    ],
)
def test_network_is_known_by_what_a_feature_file_says(name: str, settings: dict):
    made = Backbone(name, "random:3", CPU, **settings)
    again = same_backbone(Network(made.name, made.weights, made.weights_sha256), CPU)
    assert (again.name, again.weights_sha256) == (made.name, made.weights_sha256)


def test_network_with_other_weights_is_refused(tmp_path: Path):
    made = Backbone("shufflenet_v2_x0_5", "random:0", CPU)
    with pytest.raises(InputError, match=r"shufflenet_v2_x0_5 \(random:1\) is not at hand as it was"):
        same_backbone(Network(made.name, "random:1", made.weights_sha256), CPU)
    with pytest.raises(InputError, match=r"has its weights from a file, mine.pth, and where it is was not said"):
        same_backbone(Network(made.name, "mine.pth", made.weights_sha256), CPU)


def test_run_of_which_the_features_are_gone_is_refused(live_run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(live_run)
    with pytest.raises(InputError, match="nowhere"):
        open_trained(Path("runs/knn"), ["dataset.video_path=nowhere"])
    with pytest.raises(InputError, match="not a run"):
        open_trained(Path("films"))
