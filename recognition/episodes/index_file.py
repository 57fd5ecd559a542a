"""The index file: the episodes of one split as indices into films, with all that went into drawing them."""

import operator
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from recognition.common.command_line import InputError, first_line, shown
from recognition.common.files import is_of_system, is_there, read_whole
from recognition.common.hdf5 import new_hdf5, opened_hdf5
from recognition.episodes.drawing import Episodes
from recognition.episodes.episode_spec import CLIP_KINDS, PROBE_KINDS, EpisodeSpec

FORMAT_VERSION = 2
LONGEST_NAME = 240  # bytes of a film's id: file systems take names of 255, with our endings
NEW_IN_FORMAT_2 = ("new_probes", "probe_lags", "alter_every", "study_clips")


@dataclass(frozen=True)
class EpisodeIndex:
    """The episodes of one split.

    `spec` is None for the published data set, whose files do not say how they were drawn.
    """

    path: Path
    episodes: Episodes
    video_ids: list[str]  # (V,)
    video_num_frames: np.ndarray | None  # (V,), None for the published data set
    spec: EpisodeSpec | None
    clip_kind: np.ndarray | None = None  # (N, C) uint8, places in CLIP_KINDS; None if clips were not drawn by kind
    video_digests: list[str] | None = None  # (V,) of FeatureHeader; None where the file does not say

    def __len__(self) -> int:
        return len(self.episodes.study)


def write_index(index: EpisodeIndex, attributes: Mapping[str, Any]) -> None:
    """Write an index to its path; equal arguments give equal bytes. The caller sees to it that a half-written file
    vanishes.

    The index must say how its episodes were drawn. `attributes` are written beside those of its `spec`.
    """
    assert index.spec is not None
    with new_hdf5(index.path) as file:
        for name, array in index.episodes._asdict().items():
            file[name] = array
        if index.clip_kind is not None:
            file["clip_kind"] = index.clip_kind
        file["video_ids"] = np.array(index.video_ids, dtype=h5py.string_dtype())
        file["video_num_frames"] = np.asarray(index.video_num_frames, np.int64)
        if index.video_digests is not None:
            file["video_digests"] = np.array(index.video_digests, dtype=h5py.string_dtype())
        file.attrs.update({"format_version": FORMAT_VERSION, **asdict(index.spec), **attributes})


def read_index(path: str | Path) -> EpisodeIndex:
    """Read an index file, ours (.h5) or the published data set's (.npz). Raises InputError if missing or damaged, and
    OSError if the system does not let it be read."""
    path = Path(path)
    if path.is_dir() or not is_there(path):
        raise InputError(f"{path}: no such index file; make it with generate_dataset.py")
    try:
        return _read_published(path) if path.suffix == ".npz" else _read_h5(path)
    except InputError:
        raise
    except Exception as error:  # h5py, zipfile, zlib and numpy raise many kinds for a damaged file
        if is_of_system(error):
            raise
        raise InputError(f"{path}: not an index file ({first_line(error)})") from error


def _read_h5(path: Path) -> EpisodeIndex:
    with opened_hdf5(path) as file:
        version = file.attrs["format_version"]
        if version not in (1, FORMAT_VERSION):
            raise InputError(f"{path}: format {version}, this program reads {FORMAT_VERSION}")
        study, probes = (_whole(file[name][:], np.int32) for name in ("study", "probes"))
        is_old = _whole(file["is_old"][:], np.uint8)
        # Files of format 1 have far probes alone and know nothing of others.
        kind = _whole(file["kind"][:], np.uint8) if version > 1 else _far_kinds(is_old)
        known = [field for field in fields(EpisodeSpec) if version > 1 or field.name not in NEW_IN_FORMAT_2]
        values: dict[str, Any] = {
            field.name: (operator.index if field.type is int else str)(file.attrs[field.name]) for field in known
        }
        index = EpisodeIndex(
            path=path,
            episodes=Episodes(study, probes, is_old, kind),
            video_ids=file["video_ids"].asstr()[:].tolist(),
            video_num_frames=_whole(file["video_num_frames"][:], np.int64),
            spec=(spec := EpisodeSpec(**values)),
            clip_kind=_whole(file["clip_kind"][:], np.uint8) if spec.clip_counts else None,
            video_digests=file["video_digests"].asstr()[:].tolist() if "video_digests" in file else None,
        )
    _check(index)
    return index


def _far_kinds(is_old: np.ndarray) -> np.ndarray:
    """Kinds of probes where all new ones are far: (N, P) to (N, P)."""
    return np.where(is_old == 1, 0, PROBE_KINDS.index("far")).astype(np.uint8)


