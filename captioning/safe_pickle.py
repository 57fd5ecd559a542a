"""A pickle read without running any of it.

A pickle is a program. Of one nothing is taken but arrays, numbers, text, lists, tuples and dictionaries: whatever else
it names is never looked up, let alone called, and is told. Not even numpy's own functions are called with what it says:
stand-ins note it, and it is checked before an array is made.
"""

import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from recognition.common.command_line import InputError, first_line, shown
from recognition.common.files import read_whole

HINT = "its owner can save it as .npz, see python -m captioning.prepare rows --help"
DEEPEST = 16  # lists and dictionaries within each other
ARRAY_KINDS = "biufSU"


def read_restricted(path: Path) -> Any:
    """What a pickle holds, if that is arrays, numbers, text, lists, tuples and dictionaries alone. Runs nothing of it.
    Raises InputError, which names the first thing that is refused."""
    data = read_whole(path)
    if data.read(2) == b"\x1f\x8b":
        raise InputError(f"{path}: is packed; unpack it first")
    data.seek(0)
    try:
        return _finished(_Reader(data, path).load(), path, {}, 0)
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path}: is no whole pickle, or larger than memory") from None
    except Exception as error:  # the reader of pickles raises many kinds for what is none
        raise InputError(f"{path}: is no whole pickle of rows ({first_line(error)})") from None


class _Array:
    """What a pickle says of an array; it becomes one when all is checked."""

    __slots__ = ("data", "dtype", "in_columns", "shape")

    def __init__(self) -> None:
        self.dtype: Any = None
        self.shape: Any = ()
        self.data: Any = None
        self.in_columns: Any = False

    def __setstate__(self, state: Any) -> None:
        _version, self.shape, self.dtype, self.in_columns, self.data = state


class _DType:
    """What a pickle says of the type of an array's numbers."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any):
        self.code, self.order = code, "|"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


class _Call:
    """Stands for a function that numpy's arrays name in a pickle."""

    def __init__(self, make: Callable[..., Any]):
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> NoReturn:
        raise pickle.UnpicklingError("sets what it may not")


def _array(*_: Any) -> _Array:
    return _Array()


def _dtype(code: Any, *_: Any) -> _DType:
    return _DType(code)


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any = "C", *_: Any) -> _Array:
    array = _Array()
    array.data, array.dtype, array.shape, array.in_columns = data, dtype, shape, order == "F"
    return array


def _scalar(dtype: Any, data: Any) -> _Array:
    return _from_buffer(data, dtype, ())


def _encode(text: Any, code: Any) -> bytes:
    """Bytes, as old protocols write them."""
    if code != "latin1" or not isinstance(text, str):
        raise pickle.UnpicklingError("bytes in a strange code")
    return text.encode("latin1")


def _known() -> dict[tuple[str, str], Callable[..., Any]]:
    found: dict[tuple[str, str], Callable[..., Any]] = {("numpy", "dtype"): _dtype, ("_codecs", "encode"): _encode}
    found["numpy", "ndarray"] = _array
    for core in ("numpy.core", "numpy._core"):
        found[f"{core}.multiarray", "_reconstruct"] = _array
        found[f"{core}.multiarray", "scalar"] = _scalar
        found[f"{core}.numeric", "_frombuffer"] = _from_buffer
    return found


class _Reader(pickle.Unpickler):
    """Reads a pickle with stand-ins for what numpy's arrays name; anything else it names ends the reading."""

    def __init__(self, data: io.BytesIO, path: Path):
        super().__init__(data, encoding="bytes")
        self._path, self._known = path, _known()

    def find_class(self, module: str, name: str) -> Any:
        if make := self._known.get((module, name)):
            return _Call(make)
        raise InputError(
            f"{self._path}: is a pickle that names {shown(f'{module}.{name}')}; only arrays, numbers, text, lists and "
            f"dicts are read, for a pickle can run code; {HINT}"
        )

    def persistent_load(self, number: Any) -> NoReturn:
        raise InputError(f"{self._path}: is a pickle with parts elsewhere, as torch saves them; {HINT}")


def _finished(value: Any, path: Path, done: dict[int, Any], depth: int) -> Any:
    """A value with arrays in place of what the pickle said of them. `done` keeps what is there several times."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is bytes:
        return value.decode("utf-8")  # text, as Python 2 wrote it
    if id(value) in done:
        return done[id(value)][1]
    if depth > DEEPEST:
        raise InputError(f"{path}: is a pickle of lists within lists, {DEEPEST} deep; that is no rows")
    if type(value) is _Array:
        found: Any = _as_array(value, path, done, depth)
    elif type(value) in (list, tuple):
        found = [_finished(item, path, done, depth + 1) for item in value]
    elif type(value) is dict:
        found = {
            _finished(key, path, done, depth + 1): _finished(item, path, done, depth + 1) for key, item in value.items()
        }
    else:
        name = type(value).__name__.lstrip("_")
        raise InputError(
            f"{path}: is a pickle that holds a {name}; only arrays, numbers, text, lists and dicts are read"
        )
    done[id(value)] = value, found
    return found


def _as_array(said: _Array, path: Path, done: dict[int, Any], depth: int) -> Any:
    """The array, or the number if it has no axes, of what a pickle says of one."""
    if type(said.dtype) is not _DType:
        raise InputError(f"{path}: is a pickle with an array of no type")
    code, order, shape = (
        part.decode() if type(part) is bytes else part for part in (said.dtype.code, said.dtype.order, said.shape)
    )
    is_shape = type(shape) is tuple and all(type(side) is int and side >= 0 for side in shape)
    if not is_shape or type(code) is not str or order not in ("<", ">", "=", "|"):
        raise InputError(f"{path}: is a pickle with an array of shape {shown(shape)} and type {shown(code)}")
    if code == "O8" or code == "O":  # of rows that differ in length
        if type(said.data) is not list or len(said.data) != math.prod(shape):
            raise InputError(f"{path}: is a pickle with an array that is not whole")
        return [_finished(item, path, done, depth + 1) for item in said.data]
    if code[:1] not in ARRAY_KINDS or not code[1:].isdigit() or len(code) > 8:
        raise InputError(f"{path}: is a pickle with an array of type {shown(code)}; numbers and text are read")
    data = said.data.encode("latin1") if type(said.data) is str else said.data
    dtype = np.dtype(f"{'' if order == '|' else order}{code}")
    if type(data) not in (bytes, bytearray) or len(data) != dtype.itemsize * math.prod(shape):
        raise InputError(f"{path}: is a pickle with an array that is not whole")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if said.in_columns else "C")
    return array if shape else array.item()
