"""Films whose colour says which frame it is, with feature files and an episode, for the tests that look at pictures."""

from pathlib import Path

import av
import numpy as np

from recognition.episodes.drawing import Episodes
from recognition.episodes.episode_spec import PROBE_KINDS, EpisodeSpec
from recognition.episodes.index_file import EpisodeIndex
from recognition.features.feature_file import FeatureHeader, FeatureSpool
from recognition.films.video import decode, probe

FILMS = [
    ("red.mp4", (64, 48), 25, "libx264"),
    ("green.mkv", (40, 72), 10, "libx264"),
    ("blue.avi", (96, 48), 20, "mpeg4"),
]
NUM_FRAMES, SUBSAMPLE = 36, 2
STUDY = np.array([[[1, 3, 10], [0, 20, 27], [2, 5, 12], [0, 1, 8]]])
PROBES = np.array([[[0, 22], [1, 30], [2, 9], [2, 35], [0, 3]]])
KINDS = ["old", "near", "mirrored", "far", "brightened"]


def colour_of(film: int, frame: int) -> np.ndarray:
    """The colour of the left two thirds of a frame's picture; the rest is black."""
    return np.where(np.arange(3) == film, 60 + 4 * frame, 30)


def write_colours(path: Path, film: int, size: tuple[int, int], fps: int, codec: str) -> None:
    """Write a film whose colour says which frame it is."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options={"g": "9"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.bit_rate = 2_000_000
        for k in range(NUM_FRAMES):
            image = np.zeros((size[1], size[0], 3), np.uint8)
            image[:, : 2 * size[0] // 3] = colour_of(film, k)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode())


def write_times(folder: Path, video: Path) -> None:
    """A film's feature file, with one feature that says nothing."""
    times = np.array([time_s for _, time_s in decode(video)])
    info = probe(video)
    with FeatureSpool(folder / f"{video.stem}.h5", np.dtype("float32")) as spool:
        spool.append(np.ones((len(times), 1)), times)
        size = len(times), info.fps, info.width, info.height
        spool.finish(FeatureHeader(video.stem, "0", *size, "resnet18", "random:0", "0", "pyav", "float32", "float32"))


def write_colour_films(folder: Path) -> None:
    """Three films of different sizes, rates and containers, and their feature files."""
    for film, (name, *rest) in enumerate(FILMS):
        write_colours(folder / name, film, *rest)
        write_times(folder, folder / name)


def colour_episode() -> EpisodeIndex:
    """One episode of them."""
    kind = np.array([[PROBE_KINDS.index(name) for name in KINDS]], np.uint8)
    episodes = Episodes(STUDY.astype(np.int32), PROBES.astype(np.int32), (kind == 0).astype(np.uint8), kind)
    ids = [Path(name).stem for name, *_ in FILMS]
    return EpisodeIndex(Path("indices.h5"), episodes, ids, np.full(3, NUM_FRAMES), EpisodeSpec(4, 7, 1, 2, SUBSAMPLE))
