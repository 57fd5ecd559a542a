"""Files that appear whole or not at all, whoever else writes them."""

import errno
import hashlib
import io
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from safetensors import SafetensorError

DAY_S = 86400
LONGEST_NAME = 150  # bytes; file systems allow 255, and a temporary file's name also has that of the machine


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it into place, synced to disk, once the block has ended well.

    After an exception the temporary file is removed and an earlier `path` is untouched. Processes that write the same
    file at once do not meet; the last to end prevails. Raises OSError, naming the file, if it cannot be written.
    """
    path = Path(path)
    part = part_of(path)
    try:
        with naming(path):
            yield part
            with open(part, "rb") as file:
                os.fsync(file.fileno())
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def part_of(path: Path) -> Path:
    """The name of this process's temporary file beside `path`, hidden from readers.

    A killed process leaves its own behind: such files of `path` are removed, at once where it ran on this machine,
    after a day where it did not.
    """
    host = socket.gethostname().replace(".", "-")
    name, data = path.name, os.fsencode(path.name)
    if len(data) > LONGEST_NAME:
        name = hashlib.sha256(data).hexdigest()
    for other in path.parent.glob(f".{escape(name)}.*.part"):
        *_, its_host, process_id, _ = other.name.split(".")
        if its_host == host and process_id.isdigit():
            is_abandoned = not Path("/proc", process_id).exists()
        else:
            is_abandoned = time.time() - _modified_s(other) > DAY_S
        if is_abandoned:
            other.unlink(missing_ok=True)
    return path.with_name(f".{name}.{host}.{os.getpid()}.part")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors of the system say which file it was, and those that libraries have for them be OSErrors."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    except (RuntimeError, SafetensorError) as error:  # so say HDF5, torch and safetensors that a disk is full
        reason = str(error).partition("\n")[0]
        raise OSError(f"{path}: could not be written ({reason})") from error


def is_there(path: str | Path) -> bool:
    """Whether something has this name, be it a link that leads nowhere, as git-annex leaves them.

    What cannot be looked at is not absent: raises OSError where the system does not say. `Path.exists` takes such a
    link for nothing, and in some versions of Python that error, too.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def is_of_system(error: Exception) -> bool:
    """Whether an error of reading a file comes from the system and so says nothing of the file's content.

    Libraries raise OSError for a wrong content too, but without a number, or with EINVAL where it led them to a place
    before the file's start.
    """
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)


def read_whole(path: Path) -> io.BytesIO:
    """All of a file, so that whatever a library finds wrong with it is wrong with its content.

    Raises OSError, naming the file, if the system does not let it be read.
    """
    with naming(path):
        return io.BytesIO(path.read_bytes())


def why(error: OSError) -> str:
    """Which file the system did not let be read, and its reason."""
    if isinstance(error, FileNotFoundError) and Path(error.filename).is_symlink():
        return f"{error.filename}: a link that leads nowhere"
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with naming(Path(path)), open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def can_be_read(path: str | Path) -> bool:
    """Whether the system lets a file be read to its end."""
    try:
        sha256(path)
    except OSError:
        return False
    return True


def _modified_s(path: Path) -> float:
    """When a file was last written; now, if another process has just removed it."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()
