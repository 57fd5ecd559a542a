"""The plain memory beside the model's: the latest features of a stream, and which of them are nearest to another.

Shapes: N frames kept, D features, K finds.
"""

from collections.abc import Mapping

import numpy as np

CHUNK = 4096  # frames that are in full precision at a time


class FeatureRing:
    """The last `capacity` features, each of length 1 in float16, with their times: a new one takes the place of the
    oldest. An hour of 10 frames a second and 512 features takes 37 MB. The search is exact."""

    def __init__(self, capacity: int, num_features: int):
        if capacity < 1 or num_features < 1:
            raise ValueError(f"a ring holds at least one frame of one number, found {capacity} of {num_features}")
        self.features = np.zeros((capacity, num_features), np.float16)
        self.times_s = np.zeros(capacity)
        self.num_studied = 0  # from the start of the stream

    @property
    def num_kept(self) -> int:
        return min(self.num_studied, len(self.features))

    @property
    def num_bytes(self) -> int:
        return self.features.nbytes + self.times_s.nbytes

    def study(self, features: np.ndarray, time_s: float) -> None:
        """Keep one frame (D,) of a time. Raises ValueError for another shape, and for numbers that are none."""
        place = self.num_studied % len(self.features)
        self.features[place], self.times_s[place] = self._unit(features), time_s
        self.num_studied += 1

    def ask(self, features: np.ndarray, num_finds: int = 8) -> tuple[np.ndarray, np.ndarray]:
        """Cosine similarities of the frames nearest to one (D,), the most similar first, and their places in the
        stream, counted from its first studied frame: (K,) float32 and (K,) int64, fewer if fewer are kept. Of frames
        that are equally similar the older comes first. The ring stays as it is."""
        query = self._unit(features)
        chunks = (self.features[start : start + CHUNK] for start in range(0, self.num_kept, CHUNK))
        similar = np.concatenate([np.zeros(0, np.float32), *(chunk.astype(np.float32) @ query for chunk in chunks)])
        similar = similar[: self.num_kept]
        num_finds = min(num_finds, self.num_kept)
        if num_finds < 1:
            return np.zeros(0, np.float32), np.zeros(0, np.int64)
        least = np.partition(similar, -num_finds)[-num_finds]
        rows = np.flatnonzero(similar >= least)
        places = self.num_studied - 1 - (self.num_studied - 1 - rows) % len(self.features)
        best = np.lexsort((places, -similar[rows]))[:num_finds]
        return similar[rows[best]], places[best].astype(np.int64)

    def similarities_of(self, features: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Cosine similarities of a frame (D,) with others by their places in the stream, nan for those that are not
        kept: like `places`, float32."""
        rows = self.features[np.asarray(places, np.int64) % len(self.features)].astype(np.float32)
        return np.where(np.isnan(self.times_of(places)), np.float32(np.nan), rows @ self._unit(features))

    def times_of(self, places: np.ndarray) -> np.ndarray:
        """The times of frames by their places in the stream, nan for those that are not kept: like `places`."""
        places = np.asarray(places, np.int64)
        is_kept = (places >= self.num_studied - self.num_kept) & (places >= 0) & (places < self.num_studied)
        return np.where(is_kept, self.times_s[places % len(self.features)], np.nan)

    def state(self) -> dict[str, np.ndarray]:
        """All that going on needs: arrays that do not change any more."""
        kept = slice(0, self.num_kept)
        return {
            "features": self.features[kept].copy(),
            "times_s": self.times_s[kept].copy(),
            "num_studied": np.array(self.num_studied, np.int64),
        }

    def go_on(self, state: Mapping[str, np.ndarray]) -> None:
        """Take over a state. Raises ValueError if it is none, or of a ring of another size."""
        try:
            features, times_s = np.asarray(state["features"]), np.asarray(state["times_s"], float)
            num_studied = int(state["num_studied"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is no state of a ring of features ({error})") from None
        num_kept = min(num_studied, len(self.features))
        expected = (num_kept, self.features.shape[1])
        if num_studied < 0 or features.shape != expected or len(times_s) != num_kept or features.dtype != np.float16:
            raise ValueError(f"this is no state of a ring of {len(self.features)} frames of {expected[1]} numbers")
        self.features[:num_kept], self.times_s[:num_kept], self.num_studied = features, times_s, num_studied

    def _unit(self, features: np.ndarray) -> np.ndarray:
        """(D,) float32 of length 1; zeros stay as they are."""
        features = np.asarray(features, np.float32)
        if features.shape != self.features.shape[1:]:
            raise ValueError(f"a frame has {self.features.shape[1]} features, found shape {features.shape}")
        if not np.isfinite(features).all():
            raise ValueError("a frame's features must be finite numbers")
        largest = np.abs(features).max()
        features = features / largest if largest else features  # else squares could overflow, or vanish
        return features / (np.linalg.norm(features) or 1)
