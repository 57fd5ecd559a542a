"""The file of one film's memorability scores, and the scores of an index file's probes.

`<features>/memorability/<video_id>.h5` holds, a row for each frame that was scored:

    frame (n,)              int64, ascending, as index files count: rows of the film's feature file
    alteration (n,)         uint8, 0 for the frame as it is, else its place in ALTERATIONS, counted from 1
    score (n,)              float32, between 0 and 1
    activations (n, C)      float32, spatial mean of every filter of `layer`; C is 0 without one

Attributes: video_id, weights, weights_sha256, fit, pictures (how frames come to the network; older files do not say),
layer (empty for none), format_version.
"""

import operator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recognition.common.command_line import InputError, first_line
from recognition.common.files import is_of_system, is_there, written_whole
from recognition.common.hdf5 import new_hdf5, opened_hdf5
from recognition.episodes.dataset import alterations_of
from recognition.episodes.drawing import Episodes
from recognition.episodes.episode_spec import ALTERATIONS

FORMAT_VERSION = 1
TYPES = {"frame": np.int64, "alteration": np.uint8, "score": np.float32, "activations": np.float32}
SETTINGS = ("weights", "weights_sha256", "fit", "pictures", "layer")
DECISIVE = SETTINGS[1:4]  # for scores


class Scores(NamedTuple):
    """Scored frames of one film."""

    frame: np.ndarray
    alteration: np.ndarray
    score: np.ndarray
    activations: np.ndarray

    @property
    def place(self) -> np.ndarray:
        """(n,) one number for each frame and alteration, see `places`."""
        return places(self.frame, self.alteration)


class ProbeScores(NamedTuple):
    """The memorability of every probe."""

    score: np.ndarray  # (N, P), nan where it is not known
    alteration: np.ndarray  # (N, P)
    weights: str  # what the network's weights were called
    fit: str

    @property
    def has_learned(self) -> bool:
        """Whether the scores come from a network that has learned anything."""
        return not self.weights.startswith("random:")


def places(frame: np.ndarray, alteration: np.ndarray) -> np.ndarray:
    """One number for each frame and alteration of a film, in the order of the file."""
    return 256 * np.asarray(frame, np.int64) + alteration


def probe_alterations(episodes: Episodes) -> np.ndarray:
    """(N, P) uint8: 0 for probes that are frames as they are, else the place in ALTERATIONS, counted from 1."""
    return alterations_of(episodes.kind).astype(np.uint8)


def write_scores(path: Path, video_id: str, scores: Scores, settings: dict[str, str]) -> None:
    """Write one film's file whole, its rows in order; `settings` has the attributes named in SETTINGS."""
    order = np.argsort(scores.place)
    with written_whole(path) as part, new_hdf5(part) as file:
        for name, values in scores._asdict().items():
            file[name] = values[order].astype(TYPES[name], copy=False)
        file.attrs.update({"video_id": video_id, **settings, "format_version": FORMAT_VERSION})


def read_scores(path: Path) -> tuple[Scores, dict[str, str]]:
    """What `write_scores` wrote: scores and settings. Raises InputError for a file that is not whole, and OSError if
    the system does not let it be read."""
    try:
        with opened_hdf5(path) as file:
            version = operator.index(file.attrs["format_version"])
            attributes = {"pictures": "", **file.attrs}
            settings = {name: str(attributes[name]) for name in SETTINGS}
            scores = Scores(*(file[name][:] for name in Scores._fields))
            _check(scores)
    except Exception as error:  # h5py raises many kinds for a damaged file
        if is_of_system(error):
            raise
        raise InputError(f"{path}: not a file of memorability ({first_line(error)}); remove it") from None
    if version != FORMAT_VERSION:
        raise InputError(f"{path}: format {version}, this program reads {FORMAT_VERSION}")
    return scores, settings


def _check(scores: Scores) -> None:
    """Raise ValueError for scores of other shapes, types or ranges than `write_scores` writes."""
    frame, alteration, score, activations = scores
    num = len(frame)
    if num == 0 or not (frame.shape == alteration.shape == score.shape == (num,) == activations.shape[:-1]):
        raise ValueError("its columns differ in length")
    if any(getattr(scores, name).dtype != due for name, due in TYPES.items()):
        raise ValueError("its columns are of wrong types")
    if (np.diff(scores.place) <= 0).any() or frame[0] < 0 or alteration.max() > len(ALTERATIONS):
        raise ValueError("its frames do not ascend")
    if not ((score >= 0) & (score <= 1)).all():
        raise ValueError("a score is not between 0 and 1")


def read_probe_scores(folder: Path, episodes: Episodes, video_ids: list[str]) -> ProbeScores | None:
    """Scores of all probes of some episodes from the files in `folder`; None if no probe has one.

    Raises InputError for damaged files, and for those of two films that were not made in the same way.
    """
    video, frame = np.moveaxis(episodes.probes, -1, 0)
    alteration = probe_alterations(episodes)
    wanted, found = places(frame, alteration), np.full(video.shape, np.nan, np.float32)
    first: tuple[Path, dict[str, str]] | None = None
    for number in np.unique(video):
        path = folder / f"{video_ids[number]}.h5"
        if not is_there(path):
            continue
        scores, settings = read_scores(path)
        first = first or (path, settings)
        if any(settings[name] != first[1][name] for name in DECISIVE):
            raise InputError(
                f"{first[0]} and {path} were made with other weights, another fit or other pictures; "
                f"run python -m recognition.memorability --overwrite"
            )
        inside = video == number
        row = np.minimum(np.searchsorted(scores.place, wanted[inside]), len(scores.place) - 1)
        found[inside] = np.where(scores.place[row] == wanted[inside], scores.score[row], np.nan)
    if first is None or np.isnan(found).all():
        return None
    return ProbeScores(found, alteration, first[1]["weights"], first[1]["fit"])
