"""Writing HDF5 files."""

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
