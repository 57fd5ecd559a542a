"""The feature file: one film's features and frame times in HDF5, whole or absent.

Datasets, all contiguous, so that they can be memory-mapped:

    features (num_frames, D)        float16 or float32
    time_s (num_frames,)            float64
    altered (A, num_altered, D)     as features: every `alter_every`-th frame from the first, in each of A alterations,
                                    which are in the order of ALTERATIONS; absent if `alter_every` is 0
    shots (K,)                      int64, first frames of the shots, ascending from 0; absent in older files

Attributes as in `FeatureHeader`; older files have no `alter_every`, `video_bytes` and `seen_by_backbone`.
"""

import hashlib
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from recognition.common.command_line import first_line, shown
from recognition.common.files import is_of_system, naming, part_of, written_whole
from recognition.common.hdf5 import new_hdf5, opened_hdf5
from recognition.common.mapped_file import map_file
from recognition.films.alterations import ALTERATIONS

FORMAT_VERSION = 1
DTYPES = "float16", "float32", "float64"


@dataclass(frozen=True)
class FeatureHeader:
    """What a feature file says of the film and of how its features were made.

    Of a network for videos, which reads windows of frames, a frame is such a window.
    """

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
    alter_every: int = 0  # of so many frames one has features of its altered versions too; 0 for none
    video_bytes: int = 0  # size of the film's file; 0 where it is not known, in older files
    seen_by_backbone: bool = False  # whether the network has learned from this film, so that it cannot test a memory

    @property
    def duration_s(self) -> float:
        """Nominal length of the film in seconds, nan where the container gives no rate."""
        return self.num_frames / self.fps if self.fps else float("nan")

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of all that decides what the features are."""
        decisive = (
            *(self.video_id, self.video_sha256, self.num_frames, self.alter_every, self.backbone, self.weights_sha256),
            *(self.decoder, self.dtype, self.compute_dtype),
        )
        return hashlib.sha256(repr(decisive).encode()).hexdigest()

    @property
    def num_altered(self) -> int:
        """Frames with features of their altered versions."""
        return -(-self.num_frames // self.alter_every) if self.alter_every else 0


class DamagedFile(Exception):
    """A feature file that is not whole. The message says what is wrong with it."""


class OtherFormat(DamagedFile):
    """A feature file that another version of this program, or another program, may well be able to read."""


class FeatureSpool:
    """Collects one film's features on disk while it is read, so that memory stays bounded however many are read at
    once; only writing its file has it in memory.

    Use as a context manager; `finish` makes the feature file, leaving without it leaves nothing behind.
    """

    def __init__(self, path: str | Path, dtype: np.dtype):
        self.path, self.dtype = Path(path), np.dtype(dtype)
        self.times: list[float] = []
        # Two raw files, for the features of frames and of their altered versions.
        self._raw = [part_of(self.path.with_name(f"{self.path.name}.{name}")) for name in ("features", "altered")]
        self._files = [open(raw, "wb") for raw in self._raw]  # noqa: SIM115, closed by __exit__

    def __enter__(self) -> "FeatureSpool":
        return self

    def __exit__(self, *_: object) -> None:
        for file, raw in zip(self._files, self._raw, strict=True):
            raw.unlink(missing_ok=True)
            with suppress(OSError):  # on a full disk what is still buffered cannot be written
                file.close()

    def append(self, features: np.ndarray, times: np.ndarray, altered: np.ndarray | None = None) -> None:
        """Add the next frames: features (n, D), times (n,) in seconds, and of those of them that are altered the
        features of all versions, altered (m, A, D)."""
        with naming(self.path):
            self._files[0].write(np.ascontiguousarray(features, self.dtype).data)
            self.times.extend(times.tolist())
            if altered is not None:
                self._files[1].write(np.ascontiguousarray(altered, self.dtype).data)

    def finish(self, header: FeatureHeader, shots: np.ndarray | None = None) -> None:
        """Write the feature file, with the first frames of the shots (K,) if they are known, and rename it into
        place."""
        with naming(self.path):
            for file in self._files:
                file.flush()
        features = np.memmap(self._raw[0], self.dtype, "r").reshape(header.num_frames, -1)
        with written_whole(self.path) as part, new_hdf5(part) as file:
            file["features"] = features
            file["time_s"] = np.asarray(self.times, np.float64)
            if header.num_altered:
                altered = np.memmap(self._raw[1], self.dtype, "r").reshape(header.num_altered, -1, features.shape[1])
                file["altered"] = altered.transpose(1, 0, 2)
            if shots is not None:
                file["shots"] = np.asarray(shots, np.int64)
            file.attrs.update(asdict(header))


def read_header(path: str | Path) -> FeatureHeader:
    """Read the attributes of a feature file and check that the file is whole. Raises DamagedFile, or OSError if the
    system does not let it be read."""
    try:
        with opened_hdf5(path) as file:
            header = _header(file)
            if header.format_version != FORMAT_VERSION:
                raise OtherFormat(f"{path}: format {header.format_version}, this program reads {FORMAT_VERSION}")
            _check_datasets(file, header, Path(path))
    except (DamagedFile, MemoryError):
        raise
    except Exception as error:  # h5py raises many kinds for a damaged file
        if is_of_system(error):
            raise
        raise DamagedFile(f"{path}: not a whole feature file ({first_line(error)})") from error
    return header


def _header(file: h5py.File) -> FeatureHeader:
    """The attributes. Raises KeyError for one that is missing and ValueError for one that is wrong."""
    values = {"alter_every": np.int64(0), "video_bytes": np.int64(0), "seen_by_backbone": np.False_, **file.attrs}
    for field in fields(FeatureHeader):
        value = values[field.name]
        values[field.name] = value if isinstance(value, str) else value.item()
        due: Any = int | float if field.type is float else field.type
        if not isinstance(values[field.name], due):
            raise ValueError(f"{field.name} is {shown(values[field.name])}")
    header = FeatureHeader(**{field.name: values[field.name] for field in fields(FeatureHeader)})
    if not (header.num_frames > 0 and 0 <= header.fps < float("inf") and header.alter_every >= 0):
        raise ValueError("num_frames, fps or alter_every is out of range")
    return header


def _check_datasets(file: h5py.File, header: FeatureHeader, path: Path) -> None:
    """Raise DamagedFile unless the datasets are as the attributes say, and whole within the file."""
    features, num_frames = file["features"], header.num_frames
    due = {"features": (num_frames, *features.shape[1:]), "time_s": (num_frames,)}
    if header.num_altered:
        due["altered"] = (len(ALTERATIONS), header.num_altered, *features.shape[1:])
    if features.ndim != 2 or any(file[name].shape != shape for name, shape in due.items()):
        raise DamagedFile(f"{path}: num_frames disagrees with the stored features")
    if header.dtype not in DTYPES:
        raise OtherFormat(
            f"{path}: holds features of type {shown(header.dtype)}, this program reads {', '.join(DTYPES)}"
        )
    types = {"features": header.dtype, "altered": header.dtype, "time_s": "float64"}
    if any(file[name].dtype != np.dtype(types[name]) for name in due):
        raise DamagedFile(f"{path}: its datasets are not of the types that it says")
    places = {name: file[name].id.get_offset() for name in due}
    if None in places.values():
        raise DamagedFile(f"{path}: is not stored contiguously")
    if max(offset + file[name].nbytes for name, offset in places.items()) > path.stat().st_size:
        raise DamagedFile(f"{path}: its features do not end within the file")


def read_shots(path: str | Path) -> np.ndarray | None:
    """First frames of the film's shots (K,), ascending from 0, or None if the file does not say. Raises as
    `read_header` does."""
    try:
        with opened_hdf5(path) as file:
            if "shots" not in file:
                return None
            shots, num_frames = file["shots"][()].astype(np.int64, casting="safe"), len(file["features"])
    except Exception as error:  # as in read_header
        if is_of_system(error):
            raise
        raise DamagedFile(f"{path}: its shots cannot be read ({first_line(error)})") from error
    if shots.ndim != 1 or len(shots) == 0 or shots[0] != 0 or shots[-1] >= num_frames or (np.diff(shots) <= 0).any():
        raise DamagedFile(f"{path}: its shots do not ascend from 0 to its last frame")
    return shots


def map_features(path: str | Path, name: Literal["features", "altered"] = "features") -> np.ndarray:
    """Memory-map a film's features, (num_frames, D), or those of its altered frames, (A, num_altered, D), read-only."""
    with opened_hdf5(path) as file:
        features = file[name]
        offset, shape, dtype = features.id.get_offset(), features.shape, features.dtype
    return np.ndarray(shape, dtype, map_file(path), offset)


def read_times(path: str | Path) -> np.ndarray:
    """Times of all frames of the film, (num_frames,) in seconds."""
    with opened_hdf5(path) as file:
        return file["time_s"][:]


def feature_files(folder: str | Path) -> list[Path]:
    """The feature files of a folder by name, without hidden files and without index files."""
    hidden_or_index = (".", "train_indices", "validation_indices", "test_indices")
    return sorted(
        path for path in Path(folder).iterdir() if path.suffix == ".h5" and not path.name.startswith(hidden_or_index)
    )
