"""Step 2 over what is there already: finished, damaged or changed files, kills, and films that processes share."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import h5py
import pytest
import torch
from conftest import ROOT, SMALL_FEATURES, kill_at_random, refusal, run_script
from forking import Forked
from on_disk import contents, rows, truncate
from torch import nn

from recognition.features.backbone import torchvision
from recognition.features.feature_file import feature_files, read_header


@pytest.fixture
def earlier(finished: Path, tmp_path: Path) -> Path:
    """A copy of `finished` that a test may spoil, written long ago."""
    folder = Path(shutil.copytree(finished, tmp_path / "features"))
    for path in folder.iterdir():
        os.utime(path, ns=(0, 0))
    return folder


def changed_since(folder: Path, before_ns: int) -> set[str]:
    """Names of the feature files written after `before_ns`."""
    return {path.name for path in feature_files(folder) if path.stat().st_mtime_ns > before_ns}


def test_finished_films_are_kept_and_new_ones_added(films, finished, earlier, preprocess):
    (earlier / "film_002.h5").unlink()
    result = preprocess(*SMALL_FEATURES, "--input_dir", films, "--output_dir", earlier)
    assert result.returncode == 0
    assert "4 films, 3 of them finished" in result.stdout
    assert changed_since(earlier, 0) == {"film_002.h5"}
    assert contents(earlier) == contents(finished)


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_truncated_feature_file_is_rebuilt(films, finished, earlier, preprocess, share):
    truncate(earlier / "film_001.h5", share)
    result = preprocess(*SMALL_FEATURES, "--input_dir", films, "--output_dir", earlier)
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
    line = refusal(preprocess(*SMALL_FEATURES, "--input_dir", films, "--output_dir", earlier, option, value))
    assert difference in line
    assert "--overwrite" in line
    assert contents(earlier) == before
    assert changed_since(earlier, 0) == set()


def test_features_of_an_earlier_version_are_not_mixed_with_new_ones(films, earlier, preprocess):
    """Films with other than square pixels, mirrored ones and, with old PyAV, most colours came to other pictures."""
    with h5py.File(earlier / "film_001.h5", "r+") as file:
        file.attrs["decoder"] = "pyav 2"
    line = refusal(preprocess(*SMALL_FEATURES, "--input_dir", films, "--output_dir", earlier))
    assert "film_001.h5 was made with decoder pyav 2, this run has pyav 3" in line


def test_weights_of_another_content_under_the_same_name_are_noticed(tmp_path, films, preprocess):
    words = (
        *SMALL_FEATURES,
        "--input_dir",
        films,
        "--output_dir",
        tmp_path / "features",
        "--weights",
        tmp_path / "net.pth",
    )
    network = torchvision.models.shufflenet_v2_x0_5()
    torch.save(network.state_dict(), tmp_path / "net.pth")
    assert preprocess(*words).returncode == 0
    assert read_header(tmp_path / "features" / "film_000.h5").weights == "net.pth"
    nn.init.zeros_(network.fc.bias)
    torch.save(network.state_dict(), tmp_path / "net.pth")
    assert "made with weights_sha256" in refusal(preprocess(*words))


def test_overwrite_redoes_all_films(films, earlier, preprocess):
    words = ("--input_dir", films, "--output_dir", earlier, "--weights=random:1", "--overwrite")
    assert preprocess(*SMALL_FEATURES, *words).returncode == 0
    assert changed_since(earlier, 0) == {f"film_{k:03d}.h5" for k in range(4)}
    assert {read_header(path).weights for path in feature_files(earlier)} == {"random:1"}


def test_failed_films_are_listed_by_name_until_they_are_repaired(tmp_path, films, finished, preprocess):
    videos, features = Path(shutil.copytree(films, tmp_path / "videos")), tmp_path / "features"
    for k in (3, 1):
        truncate(videos / f"film_{k:03d}.mp4", 0.8)
    words = (*SMALL_FEATURES, "--input_dir", videos, "--output_dir", features)
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
    assert preprocess(*SMALL_FEATURES, *words).returncode == 1
    assert [row["video_id"] for row in rows(earlier / "videos.csv")] == ["film_000", "film_002", "film_003"]
    assert not (earlier / "film_001.h5").exists()


def test_damaged_feature_file_whose_film_is_gone_is_named(tmp_path, films, earlier, preprocess):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "film_000.mp4").symlink_to(films / "film_000.mp4")
    truncate(earlier / "film_001.h5")
    result = preprocess(*SMALL_FEATURES, "--input_dir", tmp_path / "videos", "--output_dir", earlier)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "film_001.h5" in result.stderr


@pytest.mark.parametrize("pattern", [".*.features.*.part", "film_*.h5"], ids=["in_first_film", "after_first_film"])
def test_killed_at_a_chosen_moment_then_run_again_gives_the_same_files(tmp_path, films, finished, preprocess, pattern):
    features = tmp_path / "features"
    words = [*SMALL_FEATURES, f"--input_dir={films}", f"--output_dir={features}"]
    process = Forked(
        ["preprocess_videos.py", "--workers=1", *words],
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

    assert preprocess(*words).returncode == 0
    assert contents(features) == contents(finished)


def test_killed_at_random_moments_then_run_again_gives_the_same_files(tmp_path, films, finished, preprocess):
    words = (*SMALL_FEATURES, f"--input_dir={films}", f"--output_dir={tmp_path / 'features'}")
    kill_at_random(("preprocess_videos.py", *words), tmp_path, num_kills=2, longest_s=2, once_it_speaks=True)
    assert preprocess(*words).returncode == 0
    assert contents(tmp_path / "features") == contents(finished)


def test_shards_share_the_films_and_list_them_all(tmp_path, films, finished, preprocess):
    """Two of them at once do the same films: that costs time alone."""
    words = [*SMALL_FEATURES, f"--input_dir={films}", f"--output_dir={tmp_path}/features"]
    script = ["preprocess_videos.py", "--workers=1", *words, "--shard=1/2"]
    shards = [Forked(script, cwd=tmp_path, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [shard.wait() for shard in shards] == [0, 0]
    features = tmp_path / "features"
    assert [path.name for path in sorted(features.iterdir())] == ["film_000.h5", "film_002.h5", "videos.csv"]
    assert preprocess(*words, "--shard=2/2").returncode == 0
    assert contents(features) == contents(finished)


def test_failures_of_a_shard_have_a_list_of_their_own_until_all_is_done_at_once(tmp_path, films, finished, preprocess):
    mixed = Path(shutil.copytree(films, tmp_path / "mixed", ignore=shutil.ignore_patterns("features")))
    (mixed / "a.mp4").write_bytes(b"no film")
    features = Path(shutil.copytree(finished, tmp_path / "features"))
    words = [*SMALL_FEATURES, f"--input_dir={mixed}", f"--output_dir={features}"]
    assert preprocess(*words, "--shard=2/3").returncode == 0
    assert preprocess(*words, "--shard=1/3").returncode == 1
    assert "a.mp4" in (features / "failed_1_of_3.csv").read_text()
    assert preprocess(*words).returncode == 1
    assert [path.name for path in features.glob("failed*")] == ["failed.csv"]


def test_processes_of_torchrun_share_the_films(tmp_path, films, finished):
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node=2", ROOT / "preprocess_videos.py"]
    words = [*SMALL_FEATURES, "--workers=1", f"--input_dir={films}", "--output_dir=features"]
    result = run_script(*launcher, *words, cwd=tmp_path, forks=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("2 films, 0 of them finished") == 2
    assert contents(tmp_path / "features") == contents(finished)


def test_film_that_has_changed_stops_before_anything_is_done(tmp_path, films, finished, preprocess):
    copies = Path(shutil.copytree(films, tmp_path / "films", ignore=shutil.ignore_patterns("features")))
    features = Path(shutil.copytree(finished, tmp_path / "features"))
    words = [*SMALL_FEATURES, f"--input_dir={copies}", f"--output_dir={features}"]
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
