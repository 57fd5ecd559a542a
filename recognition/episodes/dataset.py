"""Episodes with their features.

Shapes: B episodes, S study frames, P probes, R showings of each probe, T = S + P * R, D features.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recognition.common.command_line import InputError
from recognition.episodes.drawing import Episodes, Group, draw_episodes, draw_groups, study_frames
from recognition.episodes.episode_spec import ALTERATIONS, PROBE_KINDS, check_room
from recognition.episodes.index_file import EpisodeIndex
from recognition.features.feature_bank import FeatureBank, read_all_shots

FIRST_ALTERED = PROBE_KINDS.index(ALTERATIONS[0])


class Batch(NamedTuple):
    """B episodes. Films are counted as in the index."""

    features: Tensor  # (B, T, D) as stored
    is_old: Tensor  # (B, P) float32
    film: Tensor  # (B, T) int64, of each frame


class Asking(NamedTuple):
    """How many probes a training episode asks, and when: see `draw_groups`."""

    num_probes: int
    at_end: float


class EpisodeDataset:
    """The episodes of one split. Indexed with an array of episode numbers (B,), it gives a `Batch`.

    Attributes:
        asking: how fresh episodes ask otherwise than those of the index, if they do.
        asked: of episodes that were drawn so, (study frames shown before, probes) for each group of probes that is
            asked together, in order. None where the probes of the index's spec are asked after all study frames.
    """

    def __init__(
        self, index: EpisodeIndex, bank: FeatureBank, subsample: int, repeat_test: int = 1, asking: Asking | None = None
    ):
        self.index, self.bank, self.subsample, self.repeat_test = index, bank, subsample, repeat_test
        self.asking, self.episodes = asking, index.episodes
        self.asked: list[tuple[int, int]] | None = None
        self._shots: list[np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.episodes.study)

    @property
    def num_probes(self) -> int:
        """P."""
        return self.episodes.probes.shape[1]

    @property
    def num_study_frames(self) -> int:
        """S."""
        return study_frames(self.episodes.study[:1], self.subsample).shape[1]

    @property
    def num_clips(self) -> int:
        """Clips of an episode. Those that were drawn by kind are two rows of `study` each."""
        clip_kind = self.index.clip_kind
        return self.episodes.study.shape[1] if clip_kind is None else clip_kind.shape[1]

    @property
    def clip_frames(self) -> int:
        """Study frames of a clip."""
        return self.num_study_frames // self.num_clips

    def __getitem__(self, number: np.ndarray) -> Batch:
        study, probes, is_old, kind = (field[number] for field in self.episodes)
        shown = [study_frames(study, self.subsample), probes.repeat(self.repeat_test, axis=1)]
        video, frame = np.moveaxis(np.concatenate(shown, axis=1), -1, 0)  # (B, T) each
        alteration = alterations_of(kind).repeat(self.repeat_test, axis=1)
        alteration = np.pad(alteration, ((0, 0), (frame.shape[1] - alteration.shape[1], 0)))
        features = self.bank.gather(video, frame, alteration if alteration.any() else None)
        film = torch.from_numpy(video.astype(np.int64))
        return Batch(features, torch.from_numpy(is_old.astype(np.float32)), film)

    def draw_fresh(self, seed: tuple[int, ...]) -> None:
        """Replace the episodes by as many new ones of the same kind, drawn from the same films, which ask as `asking`
        says."""
        self.episodes, groups = self.fresh(len(self), seed)
        if self.asking:
            self.asked = [(group.num_clips * self.clip_frames, 2 * group.spec.num_tests) for group in groups]

    def fresh(self, num_episodes: int, seed: tuple[int, ...]) -> tuple[Episodes, list[Group]]:
        """So many new episodes, and when they ask where `asking` says that.

        Raises InputError if they cannot be drawn: too few frames for the probes, too few probes for the kinds of lures.
        """
        spec, num_frames = self.index.spec, self.bank.num_frames
        assert spec is not None  # or `open_split` has refused
        if spec.needs_shots and self._shots is None:
            self._shots = read_all_shots(self.bank.folder, self.index.video_ids)
        try:
            groups = []
            if self.asking:
                check_room(num_frames, replace(spec, num_tests=self.asking.num_probes // 2))
                groups = draw_groups(spec, *self.asking, seed)
            return draw_episodes(num_frames, spec, num_episodes, seed, self._shots, groups), groups
        except ValueError as error:
            key = "train_probes" if self.asking else "fresh_episodes"
            raise InputError(f"dataset.{key}: cannot draw such episodes: {error}") from None


def alterations_of(kind: np.ndarray) -> np.ndarray:
    """How probes of these kinds are altered: 0 for not at all, else the place in ALTERATIONS, counted from 1."""
    return np.maximum(kind.astype(np.int64) - FIRST_ALTERED + 1, 0)  # kinds of altered probes are the last ones
