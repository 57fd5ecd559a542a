"""A mapped file: its bytes, read-only, without a descriptor, for as long as an array is on them."""

from pathlib import Path

import numpy as np
import pytest

from recognition.common.mapped_file import map_file


def is_mapped(path: Path) -> bool:
    return str(path) in Path("/proc/self/maps").read_text()


def open_files() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


def test_mapped_bytes_are_those_of_the_file(tmp_path):
    content = np.random.default_rng(0).bytes(10_001)
    (tmp_path / "file").write_bytes(content)
    (tmp_path / "file").chmod(0o400)
    mapped = map_file(tmp_path / "file")
    assert mapped.tobytes() == content
    with pytest.raises(ValueError, match="read-only"):
        mapped[0] = 0


def test_file_stays_mapped_without_a_descriptor_until_its_last_array_is_gone(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(4096))
    before = open_files()
    part = map_file(path)[5:].view(np.uint8)
    assert open_files() == before
    path.unlink()
    assert is_mapped(path)
    assert part.sum() == 0
    del part
    assert not is_mapped(path)


def test_file_that_cannot_be_mapped_is_named(tmp_path):
    (tmp_path / "empty").touch()
    for path in (tmp_path / "none", tmp_path, tmp_path / "empty"):
        with pytest.raises(OSError, match=str(path)):
            map_file(path)
