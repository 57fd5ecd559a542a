"""Step 2 with networks that read clips: windows of frames and their times, temporal gates."""

import functools
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import refusal
from on_disk import CLIPS, contents, rows
from torch import nn

from models.clip_networks import clip_network
from recognition.common.files import sha256
from recognition.features.backbone import Preprocessing, torchvision
from recognition.features.extraction import FilmFrames
from recognition.features.feature_file import map_features, read_header, read_shots
from recognition.features.weights_file import Eye, write_backbone
from recognition.films.video import decode

CLIP_NETWORK = ("--backbone=r3d_18", "--weights=random:0")


def folders(tmp_path: Path) -> tuple[str, str]:
    """Where films and features are."""
    return f"--input_dir={tmp_path / 'videos'}", f"--output_dir={tmp_path / 'features'}"


@functools.cache
def reference_network() -> nn.Module:
    """torchvision's r3d_18 without its last layer, weights by seed 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torchvision.models.video.r3d_18().eval()
    network.fc = nn.Identity()
    return network


def reference_of_windows(video: Path, starts: list[int]) -> tuple[np.ndarray, list[float]]:
    """Features of 16 frames from each of `starts` by torchvision's transforms and network, and the ninth's times."""
    transforms = torchvision.models.video.R3D_18_Weights.DEFAULT.transforms()
    images, times = zip(*decode(video), strict=True)
    clips = [torch.from_numpy(np.stack(images[start : start + 16])).permute(0, 3, 1, 2) for start in starts]
    with torch.inference_mode():
        features = torch.cat([reference_network()(transforms(clip)[None]) for clip in clips])
    return features.numpy(), [times[start + 8] for start in starts]


def test_windows_of_films_have_the_features_of_torchvisions_network(tmp_path, films, preprocess):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "film_002.mp4").symlink_to(films / "film_002.mp4")
    words = (*CLIP_NETWORK, "--dtype=float32", *folders(tmp_path))
    result = preprocess(*words, "--window_stride=7", "--alter_every=2")
    assert result.returncode == 0
    assert "1 films, 2 windows" in result.stdout
    path = tmp_path / "features" / "film_002.h5"
    header = read_header(path)
    assert (header.backbone, header.num_frames, header.fps) == ("r3d_18, 16 frames every 7", 2, 12 / 7)
    expected, times = reference_of_windows(films / "film_002.mp4", [0, 7])
    found, altered = map_features(path), map_features(path, "altered")
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * scale)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3 * scale  # a mix-up would show
    assert altered.shape == (3, 1, 512)
    assert np.linalg.norm(altered[:, 0] - found[0], axis=1).min() > 0.01 * np.linalg.norm(found[0])
    with h5py.File(path) as file:
        assert file["time_s"][:].tolist() == times
    assert read_shots(path).tolist() == [0]
    assert "made with backbone r3d_18, 16 frames every 7, this run has r3d_18, 16 frames every 16" in refusal(
        preprocess(*words, "--alter_every=2")
    )


def test_windows_of_real_clips_match_torchvision_and_films_shorter_than_a_window_are_listed(tmp_path, preprocess):
    names = ("pytorch_h265_10bits.mp4", "dmlc_video_90.mov")
    if not all((CLIPS / name).exists() for name in names):
        pytest.skip("the clips are not here")
    (tmp_path / "videos").mkdir()
    for name in names:
        (tmp_path / "videos" / name).symlink_to(CLIPS / name)
    words = (*CLIP_NETWORK, *folders(tmp_path))
    assert preprocess(*words).returncode == 1
    [row] = rows(tmp_path / "features" / "failed.csv")
    assert row == {"video": "dmlc_video_90.mov", "reason": "has 3 frames, too few for a window of 16"}
    assert set(contents(tmp_path / "features")) == {"pytorch_h265_10bits.h5", "videos.csv", "failed.csv"}
    found = map_features(tmp_path / "features" / "pytorch_h265_10bits.h5").astype(np.float64)
    expected, _ = reference_of_windows(CLIPS / names[0], [0])
    assert found.shape == (1, 512)
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.01  # half precision


@pytest.mark.parametrize(
    ("stride", "starts"), [(None, [0]), (1, list(range(9))), (3, [0, 3, 6]), (8, [0, 8]), (9, [0]), (20, [0])]
)
def test_windows_hold_their_frames_and_the_time_of_the_middle_one(films, stride, starts):
    preprocessing = Preprocessing("r3d_18", stride)
    images, times = zip(*decode(films / "film_002.mp4"), strict=True)  # 24
    crops = torch.stack([preprocessing.crop(torch.from_numpy(image).permute(2, 0, 1)) for image in images])
    *batches, end = FilmFrames([films / "film_002.mp4"], preprocessing, batch_size=4)(0)
    assert [batch.first for batch in batches] == list(range(0, len(starts), 4))
    assert torch.cat([batch.times for batch in batches]).tolist() == [times[start + 8] for start in starts]
    found = torch.cat([batch.frames for batch in batches])
    assert torch.equal(found, torch.cat([crops[start : start + 16] for start in starts]))
    assert (end.failure, end.rate) == ("", 12 / (stride or 16))


def test_network_with_temporal_gates_is_named_and_kept_apart(tmp_path, films, preprocess):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "film_000.mp4").symlink_to(films / "film_000.mp4")
    words = (*CLIP_NETWORK, "--dtype=float32", *folders(tmp_path))
    assert preprocess(*words, "--temporal_gates", "hidden=3", "fuse=residual", "stages=[2, 4]").returncode == 0
    header = read_header(tmp_path / "features" / "film_000.h5")
    assert header.backbone == (
        "r3d_18 with temporal gates (fuse=residual, hidden=3, stages=[2, 4]), 16 frames every 16"
    )
    expected, _ = reference_of_windows(films / "film_000.mp4", [0])  # as untrained residual gates change nothing
    found = map_features(tmp_path / "features" / "film_000.h5")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert "this run has r3d_18, 16 frames every 16" in refusal(preprocess(*words))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, films: Path) -> Path:
    """Weights of a small network with gates that has learned from two of the films. Read only."""
    path = tmp_path_factory.mktemp("run") / "weights.safetensors"
    seen = tuple(sha256(films / f"film_{k:03d}.mp4") for k in (1, 3))
    eye = Eye("r3d_mini", gates={"fuse": "residual"}, frames=4, fps=6, side=32, films=seen)
    torch.manual_seed(0)
    write_backbone(path, clip_network("r3d_mini", 5, eye.gates).state_dict(), eye)
    return path


def test_films_from_which_the_backbone_has_learned_are_marked(tmp_path, films, own, preprocess):
    words = ("--backbone=r3d_mini", f"--input_dir={films}", f"--output_dir={tmp_path}")
    result = preprocess(*words, f"--weights={own}", "--temporal_gates", "fuse=residual")
    assert result.returncode == 0, result.stderr
    assert "4 films, 12 windows" in result.stdout
    assert (
        "The backbone has learned from 2 of them: generate_dataset.py puts these into training alone" in result.stdout
    )
    headers = [read_header(tmp_path / f"film_{k:03d}.h5") for k in range(4)]
    assert [header.seen_by_backbone for header in headers] == [False, True, False, True]
    assert {(header.num_frames, header.fps) for header in headers} == {(3, 12 / 8)}
    assert headers[0].backbone == (
        "r3d_mini (side=32) with temporal gates (fuse=residual), 4 frames at 6 a second every 4 of these"
    )
    assert map_features(tmp_path / "film_000.h5").shape == (3, 128)
    again = preprocess(*words, f"--weights={own}")
    assert "4 films, 4 of them finished" in again.stdout
    assert "made with backbone r3d_mini (side=32)" in refusal(preprocess(*words, "--weights=random:0"))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((), "--backbone resnet18: {own} is of r3d_mini; say --backbone r3d_mini"),
        (("--backbone=r3d_10",), "--backbone r3d_10: {own} is of r3d_mini"),
        (
            ("--backbone=r3d_mini", "--temporal_gates"),
            '--temporal_gates: {own} has other ones ({{"fuse": "residual"}})',
        ),
        (("--backbone=r3d_mini", "--clip_fps=15"), "--clip_fps 15: these weights were trained at 6 a second"),
        (("--backbone=r3d_mini", "--clip_fps=0"), "--clip_fps: 0 is out of range"),
        (("--weights=random:0", "--clip_fps=15"), "--clip_fps 15: resnet18 reads single frames"),
    ],
)
def test_what_contradicts_the_weights_is_refused_before_anything_is_written(
    tmp_path, films, own, preprocess, words, named
):
    line = refusal(preprocess(f"--weights={own}", *words, f"--input_dir={films}", f"--output_dir={tmp_path / 'out'}"))
    assert named.format(own=own) in line
    assert not (tmp_path / "out").exists()


def test_rate_of_clips_is_for_the_asking_and_stands_in_the_name(tmp_path, films, preprocess):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "film_000.mp4").symlink_to(films / "film_000.mp4")
    words = ("--backbone=r3d_mini", "--weights=random:0", *folders(tmp_path))
    assert preprocess(*words, "--clip_fps=12").returncode == 0
    header = read_header(tmp_path / "features" / "film_000.h5")
    assert header.backbone == "r3d_mini, 16 frames at 12 a second every 16 of these"
    assert "this run has r3d_mini, 16 frames every 16" in refusal(preprocess(*words))
