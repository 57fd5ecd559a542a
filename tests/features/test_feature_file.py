"""The feature file: whole or absent, and the same whichever way it is read."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import write_features
from on_disk import truncate

from recognition.common.hdf5 import opened_hdf5
from recognition.features.feature_file import (
    DamagedFile,
    FeatureHeader,
    FeatureSpool,
    feature_files,
    map_features,
    read_header,
    read_shots,
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
    with opened_hdf5(path) as file:
        stored = file["features"]
        assert (stored.chunks, stored.compression, file["time_s"].chunks) == (None, None, None)
        mapped = map_features(path)
        assert (mapped.shape, mapped.dtype) == ((9000, 8), stored.dtype)
        np.testing.assert_array_equal(mapped, stored[:])
    with pytest.raises(ValueError, match="read-only"):
        mapped[0] = 0


def test_equal_features_give_equal_files(tmp_path):
    assert write(tmp_path / "a.h5").read_bytes() == write(tmp_path / "b.h5").read_bytes()


@pytest.mark.parametrize(("every", "num_altered"), [(1, 7), (3, 3), (6, 2), (7, 1), (50, 1)])
def test_altered_frames_and_shots_are_read_back(tmp_path, every, num_altered):
    header = replace(HEADER, alter_every=every)
    assert (header.num_altered, HEADER.num_altered) == (num_altered, 0)
    altered = np.random.default_rng(1).normal(size=(num_altered, 3, 5))
    with FeatureSpool(tmp_path / "film.h5", np.dtype("float16")) as spool:
        spool.append(FEATURES[:6], TIMES[:6], altered[:1])
        spool.append(FEATURES[6:], TIMES[6:], altered[1:])
        spool.finish(header, np.array([0, 2, 5]))
    assert [path.name for path in tmp_path.iterdir()] == ["film.h5"]
    assert read_header(tmp_path / "film.h5") == header
    np.testing.assert_array_equal(read_shots(tmp_path / "film.h5"), [0, 2, 5])
    mapped = map_features(tmp_path / "film.h5", "altered")
    np.testing.assert_array_equal(mapped, altered.astype(np.float16).transpose(1, 0, 2))
    np.testing.assert_array_equal(map_features(tmp_path / "film.h5"), FEATURES.astype(np.float16))
    with h5py.File(tmp_path / "film.h5", "r+") as file:
        del file["altered"]
        file["altered"] = np.zeros((3, num_altered + 1, 5), np.float16)
    with pytest.raises(DamagedFile, match="num_frames"):
        read_header(tmp_path / "film.h5")


def test_older_file_without_altered_frames_and_shots_is_read(tmp_path):
    path = write(tmp_path / "film.h5")
    with h5py.File(path, "r+") as file:
        for name in ("alter_every", "video_bytes", "seen_by_backbone"):
            del file.attrs[name]
        assert not {"altered", "shots"} & file.keys()
    assert read_header(path) == HEADER
    assert read_shots(path) is None


def test_that_the_backbone_has_seen_the_film_is_kept_and_leaves_the_digest_as_it_was(tmp_path):
    header = replace(HEADER, seen_by_backbone=True)
    assert read_header(write(tmp_path / "film.h5", header)) == header != HEADER
    assert header.digest == HEADER.digest
    with h5py.File(tmp_path / "film.h5", "r+") as file:
        file.attrs["seen_by_backbone"] = "yes"
    with pytest.raises(DamagedFile, match="seen_by_backbone is 'yes'"):
        read_header(tmp_path / "film.h5")


@pytest.mark.parametrize("shots", [[], [1, 3], [0, 3, 3], [0, 5, 2], [0, 7], 0])
def test_shots_that_do_not_ascend_within_the_film_are_damage(tmp_path, shots):
    path = write(tmp_path / "film.h5")
    with h5py.File(path, "r+") as file:
        file["shots"] = np.array(shots, np.int64)
    with pytest.raises(DamagedFile, match="its shots do not ascend"):
        read_shots(path)


def test_duration_follows_from_frames_and_rate():
    assert replace(HEADER, fps=3.5).duration_s == 2
    assert np.isnan(replace(HEADER, fps=0.0).duration_s)


@pytest.mark.parametrize("share", [0, 0.2, 0.5, 0.9, 0.999])
def test_truncated_file_is_damaged(tmp_path, share):
    path = write(tmp_path / "film.h5")
    truncate(path, share)
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
