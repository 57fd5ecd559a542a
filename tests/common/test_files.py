"""Files that appear whole or not at all."""

import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from safetensors import SafetensorError

from recognition.common.files import part_of, sha256, written_whole


def write(path: Path, text: str, error: BaseException | None = None) -> None:
    """Write `text` to `path` as one whole; `error` is raised when half of it is written."""
    with written_whole(path) as part, open(part, "w") as file:
        file.write(text[: len(text) // 2])
        file.flush()
        if error:
            raise error
        file.write(text[len(text) // 2 :])


def test_whole_file_replaces_the_old_one(tmp_path):
    for text in ("old text", "new and longer text"):
        write(tmp_path / "file.txt", text)
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file.txt": text}


@pytest.mark.parametrize("error", [ValueError("odd"), OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", [{}, {"file.txt": "old text"}])
def test_exception_leaves_the_folder_as_it_was(tmp_path, before, error):
    for name, text in before.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(type(error)):
        write(tmp_path / "file.txt", "new text", error)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


def test_reader_in_the_middle_of_a_write_sees_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    write(path, "old text")
    with written_whole(path) as part:
        part.write_text("new text")
        assert path.read_text() == "old text"
    assert path.read_text() == "new text"


def test_block_that_wrote_nothing_raises_and_keeps_the_old_file(tmp_path):
    write(tmp_path / "file.txt", "old text")
    with pytest.raises(FileNotFoundError), written_whole(tmp_path / "file.txt"):
        pass
    assert (tmp_path / "file.txt").read_text() == "old text"


def test_killed_writer_leaves_one_hidden_file_that_the_next_write_replaces(tmp_path):
    killed = (
        "import os, signal; from recognition.common.files import written_whole\n"
        "with written_whole('file.txt') as part:\n"
        "    part.write_text('half a te'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    line = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {killed}"]
    assert subprocess.run(line, cwd=tmp_path).returncode == -9
    assert [path.name.startswith(".file.txt.") for path in tmp_path.iterdir()] == [True]
    write(tmp_path / "file.txt", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("name", ["x" * 252 + ".h5", "ü" * 120 + ".h5", "a**b.h5", "[1080p].h5", "caf\udce9.h5"])
def test_file_of_any_name_is_written_and_what_was_left_of_it_removed(tmp_path, name):
    write(tmp_path / name, "text")
    abandoned = part_of(tmp_path / name)
    abandoned = abandoned.with_name(abandoned.name.replace(f".{os.getpid()}.", f".{2**30}."))
    abandoned.touch()
    write(tmp_path / name, "new text")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "new text"}


def test_processes_that_write_the_same_file_do_not_meet(tmp_path):
    path = tmp_path / "file.txt"
    other = tmp_path / f".file.txt.{'another-machine'}.17.part"
    other.write_text("half of an")
    here = tmp_path / f".file.txt.{socket.gethostname().replace('.', '-')}.{os.getppid()}.part"
    here.write_text("half of ano")
    write(path, "text")
    assert (path.read_text(), other.read_text(), here.read_text()) == ("text", "half of an", "half of ano")
    os.utime(other, (0, 0))  # by a process that must have ended long ago
    write(path, "text")
    assert not other.exists()


@pytest.mark.parametrize("error", [RuntimeError("file write failed\nin detail"), SafetensorError("disk full")])
def test_library_that_cannot_write_is_told_in_one_line_with_the_file(tmp_path, error):
    with pytest.raises(OSError, match=r"file\.txt: could not be written \((file write failed|disk full)\)$"):
        write(tmp_path / "file.txt", "text", error)
    assert not list(tmp_path.iterdir())


def test_full_disk_is_told_with_the_file(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: '.*file\.txt'"):
        write(tmp_path / "file.txt", "text", OSError(28, "No space left on device"))


@pytest.mark.parametrize("size", [0, 3, 1 << 20, (1 << 20) + 1])
def test_sha256_is_that_of_all_bytes(tmp_path, size):
    content = bytes(k % 251 for k in range(size))
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()
