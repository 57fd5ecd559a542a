"""The memory of a stream: what comes is asked about at once, and studied only a while later.

A frame always resembles the one before it. Studied at once, everything would be old: hence the delay.

Shapes: D features.
"""

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.stream_state import State, read_beside
from models.streaming import Stream
from recognition.common.command_line import InputError
from recognition.streaming.answers import seen_time
from recognition.streaming.event import EPSILON_S
from recognition.streaming.ring import FeatureRing

STILL = 0.999  # cosine with the frame studied last, from which on a picture stands still


@dataclass(frozen=True)
class MemoryRules:
    """How a stream is remembered.

    Attributes:
        delay_s: a frame is studied when it is so old; nothing younger can be recognised.
        studies: whether it is studied at all.
        num_ring: frames that the plain ring keeps, and whose times are known.
        ignores_still: pass over frames that do not differ from the one a delay ago.
    """

    delay_s: float = 10.0
    studies: bool = True
    num_ring: int = 36_000
    ignores_still: bool = False


@dataclass(frozen=True)
class Told:
    """What a memory says of a frame. The fields are those of `Answer`."""

    logit: float
    seen_s: float | None
    ring_similarity: float | None
    ring_seen_s: float | None


class LiveMemory:
    """A trained model and a plain ring of features, side by side, at work on one stream.

    It has no clock: the times that it is given are the stream's, in order.

    Args:
        stream: the model, frame by frame.
        num_features: D.
        rules: how the stream is remembered.

    Attributes:
        num_still: frames passed over because the picture stood still.
        last_s: the time of the latest frame, None before the first.
    """

    def __init__(self, stream: Stream, num_features: int, rules: MemoryRules):
        self.stream, self.rules = stream, rules
        self.ring = FeatureRing(rules.num_ring, num_features)
        self.state: State = stream.start()
        self.num_still = 0
        self.last_s: float | None = None
        self._device = next(stream.model.parameters()).device
        self._waiting: deque[tuple[float, np.ndarray]] = deque()
        self._studied_last: np.ndarray | None = None

    @property
    def num_studied(self) -> int:
        """Frames that are in the model's state."""
        return self.state.num_studied

    @property
    def num_forgotten(self) -> int:
        """Frames before them, forgotten all together."""
        return self.state.num_forgotten

    @property
    def num_bytes(self) -> int:
        """What the model's state takes, without the ring."""
        return self.state.num_bytes

    def see(self, features: np.ndarray, time_s: float) -> Told | None:
        """Ask about a frame (D,) of a time, after studying those that are a delay older. None if it stands still and
        that is passed over."""
        while self._waiting and self._waiting[0][0] <= time_s - self.rules.delay_s + EPSILON_S:
            then_s, earlier = self._waiting.popleft()
            self.study(earlier, then_s)
        self.last_s = time_s
        if self.rules.ignores_still and self._stands_still(features):
            self.num_still += 1
            return None
        told = self.ask(features)
        if self.rules.studies:
            self._waiting.append((time_s, features))
        return told

    def ask(self, features: np.ndarray) -> Told:
        """Ask about a frame (D,), and leave everything as it is."""
        logit = float(self.stream.ask(self.state, self._tensor(features)))
        found = self.stream.when(self.state)
        seen_s = None if found is None else self._time_of(features, found[0].cpu().numpy())
        similarities, places = self.ring.ask(features)
        if not len(places):
            return Told(logit, seen_s, None, None)
        ring_seen_s = seen_time(self.ring.times_of(places), similarities)
        return Told(logit, seen_s, float(similarities[0]), ring_seen_s)

    def study(self, features: np.ndarray, time_s: float) -> None:
        """Take in a frame (D,) of a time, at once."""
        self.state = self.stream.study(self.state, self._tensor(features))
        self.ring.study(features, time_s)
        self._studied_last = features

    def study_rest(self) -> None:
        """Study what still waits: the stream is over."""
        while self._waiting:
            then_s, earlier = self._waiting.popleft()
            self.study(earlier, then_s)

    def save(self, path: Path, notes: Mapping[str, Any]) -> None:
        """Write all that going on needs, whole or not at all, and notes that JSON can say."""
        tensors = {f"ring.{name}": torch.from_numpy(array) for name, array in self.ring.state().items()}
        if self._waiting:
            times_s, features = zip(*self._waiting, strict=True)
            tensors["waiting.times_s"] = torch.tensor(times_s, dtype=torch.float64)
            tensors["waiting.features"] = torch.from_numpy(np.stack(features))
        if self._studied_last is not None:
            tensors["studied_last"] = torch.from_numpy(self._studied_last)
        own = {"last_s": self.last_s, "num_still": self.num_still}
        self.stream.save(path, self.state, tensors, json.dumps({"memory": own, **notes}))

    def load(self, path: Path) -> dict[str, Any]:
        """Go on from a file that `save` wrote; returns its notes. Raises InputError for any other, and for one of other
        weights, features, capacity or size of the ring."""
        try:
            self.state = self.stream.load(path)
            tensors, text = read_beside(path)
            notes = json.loads(text)
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            self.ring.go_on({name.removeprefix("ring."): array for name, array in arrays.items()})
            times_s, features = arrays.get("waiting.times_s", ()), arrays.get("waiting.features", ())
            self._waiting = deque((float(time_s), row) for time_s, row in zip(times_s, features, strict=True))
            self._studied_last = arrays.get("studied_last")
            own = notes.pop("memory")
            self.last_s, self.num_still = own["last_s"], int(own["num_still"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"--memory {path}: {' '.join(str(error).split())}") from None
        return notes

    def _time_of(self, features: np.ndarray, places: np.ndarray) -> float | None:
        """When a frame was seen, by the places of those that the model has found for it."""
        places = places[places >= 0]
        return seen_time(self.ring.times_of(places), self.ring.similarities_of(features, places))

    def _stands_still(self, features: np.ndarray) -> bool:
        if self._studied_last is None:
            return False
        lengths = np.linalg.norm(features) * np.linalg.norm(self._studied_last)
        return bool(features @ self._studied_last > STILL * lengths)

    def _tensor(self, features: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(features, np.float32))[None].to(self._device)
