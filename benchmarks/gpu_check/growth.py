"""How time and memory grow with the length of an episode, on this device."""

from collections.abc import Iterator
from typing import Any

from benchmarks.growth import measurements


def growth(device: str, seconds: float) -> Iterator[dict[str, Any]]:
    for name, frames, taken, gigabytes in measurements(device):
        yield {"what": name, "frames": frames, "seconds": round(taken, 4), "GB": round(gigabytes, 4)}
