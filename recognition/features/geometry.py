"""How the features of films lie in space: along few axes or along many, and how to give all axes the same weight.

Features of neighbouring frames, and of all films, have much in common: a few axes hold most of the variance. A memory
that adds up frames then remembers those axes and little else. Whitening turns features to their principal axes and
scales the first of these to unit variance, so that what tells frames apart counts as much as what they share.

Shapes: N frames, D features, W whitened axes.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recognition.common.command_line import InputError
from recognition.features.feature_bank import FeatureBank

LEAST_DEVIATION = 1e-6  # of a feature: one that never changes is not blown up
LEAST_VARIANCE = 1e-10  # of an axis, as a share of the first one's: below it is what rounding to float32 leaves
BLOCK_FRAMES = 8_192  # in float64 at once: 34 MB at 512 features
FIRST_AXES, FRAMES_APART, NUM_PAIRS = 64, 30, 4_096  # in what is told of films


class PrincipalAxes(NamedTuple):
    """Principal axes of features of unit length that were standardised, all in float64.

    mean, deviation: (D,), of unit-length features, of each feature.
    variance: (D,), along each axis, the largest first; they add up to the number of features that change.
    axes: (D, D), an axis a column, of unit length; the largest of its numbers is positive.
    """

    mean: Tensor
    deviation: Tensor
    variance: Tensor
    axes: Tensor

    @property
    def rank(self) -> int:
        """Axes along which frames differ by more than rounding."""
        return int((self.variance > LEAST_VARIANCE * self.variance[0]).sum())

    def whitening(self, num_axes: int) -> tuple[Tensor, Tensor]:
        """Mean (D,) and matrix (D, W) in float32, see below; `num_axes` is at most the rank."""
        matrix = self.axes[:, :num_axes] / self.variance[:num_axes].sqrt() / self.deviation[:, None]
        return self.mean.float(), matrix.float()


def principal_axes(bank: FeatureBank, num_frames: int = 100_000) -> PrincipalAxes:
    """Axes of up to `num_frames` even frames of a bank, as features are standardised for models.

    Raises InputError if there are fewer than two frames, or if features are not finite.
    """
    mean, deviation, correlation = _correlation(bank, num_frames)
    variance, axes = torch.linalg.eigh(correlation)  # ascending
    variance, axes = variance.flip(0).clamp(min=0), axes.flip(1)
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))  # (1, D)
    return PrincipalAxes(mean, deviation, variance, axes * largest.sign())


def whitening(bank: FeatureBank, num_axes: int) -> tuple[Tensor, Tensor]:
    """Mean (D,) and matrix (D, W) that whiten features f along the first `num_axes` = W axes of the films of a bank:

        normalize((normalize(f) - mean) @ matrix)

    in float32, with the division by the deviations in the matrix. Over the frames of the bank, what is normalised has
    mean 0 and the identity for a covariance.

    Raises InputError if frames have fewer axes than that, and as `principal_axes` does.
    """
    found = principal_axes(bank)
    if num_axes > found.rank:
        raise InputError(
            f"dataset.whiten: {num_axes} axes are more than the frames of {bank.folder} have, which is {found.rank}"
        )
    return found.whitening(num_axes)


def whitened(features: Tensor, mean: Tensor, matrix: Tensor) -> Tensor:
    """Features of unit length (..., D) to whitened ones of unit length (..., W), by what `whitening` gives."""
    return F.normalize((features - mean) @ matrix, dim=-1)


def describe_geometry(bank: FeatureBank, num_frames: int = 20_000) -> dict[str, Any]:
    """What is told of the features of films, from up to `num_frames` even frames:

    num_features: D.
    effective_rank: (sum of l)^2 / sum of l^2 over the variances l along the principal axes of standardised features,
        the participation ratio: D where all axes have the same variance, 1 where one has all.
    share_of_first_axis, share_of_first_axes: of the variance, of one axis and of FIRST_AXES.
    cosine_of_films: mean cosine of random frames of different films; None for a single film.
    cosine_of_neighbours: mean cosine of frames FRAMES_APART apart in their film; None if all films are shorter.

    Raises InputError if all frames are alike, and as `principal_axes` does.
    """
    variance = torch.linalg.eigvalsh(_correlation(bank, num_frames)[2]).flip(0).clamp(min=0)
    total = variance.sum()
    if total == 0:
        raise InputError(f"{bank.folder}: all frames are alike")
    return {
        "num_features": bank.num_features,
        "effective_rank": float(total**2 / variance.square().sum()),
        "share_of_first_axis": float(variance[0] / total),
        "share_of_first_axes": float(variance[:FIRST_AXES].sum() / total),
        **_cosines(bank),
    }


def geometry_lines(found: Mapping[str, Any]) -> tuple[str, str]:
    """What `describe_geometry` found, in two lines: the numbers, and what they mean for memories."""
    axes = f"{found['share_of_first_axis']:.0%} of the variance along the first axis"
    more = f"{found['share_of_first_axes']:.0%} along the first {FIRST_AXES}"
    cosines = {"of different films": found["cosine_of_films"], f"{FRAMES_APART} apart": found["cosine_of_neighbours"]}
    alike = [f"mean cosine of frames {which} {value:.3f}" for which, value in cosines.items() if value is not None]
    if found["effective_rank"] < min(FIRST_AXES, found["num_features"] / 4):
        advice = "memories that add up frames will need dataset.whiten"
    else:
        advice = "frames differ along many axes, dataset.whiten will matter little"
    rank = f"Effective rank {found['effective_rank']:.0f} of {found['num_features']}"
    return ", ".join([axes, more, *alike]), f"{rank}: {advice}"


def _cosines(bank: FeatureBank) -> dict[str, float | None]:
    """Mean cosines of random pairs of frames: of different films, and FRAMES_APART apart in one."""
    rng = np.random.default_rng(0)
    (video, frame), (other, other_frame) = (_random_frames(bank.num_frames, rng) for _ in range(2))
    later, differ = frame + FRAMES_APART, video != other
    fits = later < bank.num_frames[video]
    pairs = {
        "cosine_of_films": (video[differ], frame[differ], other[differ], other_frame[differ]),
        "cosine_of_neighbours": (video[fits], frame[fits], video[fits], later[fits]),
    }
    return {key: _mean_cosine(bank, *frames) if len(frames[0]) else None for key, frames in pairs.items()}


def _mean_cosine(bank: FeatureBank, *frames: np.ndarray) -> float:
    """Of pairs of frames: video and frame of one, then of the other."""
    one, other = (bank.gather(*part).float() for part in (frames[:2], frames[2:]))
    return float(F.cosine_similarity(one, other, dim=1).mean())


def _random_frames(num_frames: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Video and frame of NUM_PAIRS frames, each as likely as any other."""
    ends = np.cumsum(num_frames)
    row = rng.integers(0, ends[-1], NUM_PAIRS)
    video = np.searchsorted(ends, row, side="right")
    return video, row - (ends - num_frames)[video]


def _correlation(bank: FeatureBank, num_frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (D,), deviation (D,) and correlation (D, D) of unit-length features over even frames, in float64."""
    features = bank.even_frames(num_frames)  # (N, D)
    if len(features) < 2:
        raise InputError(f"{bank.folder}: a single frame has no axes")
    mean = features.mean(0, dtype=torch.float64)
    if not mean.isfinite().all():
        raise InputError(f"{bank.folder}: some features are not finite; run preprocess_videos.py again")
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=features.device)
    for block in features.split(BLOCK_FRAMES):
        centred = block - mean
        covariance += centred.T @ centred
    covariance /= len(features) - 1
    deviation = covariance.diagonal().sqrt().clamp(min=LEAST_DEVIATION)
    return mean, deviation, covariance / deviation / deviation[:, None]
