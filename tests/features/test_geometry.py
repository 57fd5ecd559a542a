"""Principal axes of features and whitening: what they are of, against plain formulas."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from recognition.common.command_line import InputError
from recognition.features.feature_bank import FeatureBank
from recognition.features.geometry import describe_geometry, geometry_lines, principal_axes, whitened, whitening


def bank_of(folder: Path, *films: Tensor) -> FeatureBank:
    """A bank of films with these features, (num_frames, D) each."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, film in enumerate(films):
        torch.save(film.float(), folder / f"film_{k}.pt")
    return FeatureBank(folder, [f"film_{k}" for k in range(len(films))])


def random_films(*lengths: int, num_features: int = 12, seed: int = 0) -> list[Tensor]:
    """Features around places of films, with unlike deviations and a share that all features have in common."""
    rng = np.random.default_rng(seed)
    scale = 1 / np.arange(1, num_features + 1)
    films = []
    for length in lengths:
        noise = rng.normal(size=(length, num_features)) + rng.normal(size=num_features)
        films.append(torch.from_numpy(3 + scale * (noise + 2 * rng.normal(size=(length, 1)))))
    return films


def unit(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(features.double(), dim=1)


def test_axes_are_those_of_the_correlations_of_unit_length_features(tmp_path):
    films = random_films(90, 70)
    found = principal_axes(bank_of(tmp_path, *films))
    frames = unit(torch.cat(films))
    correlation = np.corrcoef(frames.T.numpy())
    np.testing.assert_allclose(found.mean, frames.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.deviation, frames.std(0), rtol=1e-5)
    np.testing.assert_allclose(found.axes @ found.variance.diag() @ found.axes.T, correlation, atol=1e-5)
    assert found.variance.diff().max() <= 0
    assert found.rank == 12


def test_whitened_training_frames_have_unit_covariance(tmp_path):
    films = random_films(300, 200)
    mean, matrix = whitening(bank_of(tmp_path, *films), 7)
    assert (mean.shape, matrix.shape, matrix.dtype) == ((12,), (12, 7), torch.float32)
    scores = (unit(torch.cat(films)) - mean) @ matrix.double()
    torch.testing.assert_close(scores.T.cov(), torch.eye(7, dtype=torch.float64), atol=1e-4, rtol=0)
    torch.testing.assert_close(scores.mean(0), torch.zeros(7, dtype=torch.float64), atol=1e-4, rtol=0)
    length = whitened(unit(films[0]).float(), mean, matrix).norm(dim=1)
    torch.testing.assert_close(length, torch.ones(300))


def test_first_axes_do_not_depend_on_how_many_are_asked_for(tmp_path):
    bank = bank_of(tmp_path, *random_films(200, 100))
    torch.testing.assert_close(whitening(bank, 3)[1], whitening(bank, 9)[1][:, :3])


def test_axes_point_where_their_largest_number_is_positive(tmp_path):
    axes = principal_axes(bank_of(tmp_path, *random_films(200, 100))).axes
    assert (axes.gather(0, axes.abs().argmax(0, keepdim=True)) > 0).all()


def test_more_axes_than_frames_have_are_refused_by_their_number(tmp_path):
    on_a_sphere = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)).abs() @ torch.eye(2, 12) + 0.5
    for films, num in [(random_films(4, 3), 6), ([on_a_sphere], 3)]:  # seven points span six axes
        bank = bank_of(tmp_path, *films)
        assert whitening(bank, num)[1].isfinite().all()
        with pytest.raises(InputError, match=rf"dataset.whiten: {num + 1} axes .* which is {num}$"):
            whitening(bank, num + 1)
    with pytest.raises(InputError, match="which is 0"):
        whitening(bank_of(tmp_path, torch.ones(5, 12)), 1)


def test_single_frame_is_refused(tmp_path):
    with pytest.raises(InputError, match="a single frame has no axes"):
        whitening(bank_of(tmp_path, torch.ones(1, 12)), 1)


def test_films_whose_features_are_not_finite_are_refused(tmp_path):
    with pytest.raises(InputError, match="some features are not finite"):
        whitening(bank_of(tmp_path, torch.tensor([[1.0, 2], [torch.inf, 1], [2, 3]])), 1)


def test_effective_rank_is_the_number_of_axes_that_are_alike(tmp_path):
    """Frames along the directions of 5 features, and opposite to them, have all axes alike; two points have one."""
    evenly = describe_geometry(bank_of(tmp_path / "all", torch.eye(5), -torch.eye(5)))
    assert evenly["effective_rank"] == pytest.approx(5)
    assert (evenly["share_of_first_axis"], evenly["share_of_first_axes"]) == (pytest.approx(0.2), pytest.approx(1))
    two_points = torch.tensor([[1.0, 2, 3], [3.0, 1, 4]]).repeat(10, 1)
    line = describe_geometry(bank_of(tmp_path / "line", two_points))
    assert line["effective_rank"] == pytest.approx(1)
    assert line["share_of_first_axis"] == pytest.approx(1)


def test_effective_rank_is_the_participation_ratio_of_the_variances(tmp_path):
    bank = bank_of(tmp_path, *random_films(200, 100))
    variance = principal_axes(bank).variance
    found = describe_geometry(bank)
    assert found["effective_rank"] == pytest.approx(float(variance.sum() ** 2 / variance.square().sum()))
    assert found["share_of_first_axis"] == pytest.approx(float(variance[0] / 12))


def test_cosines_are_of_frames_of_different_films_and_of_frames_of_one_film(tmp_path):
    """One film shows one thing, the other another: frames of one film are the same, of two at right angles."""
    found = describe_geometry(bank_of(tmp_path / "a", torch.eye(2)[[0] * 40], torch.eye(2)[[1] * 50]))
    assert (found["cosine_of_films"], found["cosine_of_neighbours"]) == (pytest.approx(0), pytest.approx(1))
    found = describe_geometry(bank_of(tmp_path / "b", *random_films(30)))
    assert (found["cosine_of_films"], found["cosine_of_neighbours"]) == (None, None)


def test_lines_say_whether_whitening_will_matter():
    found = {
        "num_features": 512,
        "effective_rank": 9.02,
        "share_of_first_axis": 0.286,
        "share_of_first_axes": 0.913,
        "cosine_of_films": 0.9786,
        "cosine_of_neighbours": None,
    }
    numbers, advice = geometry_lines(found)
    axes, cosine = numbers.rsplit(", ", 1)
    assert axes == "29% of the variance along the first axis, 91% along the first 64"
    assert cosine == "mean cosine of frames of different films 0.979"
    assert advice == "Effective rank 9 of 512: memories that add up frames will need dataset.whiten"
    many = geometry_lines({**found, "effective_rank": 200})[1]
    assert many == "Effective rank 200 of 512: frames differ along many axes, dataset.whiten will matter little"
