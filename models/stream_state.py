"""What a stream has left behind in a model, and how it is kept in a file.

Shapes: B streams side by side, K finds.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

NUMBERS = ("num_rows", "num_studied", "num_forgotten")
BESIDE = "beside."  # what names of tensors begin with that are kept in a state's file


@dataclass(eq=False)
class State:
    """What a stream has left behind. One that was studied or stepped is used up: go on with what came back.

    Attributes:
        layers: the state of each layer.
        num_rows: B.
        num_studied: frames that are in it.
        num_forgotten: frames of the stream before them, which were forgotten all together.
        found: what `Stream.when` tells; None after loading, as before the first question. (B, K).
    """

    layers: list[Any]
    num_rows: int
    num_studied: int = 0
    num_forgotten: int = 0
    found: Tensor | None = None

    @property
    def num_bytes(self) -> int:
        """What it takes in memory."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """All that is in it, by name."""
        return dict(_tensors(self.layers, "layers"))

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the tensors of a state of the same kind. Raises ValueError if they are of another."""
        kinds = [{name: (x.shape, x.dtype) for name, x in of.items()} for of in (self.tensors(), tensors)]
        if kinds[0] != kinds[1]:
            raise ValueError("tensors are not those of such a state")
        _fill(self.layers, tensors, "layers")


def write(path: Path, state: State, about: Mapping[str, str], beside: Mapping[str, Tensor]) -> None:
    """Write a state, what is said about it and tensors beside it as a safetensors file, whole or not at all."""
    numbers = {name: str(getattr(state, name)) for name in NUMBERS}
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        tensors = state.tensors() | {BESIDE + name: x for name, x in beside.items()}
        save_file({name: x.contiguous() for name, x in tensors.items()}, unfinished, {**about, **numbers})
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, int], dict[str, str]]:
    """The tensors of a state that `write` wrote, its NUMBERS, and what is said about it.

    Raises ValueError for any other file, OSError if it cannot be read.
    """
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            names = [name for name in file.keys() if not name.startswith(BESIDE)]  # noqa: SIM118, it is no mapping
            tensors = {name: file.get_tensor(name) for name in names}
        numbers = {name: int(about[name]) for name in NUMBERS}
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path} holds no state of a stream ({' '.join(str(error).split())})") from None
    if numbers["num_rows"] < 1 or min(numbers.values()) < 0:
        raise ValueError(f"{path} holds no state of a stream ({numbers})")
    return tensors, numbers, about


def read_beside(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors and the notes that were kept beside a state; raises like `read`."""
    try:
        with safe_open(path, "pt") as file:
            names = [name for name in file.keys() if name.startswith(BESIDE)]  # noqa: SIM118, it is no mapping
            tensors = {name.removeprefix(BESIDE): file.get_tensor(name) for name in names}
            return tensors, (file.metadata() or {}).get("notes", "")
    except SafetensorError as error:
        raise ValueError(f"{path} holds no state of a stream ({' '.join(str(error).split())})") from None


def _tensors(state: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(state, Tensor):
        yield name, state
    elif isinstance(state, nn.Module):
        yield from ((f"{name}.{key}", tensor) for key, tensor in state.state_dict().items())
    elif state is not None:
        for number, part in enumerate(state):
            yield from _tensors(part, f"{name}.{number}")


def _fill(state: Any, tensors: Mapping[str, Tensor], name: str) -> None:
    if isinstance(state, Tensor):
        state.copy_(tensors[name])
    elif isinstance(state, nn.Module):
        state.load_state_dict({key: tensors[f"{name}.{key}"] for key in state.state_dict()})
    elif state is not None:
        for number, part in enumerate(state):
            _fill(part, tensors, f"{name}.{number}")
