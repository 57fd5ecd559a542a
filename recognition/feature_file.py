"""The feature file: one film's features and frame times in HDF5, whole or absent.

Datasets `features` (num_frames, D) float16 or float32 and `time_s` (num_frames,) float64, both contiguous, so that
they can be memory-mapped; attributes as in `FeatureHeader`.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import h5py
import numpy as np

from recognition.files import written_whole

FORMAT_VERSION = 1


@dataclass(frozen=True)
class FeatureHeader:
    """What a feature file says of the film and of how its features were made."""

    video_id: str
    video_sha256: str
    num_frames: int
    fps: float
    width: int
    height: int
    backbone: str
    weights: str
    weights_sha256: str
    decoder: str
    dtype: str
    compute_dtype: str
    format_version: int = FORMAT_VERSION

    @property
    def duration_s(self) -> float:
        """Nominal length of the film in seconds, nan where the container gives no rate."""
        return self.num_frames / self.fps if self.fps else float("nan")


class DamagedFile(Exception):
    """A feature file that is not whole. The message says what is wrong with it."""


class FeatureSpool:
    """Collects one film's features on disk while it is read, so that memory stays bounded however long it is.

    Use as a context manager; `finish` makes the feature file, leaving without it leaves nothing behind.
    """

    def __init__(self, path: str | Path, dtype: np.dtype):
        self.path, self.dtype = Path(path), np.dtype(dtype)
        self.times: list[float] = []
        self._raw = self.path.with_name(f".{self.path.name}.features.part")
        self._file = open(self._raw, "wb")  # noqa: SIM115, closed by __exit__

    def __enter__(self) -> "FeatureSpool":
        return self

    def __exit__(self, *_):
        self._file.close()
        self._raw.unlink(missing_ok=True)

    def append(self, features: np.ndarray, times: np.ndarray) -> None:
        """Add the next frames: features (n, D), times (n,) in seconds."""
        self._file.write(np.ascontiguousarray(features, self.dtype))
        self.times.extend(times.tolist())

    def finish(self, header: FeatureHeader) -> None:
        """Write the feature file and rename it into place."""
        self._file.flush()
        features = np.memmap(self._raw, self.dtype, "r").reshape(header.num_frames, -1)
        with written_whole(self.path) as part, h5py.File(part, "w") as file:
            stored = file.create_dataset("features", features.shape, self.dtype)
            for start in range(0, len(features), 4096):
                stored[start : start + 4096] = features[start : start + 4096]
            file["time_s"] = np.asarray(self.times, np.float64)
            file.attrs.update(asdict(header))


def read_header(path: str | Path) -> FeatureHeader:
    """Read the attributes of a feature file and check that the file is whole. Raises DamagedFile."""
    try:
        with h5py.File(path, "r") as file:
            values = {field.name: file.attrs[field.name] for field in fields(FeatureHeader)}
            header = FeatureHeader(
                **{name: value if isinstance(value, str) else value.item() for name, value in values.items()}
            )
            features, times = file["features"], file["time_s"]
            if not len(features) == len(times) == header.num_frames:
                raise DamagedFile(f"{path}: num_frames disagrees with the stored features")
            if features.id.get_offset() is None or times.id.get_offset() is None:
                raise DamagedFile(f"{path}: is not stored contiguously")
    except (OSError, KeyError, AttributeError) as error:
        raise DamagedFile(f"{path}: not a whole feature file ({str(error).splitlines()[0]})") from error
    if header.format_version != FORMAT_VERSION:
        raise DamagedFile(f"{path}: format {header.format_version}, this program reads {FORMAT_VERSION}")
    return header


def map_features(path: str | Path) -> np.ndarray:
    """Memory-map a film's features, (num_frames, D), read-only."""
    with h5py.File(path, "r") as file:
        features = file["features"]
        offset, shape, dtype = features.id.get_offset(), features.shape, features.dtype
    return np.memmap(path, dtype, "r", offset, shape)


def feature_files(folder: str | Path) -> list[Path]:
    """The feature files of a folder by name, without hidden files and without index files."""
    return sorted(
        path
        for path in Path(folder).glob("*.h5")
        if not path.name.startswith((".", "train_indices", "validation_indices", "test_indices"))
    )
