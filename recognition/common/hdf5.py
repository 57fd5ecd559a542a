"""Writing HDF5 files, and reading them so that a system that does not let them be read is told from a wrong content."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py


@contextmanager
def new_hdf5(path: Path) -> Iterator[h5py.File]:
    """Yield an HDF5 file to fill; it is made in memory and written to `path` when the block has ended well.

    HDF5's own writing to a full disk can crash the process.
    """
    with h5py.File(str(path), "w", driver="core", backing_store=False, block_size=1 << 22) as file:
        yield file
        file.flush()
        image = file.id.get_file_image()
    path.write_bytes(image)


@contextmanager
def opened_hdf5(path: str | Path) -> Iterator[h5py.File]:
    """Yield an HDF5 file to read, without a lock: some file systems grant none, and whole files need none.

    Where the system does not let it be read, here or in the block, an OSError names the file (see `is_of_system`). What
    else is raised is about the file's content.
    """
    with open(path, "rb"):  # a folder, a link that leads nowhere, no permission: Python names the file
        pass
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except Exception as error:
        if number := _system_error(error):
            raise OSError(number, os.strerror(number), str(path)) from error
        raise


def _system_error(error: Exception) -> int | None:
    """The number of the system's error behind an error of h5py, which has it in its text alone if it is a KeyError."""
    text = re.search(r"filename = .*errno = (\d+)", str(error), re.DOTALL)
    return getattr(error, "errno", None) or (int(text[1]) if text else None)
