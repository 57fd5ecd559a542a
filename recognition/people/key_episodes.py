"""The episodes of a key as those of an index file, so that people are scored as models are, and without the index."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from recognition.common.files import sha256
from recognition.episodes.dataset import EpisodeDataset
from recognition.episodes.drawing import Episodes
from recognition.episodes.episode_spec import CLIP_KINDS, PROBE_KINDS
from recognition.episodes.index_file import EpisodeIndex, read_index
from recognition.features.feature_bank import FeatureBank
from recognition.people.key import Key


def subsample_of(key: Key) -> int:
    """Every how many frames models see one, by which they count lags: as the key says, or its index file, if that is
    still where it was; else 1."""
    if told := key.settings.get("subsample"):
        return int(told)
    if (path := Path(key.index_file)).is_file() and sha256(path) == key.index_sha256:
        spec = read_index(path).spec
        return spec.subsample if spec else 1
    return 1


def key_dataset(path: Path, episode: Mapping[str, Any], subsample: int) -> EpisodeDataset:
    """One episode of the key at `path` as a dataset, which knows what was shown but has no features."""
    clips, probes = episode["clips"], episode["probes"]
    rows = [row for clip in clips for row in clip["rows"]]
    video_ids = sorted({row[0] for row in rows} | {probe["video_id"] for probe in probes})
    number = {video_id: place for place, video_id in enumerate(video_ids)}
    episodes = Episodes(
        study=np.array([[[number[video], start, end] for video, start, end in rows]], np.int32),
        probes=np.array([[[number[probe["video_id"]], probe["frame"]] for probe in probes]], np.int32),
        is_old=np.array([[probe["is_old"] for probe in probes]], np.uint8),
        kind=np.array([[PROBE_KINDS.index(probe["kind"]) for probe in probes]], np.uint8),
    )
    kinds = [clip["kind"] for clip in clips]
    clip_kind = None if None in kinds else np.array([[CLIP_KINDS.index(kind) for kind in kinds]], np.uint8)
    index = EpisodeIndex(path, episodes, video_ids, None, None, clip_kind)
    return EpisodeDataset(index, cast(FeatureBank, None), subsample)  # features are for models
