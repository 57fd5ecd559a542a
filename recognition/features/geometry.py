"""How the features of films lie in space: along few axes or along many, and how to give all axes the same weight.

Features of neighbouring frames, and of all films, have much in common: a few axes hold most of the variance. A memory
that adds up frames then remembers those axes and little else. Whitening turns features to their principal axes and
scales the first of these to unit variance, so that what tells frames apart counts as much as what they share.

Shapes: N frames, D features, W whitened axes.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from recognition.common.command_line import InputError
from recognition.features.feature_bank import FeatureBank

LEAST_DEVIATION = 1e-6  # of a feature: one that never changes is not blown up
LEAST_VARIANCE = 1e-10  # of an axis, as a share of the first one's: below it is what rounding to float32 leaves
BLOCK_FRAMES = 8_192  # in float64 at once: 34 MB at 512 features


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


def principal_axes(bank: FeatureBank, num_frames: int = 100_000) -> PrincipalAxes:
    """Axes of up to `num_frames` even frames of a bank, as features are standardised for models.

    Raises InputError if there are fewer than two frames.
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

    Raises InputError if frames have fewer axes than that.
    """
    found = principal_axes(bank)
    if num_axes > found.rank:
        raise InputError(
            f"dataset.whiten: {num_axes} axes are more than the frames of {bank.folder} have, which is {found.rank}"
        )
    matrix = found.axes[:, :num_axes] / found.variance[:num_axes].sqrt() / found.deviation[:, None]
    return found.mean.float(), matrix.float()


def whitened(features: Tensor, mean: Tensor, matrix: Tensor) -> Tensor:
    """Features of unit length (..., D) to whitened ones of unit length (..., W), by what `whitening` gives."""
    return F.normalize((features - mean) @ matrix, dim=-1)


def _correlation(bank: FeatureBank, num_frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (D,), deviation (D,) and correlation (D, D) of unit-length features over even frames, in float64."""
    features = bank.even_frames(num_frames)  # (N, D)
    if len(features) < 2:
        raise InputError(f"{bank.folder}: a single frame has no axes")
    mean = features.mean(0, dtype=torch.float64)
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=features.device)
    for block in features.split(BLOCK_FRAMES):
        centred = block - mean
        covariance += centred.T @ centred
    covariance /= len(features) - 1
    deviation = covariance.diagonal().sqrt().clamp(min=LEAST_DEVIATION)
    return mean, deviation, covariance / deviation / deviation[:, None]
