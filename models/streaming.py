"""A trained model at work on a stream: it studies frames as they come, and is asked of any whether it was there before.

What the batch does with a whole sequence is done here with as many frames as there are, and equals it: `step` over all
frames gives the logits of `Recogniser.forward`, whatever pieces they come in.

Shapes: B streams side by side, T frames, Q frames asked about, D features, M model width, K finds.
"""

import contextlib
import copy
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import stream_state
from models.mixer import Mixer
from models.recogniser import Recogniser
from models.stream_state import State


class Stream:
    """The verbs of a stream. `study` writes frames, `ask` asks about some and leaves the state as it was, bit for bit,
    `step` does both with each frame in turn.

    All is computed without gradients and in the precision of the weights: with less a state would drift.

    Args:
        model: in evaluation mode.
        capacity: how many frames those layers keep that keep frames, from now on; as their settings say if not given.
        forget_after: start anew after so many studied frames, for a model that never learned from as many.
        origin: of the features: a state that was saved is loaded where this and the weights are the same.

    Raises ValueError, in one line, if a layer cannot go frame by frame.
    """

    def __init__(
        self, model: Recogniser, capacity: int | None = None, forget_after: int | None = None, origin: str = ""
    ):
        if model.training:
            raise ValueError("a stream wants a model in evaluation mode, as model.eval() leaves it")
        for name, number in (("capacity", capacity), ("forget_after", forget_after)):
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, found {number}")
        self.model, self.forget_after, self.origin = model, forget_after, origin
        self.blocks: list[Any] = list(model.blocks)
        for number, mixer in enumerate(model.mixers, 1):
            if reason := _prepare(mixer, number == len(model.mixers), capacity):
                raise ValueError(f"layer {number}, {type(mixer).__name__}, cannot go frame by frame: {reason}")
        self.num_showings = model.repeat_test if model.probes_write else 1

    def start(self, num_rows: int = 1) -> State:
        """The state of so many streams before their first frame."""
        return State([mixer.start(num_rows) for mixer in self.model.mixers], num_rows)

    def study(self, state: State, features: Tensor) -> State:
        """Take in the next frames, (B, D) or (B, T, D) of any floating type; the state after them."""
        with _exactly(features):
            return self._go_on(state, features, is_read=False)[1]

    def ask(self, state: State, features: Tensor) -> Tensor:
        """The logits, positive for old, of frames (B, D) or (B, Q, D), each asked by itself: (B,) or (B, Q)."""
        with _exactly(features):
            frames = _as_frames(features, state)
            x = self.model.enter(frames)
            if self.num_showings > 1:
                logits = torch.cat([self._ask_again(state, frame) for frame in x.split(1, 1)], 1)
            else:
                logits = self._read(x, state.layers)
            state.found = self._found(state)
            return logits if features.ndim == 3 else logits[:, 0]

    def step(self, state: State, features: Tensor) -> tuple[Tensor, State]:
        """Ask about each of the next frames, then study it: (B, D) or (B, T, D) to logits (B,) or (B, T), and the state
        after them."""
        if self.num_showings > 1 or any(mixer.only_reads for mixer in self.model.mixers):
            # What a layer says of a frame that it is asked about is not what it says of the same frame in study.
            frames, logits = _as_frames(features, state), []
            for frame in frames.unbind(1):
                logits.append(self.ask(state, frame))
                state = self.study(state, frame)
            return torch.stack(logits, 1) if features.ndim == 3 else logits[0], state
        with _exactly(features):
            y, state = self._go_on(state, features, is_read=True)
            return y if features.ndim == 3 else y[:, 0], state

    def when(self, state: State) -> Tensor | None:
        """Which studied frames the last layer that looks frames up has found for the latest one that was asked about:
        (B, K), counted from the stream's first, the most similar first, -1 where there were too few. None without
        look-up."""
        return state.found

    def save(self, path: Path, state: State, beside: Mapping[str, Tensor] | None = None, notes: str = "") -> None:
        """Write a state, whole or not at all, as a safetensors file. Tensors `beside` it and notes go into the same
        file, from which `stream_state.read_beside` gives them again."""
        about = {"weights": self.digest, "origin": self.origin, "notes": notes}
        stream_state.write(path, state, about, beside or {})

    def load(self, path: Path) -> State:
        """A state that `save` wrote. Raises ValueError, in one line, for any other file and for states of other
        weights, features or capacities; OSError if it cannot be read."""
        tensors, numbers, about = stream_state.read(path)
        for what, saved, ours in (
            ("weights", about.get("weights"), self.digest),
            ("features", about.get("origin"), self.origin),
        ):
            if saved != ours:
                raise ValueError(f"{path} was made with other {what}; go on with those, or start a new one")
        num_bytes = sum(tensor.nbytes for tensor in tensors.values())
        if self.start().num_bytes * numbers["num_rows"] <= 2 * num_bytes:  # else there is no need to make room for it
            state = self.start(numbers["num_rows"])
            state.num_studied, state.num_forgotten = numbers["num_studied"], numbers["num_forgotten"]
            with contextlib.suppress(ValueError):
                state.fill(tensors)
                return state
        raise ValueError(f"{path} was made with another capacity; go on with that, or start a new one")

    @functools.cached_property
    def digest(self) -> str:
        """Of the weights that a state depends on."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            if name != "threshold":
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                digest.update(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()

    def _go_on(self, state: State, features: Tensor, is_read: bool) -> tuple[Tensor, State]:
        """Logits (B, T), or (B, 0) if nothing is read, and the state after the frames."""
        x = self.model.enter(_as_frames(features, state))
        logits = [x.new_empty(len(x), 0)]
        while num_left := x.shape[1]:
            if state.num_studied == self.forget_after:
                num_gone = state.num_forgotten + state.num_studied
                state = replace(self.start(state.num_rows), num_forgotten=num_gone, found=state.found)
            size = num_left if self.forget_after is None else min(num_left, self.forget_after - state.num_studied)
            y, layers = x[:, :size], []
            for number, (block, layer) in enumerate(zip(self.blocks, state.layers, strict=True), 1):
                y, layer = block.step(y, layer, is_read or number < len(self.blocks))
                layers.append(layer)
            state = replace(state, layers=layers, num_studied=state.num_studied + size)
            if is_read:
                logits.append(self.model.answer(y))
                state.found = self._found(state)
            x = x[:, size:]
        return torch.cat(logits, 1), state

    def _read(self, x: Tensor, layers: list[Any]) -> Tensor:
        for block, layer in zip(self.blocks, layers, strict=True):
            x = block.read(x, layer)
        return self.model.answer(x)

    def _ask_again(self, state: State, x: Tensor) -> Tensor:
        """One frame (B, 1, M) shown as often as in training, to layers that may remember its showings: (B, 1)."""
        mixers = self.model.mixers
        layers = [
            copy.deepcopy(layer) if mixer.stores_probes else layer
            for mixer, layer in zip(mixers, state.layers, strict=True)
        ]
        for _ in range(self.num_showings - 1):
            y = x
            for number, (block, mixer) in enumerate(zip(self.blocks, mixers, strict=True)):
                if mixer.stores_probes:
                    y, layers[number] = block.step(y, layers[number])
                else:
                    y = block.read(y, layers[number])
        return self._read(x, layers)

    def _found(self, state: State) -> Tensor | None:
        for mixer in reversed(self.model.mixers):
            if (found := mixer.tell().get("retrieved")) is not None:
                places = found[:, -1].long()
                return torch.where(places < 0, -1, places + state.num_forgotten)
        return None


def _prepare(mixer: Mixer, is_last: bool, capacity: int | None) -> str | None:
    """Give a layer its capacity, if it has one; the reason if it cannot stream."""
    if capacity is not None and mixer.limit is not None:
        try:
            mixer.change(**{mixer.limit: capacity})
        except ValueError as error:
            return str(error)
    return mixer.cannot_stream(is_last)


def _exactly(features: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Neither gradients nor autocast."""
    context = contextlib.ExitStack()
    context.enter_context(torch.no_grad())
    context.enter_context(torch.autocast(features.device.type, enabled=False))
    return context


def _as_frames(features: Tensor, state: State) -> Tensor:
    """(B, D) or (B, T, D) to (B, T, D)."""
    frames = features if features.ndim == 3 else features[:, None]
    if frames.ndim != 3 or len(frames) != state.num_rows:
        raise ValueError(f"frames of {state.num_rows} streams were expected, found shape {tuple(features.shape)}")
    return frames
