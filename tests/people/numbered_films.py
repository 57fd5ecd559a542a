"""Films with a number in each frame, which pictures of an experiment show, and episodes of them."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from colour_films import write_times

from recognition.episodes.drawing import Episodes
from recognition.episodes.episode_spec import PROBE_KINDS, EpisodeSpec
from recognition.episodes.index_file import EpisodeIndex, write_index

NUM_FRAMES, BITS, SUBSAMPLE = 48, 8, 3
RATES = {"film_at_25": Fraction(25), "film_at_ntsc": Fraction(30000, 1001), "film_at_any": None}
COLOURS = np.array([(200, 40, 60), (40, 160, 90), (60, 70, 210)])


def ticks(name: str) -> list[int]:
    """Times of a film's frames, in 1/30000 s."""
    if rate := RATES[name]:
        return [round(k * 30000 / rate) for k in range(NUM_FRAMES)]
    return np.cumsum(np.random.default_rng(3).integers(600, 3000, NUM_FRAMES)).tolist()


def numbered(number: int, film: int) -> np.ndarray:
    """A picture (90, 160, 3) with its frame's number in white and black fields above, its film's colour below."""
    picture = np.zeros((90, 160, 3), np.uint8)
    for bit in range(BITS):
        picture[:45, 20 * bit : 20 * bit + 20] = 235 if number >> bit & 1 else 20
    picture[45:] = COLOURS[film]
    return picture


def number_in(picture: np.ndarray) -> int:
    """The number that a shown picture bears."""
    height, width = picture.shape[:2]
    row = picture[height // 4].astype(int).mean(-1)
    return sum((row[round((bit + 0.5) * width / BITS)] > 128) << bit for bit in range(BITS))


def write_films(folder: Path) -> None:
    """Write the films and their feature files."""
    for film, name in enumerate(RATES):
        path = folder / (f"{name}.mkv" if film == 2 else f"{name}.mp4")
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=30, options={"g": "11", "crf": "8"})
            stream.width, stream.height, stream.pix_fmt = 160, 90, "yuv444p"
            stream.codec_context.time_base = Fraction(1, 30000)
            for number, tick in enumerate(ticks(name)):
                frame = av.VideoFrame.from_ndarray(numbered(number, film))
                frame.pts, frame.time_base = tick, Fraction(1, 30000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        write_times(folder, path)


def write_episodes(folder: Path, study: list, probes: list, kinds: Sequence[str]) -> None:
    """Write test_indices.h5: `study` (N, C, 3), `probes` (N, P, 2), all with the same `kinds` of probes (P,)."""
    kind = np.array([[PROBE_KINDS.index(name) for name in kinds]] * len(probes), np.uint8)
    episodes = Episodes(np.array(study, np.int32), np.array(probes, np.int32), (kind == 0).astype(np.uint8), kind)
    num_clips, num_old = len(study[0]), kinds.count("old")
    spec = EpisodeSpec(num_clips, 12, 1, num_old, SUBSAMPLE)
    write_index(EpisodeIndex(folder / "test_indices.h5", episodes, list(RATES), np.full(3, NUM_FRAMES), spec), {})
