"""The feature file: whole or absent, and the same whichever way it is read."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import write_features

from recognition.feature_file import (
    DamagedFile,
    FeatureHeader,
    FeatureSpool,
    feature_files,
    map_features,
    read_header,
)

HEADER = FeatureHeader(
    "film é", "1" * 64, 7, 29.97, 640, 272, "resnet18", "random:0", "2" * 64, "pyav", "float16", "bfloat16"
)
FEATURES = np.random.default_rng(0).normal(size=(7, 5))
TIMES = np.array([0, 0.1, 0.2, 0.4, 0.41, 0.5, 0.7])


def write(path: Path, header: FeatureHeader = HEADER, num_frames: int = 7) -> Path:
    """Write a feature file in batches of three frames."""
    with FeatureSpool(path, np.dtype(header.dtype)) as spool:
        for start in range(0, num_frames, 3):
            rows = slice(start, min(start + 3, num_frames))
            spool.append(FEATURES[rows], TIMES[rows])
        spool.finish(header)
    return path


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_header_features_and_times_are_read_back(tmp_path, dtype):
    header = replace(HEADER, dtype=dtype)
    path = write(tmp_path / "film é.h5", header)
    assert read_header(path) == header
    with h5py.File(path) as file:
        assert file["features"].dtype == dtype
        np.testing.assert_array_equal(file["features"][:], FEATURES.astype(dtype))
        np.testing.assert_array_equal(file["time_s"][:], TIMES)
        assert file["time_s"].dtype == np.float64
    assert [path.name for path in tmp_path.iterdir()] == ["film é.h5"]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_mapped_features_equal_those_h5py_reads(tmp_path, dtype):
    [path] = feature_files(write_features(tmp_path, [9000], num_features=8, dtype=dtype))  # more than one block
    with h5py.File(path) as file:
        stored = file["features"]
        assert (stored.chunks, stored.compression, file["time_s"].chunks) == (None, None, None)
        mapped = map_features(path)
        assert (mapped.shape, mapped.dtype) == ((9000, 8), stored.dtype)
        np.testing.assert_array_equal(mapped, stored[:])
    assert isinstance(mapped, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        mapped[0] = 0


def test_equal_features_give_equal_files(tmp_path):
    assert write(tmp_path / "a.h5").read_bytes() == write(tmp_path / "b.h5").read_bytes()


def test_duration_follows_from_frames_and_rate():
    assert replace(HEADER, fps=3.5).duration_s == 2
    assert np.isnan(replace(HEADER, fps=0.0).duration_s)


@pytest.mark.parametrize("share", [0, 0.2, 0.5, 0.9, 0.999])
def test_truncated_file_is_damaged(tmp_path, share):
    path = write(tmp_path / "film.h5")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DamagedFile, match=r"film\.h5"):
        read_header(path)


@pytest.mark.parametrize("name", ["features", "time_s", "fps", "video_sha256", "format_version"])
def test_file_that_lacks_a_part_is_damaged(tmp_path, name):
    path = write(tmp_path / "film.h5")
    with h5py.File(path, "r+") as file:
        del (file if name in file else file.attrs)[name]
    with pytest.raises(DamagedFile, match="not a whole feature file"):
        read_header(path)


def test_file_of_another_length_than_it_says_is_damaged(tmp_path):
    path = write(tmp_path / "film.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["num_frames"] = 8
    with pytest.raises(DamagedFile, match="num_frames"):
        read_header(path)


def test_chunked_file_is_refused_because_it_cannot_be_mapped(tmp_path):
    path = write(tmp_path / "film.h5")
    with h5py.File(path, "r+") as file:
        del file["features"]
        file.create_dataset("features", data=FEATURES.astype(np.float16), chunks=(2, 5))
    with pytest.raises(DamagedFile, match="contiguous"):
        read_header(path)


def test_file_of_a_later_format_is_refused(tmp_path):
    with pytest.raises(DamagedFile, match="format 99"):
        read_header(write(tmp_path / "film.h5", replace(HEADER, format_version=99)))


def test_spool_left_without_finish_leaves_the_folder_as_it_was(tmp_path):
    path = write(tmp_path / "film.h5")
    before = path.read_bytes()
    with FeatureSpool(path, np.dtype("float16")) as spool:
        spool.append(FEATURES, TIMES)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"film.h5": before}


def test_only_feature_files_are_listed(tmp_path):
    write_features(tmp_path, [2, 3])
    for name in (".film_2.h5.part", ".film_2.h5.features.part", ".hidden.h5", "videos.csv", "film_3.mp4"):
        (tmp_path / name).touch()
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}_indices.h5").touch()
    assert [path.name for path in feature_files(tmp_path)] == ["film_0.h5", "film_1.h5"]
