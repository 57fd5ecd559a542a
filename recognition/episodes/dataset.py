"""Episodes with their features.

Shapes: B episodes, S study frames, P probes, R showings of each probe, T = S + P * R, D features.
"""

import numpy as np
import torch
from torch import Tensor

from recognition.episodes.drawing import draw_episodes, study_frames
from recognition.episodes.episode_spec import ALTERATIONS, PROBE_KINDS
from recognition.episodes.index_file import EpisodeIndex
from recognition.features.feature_bank import FeatureBank, read_all_shots

FIRST_ALTERED = PROBE_KINDS.index(ALTERATIONS[0])


class EpisodeDataset:
    """The episodes of one split. Indexed with an array of episode numbers (B,), it gives a batch:
    features (B, T, D) as stored and is_old (B, P) float32."""

    def __init__(self, index: EpisodeIndex, bank: FeatureBank, subsample: int, repeat_test: int = 1):
        self.index, self.bank, self.subsample, self.repeat_test = index, bank, subsample, repeat_test
        self.episodes = index.episodes
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

    def __getitem__(self, number: np.ndarray) -> tuple[Tensor, Tensor]:
        study, probes, is_old, kind = (field[number] for field in self.episodes)
        shown = [study_frames(study, self.subsample), probes.repeat(self.repeat_test, axis=1)]
        video, frame = np.moveaxis(np.concatenate(shown, axis=1), -1, 0)  # (B, T) each
        alteration = alterations_of(kind).repeat(self.repeat_test, axis=1)
        alteration = np.pad(alteration, ((0, 0), (frame.shape[1] - alteration.shape[1], 0)))
        features = self.bank.gather(video, frame, alteration if alteration.any() else None)
        return features, torch.from_numpy(is_old.astype(np.float32))

    def draw_fresh(self, seed: tuple[int, ...]) -> None:
        """Replace the episodes by as many new ones of the same kind, drawn from the same films."""
        spec = self.index.spec
        assert spec is not None  # or `open_split` has refused
        if spec.needs_shots and self._shots is None:
            self._shots = read_all_shots(self.bank.folder, self.index.video_ids)
        self.episodes = draw_episodes(self.bank.num_frames, spec, len(self), seed, self._shots)


def alterations_of(kind: np.ndarray) -> np.ndarray:
    """How probes of these kinds are altered: 0 for not at all, else the place in ALTERATIONS, counted from 1."""
    return np.maximum(kind.astype(np.int64) - FIRST_ALTERED + 1, 0)  # kinds of altered probes are the last ones
