"""A file mapped into memory without keeping it open, so that no limit of open files counts the films of a bank."""

import ctypes
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

FAILED = ctypes.c_void_p(-1).value  # MAP_FAILED
_c = ctypes.CDLL(None, use_errno=True)
_c.mmap.restype = ctypes.c_void_p
_c.mmap.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
_c.munmap.argtypes = ctypes.c_void_p, ctypes.c_size_t


def map_file(path: str | Path) -> np.ndarray:
    """The bytes of a file, (num_bytes,) uint8, read-only and read when they are asked for.

    Pages are shared with all processes that map the file, and take no memory that the system has to promise. Unlike
    `numpy.memmap` it holds no descriptor; `mmap.mmap` can do without one from Python 3.13 on. Raises OSError, naming
    the file.
    """
    return np.asarray(_Mapping(Path(path)))


class _Mapping:
    """Pages of a file, unmapped when the last array on them is gone."""

    def __init__(self, path: Path):
        self.address: int | None = None
        with open(path, "rb") as file:
            self.size = os.fstat(file.fileno()).st_size
            address = _c.mmap(None, self.size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
        if address == FAILED:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
        self.address = address
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": (self.size,), "data": (address, True)}

    def __del__(self, unmap: Callable[[int, int], int] = _c.munmap) -> None:
        if self.address is not None:
            unmap(self.address, self.size)
