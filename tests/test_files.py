"""Files that appear whole or not at all."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from recognition.files import sha256, written_whole


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
        "import os, signal; from recognition.files import written_whole\n"
        "with written_whole('file.txt') as part:\n"
        "    part.write_text('half a te'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    line = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {killed}"]
    assert subprocess.run(line, cwd=tmp_path).returncode == -9
    assert [path.name for path in tmp_path.iterdir()] == [".file.txt.part"]
    write(tmp_path / "file.txt", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("size", [0, 3, 1 << 20, (1 << 20) + 1])
def test_sha256_is_that_of_all_bytes(tmp_path, size):
    content = bytes(k % 251 for k in range(size))
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()