def _read_published(path: Path) -> EpisodeIndex:
    """clips (N, C + P, 4) int64 [start, end, video, label], label -1 for clips; titles (V,) file names with ".mp4"."""
    with np.load(read_whole(path), allow_pickle=False) as file:
        clips, titles = file["clips"], file["titles"]
    num_clips = int((clips[0, :, 3] == -1).sum())
    if ((clips[:, :, 3] == -1) != (np.arange(clips.shape[1]) < num_clips)).any():
        raise ValueError("the clips of every episode must stand before its probes")
    study, probes = clips[:, :num_clips], clips[:, num_clips:]
    study, probes = _whole(study[..., [2, 0, 1]], np.int32), _whole(probes[..., [2, 0]], np.int32)
    is_old = _whole(clips[:, num_clips:, 3], np.uint8)
    episodes = Episodes(study, probes, is_old, _far_kinds(is_old))
    index = EpisodeIndex(path, episodes, [str(title)[:-4] for title in titles], None, None)
    _check(index)
    return index


def _whole(numbers: np.ndarray, dtype: type) -> np.ndarray:
    """Whole numbers as `dtype`. Raises ValueError where they are none or do not fit."""
    limits = np.iinfo(dtype)
    if numbers.dtype.kind not in "iu":
        raise ValueError(f"numbers of type {numbers.dtype} where whole ones are due")
    if numbers.size and not limits.min <= int(numbers.min()) <= int(numbers.max()) <= limits.max:
        raise ValueError(f"numbers from {numbers.min()} to {numbers.max()}, beyond {np.dtype(dtype)}")
    return numbers.astype(dtype)


def _check(index: EpisodeIndex) -> None:
    """Raise ValueError where shapes or values contradict each other."""
    study, probes, is_old, kind = index.episodes
    if not (study.ndim == probes.ndim == 3 and study.shape[2] == 3 and probes.shape[2] == 2):
        raise ValueError("study or probes have a wrong shape")
    if 0 in (*study.shape, *probes.shape):
        raise ValueError("there is no episode, clip or probe")
    if not (len(study) == len(probes) and is_old.shape == probes.shape[:2] and is_old.max() <= 1):
        raise ValueError("study, probes and is_old disagree")
    if not (kind.shape == is_old.shape and kind.max() < len(PROBE_KINDS) and ((kind == 0) == (is_old == 1)).all()):
        raise ValueError("is_old and kind disagree")
    if min(study.min(), probes.min()) < 0 or max(study[..., 0].max(), probes[..., 0].max()) >= len(index.video_ids):
        raise ValueError("names a film or frame that does not exist")
    if len(np.unique(study[..., 2] - study[..., 1])) != 1:
        raise ValueError("clips have several lengths")
    if (study[..., 1] >= study[..., 2]).any():
        raise ValueError("a clip ends before it starts")
    if (clip_kind := index.clip_kind) is not None and not (
        study.shape[:2] == (len(clip_kind), 2 * clip_kind.shape[1]) and clip_kind.max() < len(CLIP_KINDS)
    ):
        raise ValueError("study and clip_kind disagree")
    if index.video_digests is not None and len(index.video_digests) != len(index.video_ids):
        raise ValueError("video_ids and video_digests disagree")
    if (spec := index.spec) is not None and (study.shape[1], study[0, 0, 2] - study[0, 0, 1]) != (
        spec.num_clips * spec.rows_per_clip,
        spec.row_length,
    ):
        raise ValueError("the clips are not those that the attributes describe")
    # Ids name files, of features and of scores: one with a folder in it would lead out of theirs.
    for video_id in index.video_ids:
        if "/" in video_id or "\0" in video_id or not 0 < len(os.fsencode(video_id)) <= LONGEST_NAME:
            raise ValueError(f"a film has the id {shown(video_id)}, which cannot be the name of a file")
    if len(set(index.video_ids)) < len(index.video_ids):
        raise ValueError("names a film twice")
    if index.video_num_frames is not None:
        if index.video_num_frames.shape != (len(index.video_ids),):
            raise ValueError("video_ids and video_num_frames disagree")
        check_lengths(index.episodes, index.video_num_frames)


def check_lengths(episodes: Episodes, num_frames: np.ndarray) -> None:
    """Raise ValueError if a clip or probe lies outside its film, of `num_frames` (V,) frames."""
    study, probes = episodes.study, episodes.probes
    if (study[..., 2] > num_frames[study[..., 0]]).any():
        raise ValueError("a clip ends after its film")
    if (probes[..., 1] >= num_frames[probes[..., 0]]).any():
        raise ValueError("a probe lies after its film")
