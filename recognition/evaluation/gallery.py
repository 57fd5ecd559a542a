"""A gallery of answers: probes hit, missed, falsely recognised and rightly rejected, beside what was studied."""

import base64
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from recognition.common.command_line import InputError
from recognition.episodes.dataset import EpisodeDataset
from recognition.episodes.drawing import study_frames
from recognition.episodes.episode_spec import PROBE_KINDS
from recognition.episodes.nearest import nearest_study_frame
from recognition.episodes.rendering import Films, altered

OUTCOMES = {  # by whether the probe was old and whether the answer says so
    "hits": (True, True),
    "misses": (True, False),
    "false alarms": (False, True),
    "correct rejections": (False, False),
}
LONGER_SIDE = 200  # pixels of a picture, which then takes some 10 kB of the page


class Exhibit(NamedTuple):
    """One probe beside the studied frame nearest to it: pictures as data URIs, and where they come from in words."""

    kind: str  # of the probe, in PROBE_KINDS
    answer: float  # log-odds, above 0 for "old"
    similarity: float  # cosine of the features of probe and nearest frame
    probe: str
    nearest: str
    probe_place: str
    nearest_place: str


def exhibits(
    dataset: EpisodeDataset, answers: np.ndarray, features: Path, videos: Path | None
) -> dict[str, list[Exhibit]] | str:
    """The gallery of answers (N, P) for a report, or a line that says why there is none.

    The films are looked for in the folder `videos`, in videos/ if it is None.
    """
    folder = videos or Path("videos")
    if not folder.is_dir():
        return f"The films are not at hand (no folder {folder}); name theirs with --videos to see pictures here."
    try:
        found = gallery(dataset, answers, Films(dataset.index.video_ids, features, folder))
    except InputError as error:  # pictures are an extra: without them the report is still whole
        return f"There are no pictures: {error}."
    return found if any(found.values()) else f"None of the test films is in {folder}; name their folder with --videos."


def gallery(dataset: EpisodeDataset, answers: np.ndarray, films: Films, num_each: int = 4) -> dict[str, list[Exhibit]]:
    """For each of OUTCOMES the surest answers (N, P), at most `num_each` and one an episode, the surest first.

    Only episodes whose films are all at hand are looked at, so lists are short or empty where films are missing.
    Raises InputError where a film cannot be read or its feature file does not tell the times of its frames.
    """
    at_hand = np.array([films.has(video) for video in range(len(films.video_ids))])
    study, probes, is_old, _ = dataset.episodes
    can_show = at_hand[probes[..., 0]] & at_hand[study[..., 0]].all(1, keepdims=True) & ~np.isnan(answers)
    chosen = {
        outcome: _surest(answers, can_show & ((is_old == 1) == was_old) & ((answers > 0) == says_old), num_each)
        for outcome, (was_old, says_old) in OUTCOMES.items()
    }
    episodes = sorted({episode for places in chosen.values() for episode, _ in places})
    if not episodes:
        return {outcome: [] for outcome in OUTCOMES}
    similarity, position = nearest_study_frame(dataset, episodes, torch.device("cpu"))

    def exhibit(episode: int, probe: int) -> Exhibit:
        row = episodes.index(episode)
        kind = PROBE_KINDS[dataset.episodes.kind[episode, probe]]
        nearest = study_frames(study[episode], dataset.subsample)[position[row, probe]]
        (probe_picture, probe_place), (nearest_picture, nearest_place) = (
            _look_up(films, *place) for place in (probes[episode, probe].tolist(), nearest.tolist())
        )
        return Exhibit(
            kind=kind,
            answer=float(answers[episode, probe]),
            similarity=float(similarity[row, probe]),
            probe=data_uri(altered(probe_picture, kind)),
            nearest=data_uri(nearest_picture),
            probe_place=probe_place,
            nearest_place=nearest_place,
        )

    return {outcome: [exhibit(*place) for place in places] for outcome, places in chosen.items()}


def _surest(answers: np.ndarray, fits: np.ndarray, num: int) -> list[tuple[int, int]]:
    """[episode, probe] of the largest absolute answers (N, P) among those that fit (N, P), at most one an episode."""
    sureness = np.where(fits, np.abs(answers), -np.inf)
    best = sureness.argmax(1)
    order = np.argsort(-sureness.max(1), kind="stable")[:num]
    return [(int(episode), int(best[episode])) for episode in order if fits[episode, best[episode]]]


def _look_up(films: Films, video: int, frame: int) -> tuple[np.ndarray, str]:
    """The picture of a frame, and in words which one it is."""
    [picture] = films.pictures(video, [frame])
    return picture, f"{films.video_ids[video]}, frame {frame:,}"


def data_uri(picture: np.ndarray) -> str:
    """A picture (H, W, 3) uint8 RGB as a small JPEG that stands in the page itself."""
    height, width = (max(1, round(LONGER_SIDE * size / max(picture.shape))) for size in picture.shape[:2])
    small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
