"""Which frames of a film make a window, and how their pictures are cropped."""

import numpy as np
import pytest
import torch

from models.vision import torchvision
from recognition.common.command_line import InputError
from recognition.features.preprocessing import Preprocessing, Windows, fitted
from recognition.features.weights_file import Eye

EYE = Eye("r3d_10", frames=4, fps=7.5)


@pytest.mark.parametrize(
    ("film_fps", "step"),
    [(30, 4), (29.97, 4), (25, 3), (24, 3), (12, 2), (60, 8), (7.5, 1), (3, 1), (26.2, 3), (26.25, 4)],
)
def test_windows_take_every_so_many_frames_that_come_nearest_to_their_rate(film_fps, step):
    assert Preprocessing("r3d_10", eye=EYE).windows(film_fps) == Windows(4, step, 4 * step)
    assert Preprocessing("r3d_10", 5, EYE).windows(film_fps) == Windows(4, step, 5)


def test_window_stands_for_its_middle_frame():
    assert (Windows(16, 4, 64).span, Windows(16, 4, 64).middle) == (61, 32)
    assert (Windows(16, 1, 7).span, Windows(16, 1, 7).middle) == (16, 8)
    assert (Windows().span, Windows().middle) == (1, 0)


def test_film_without_a_rate_has_no_windows_of_a_rate():
    with pytest.raises(ValueError, match=r"does not say its frame rate, which windows of 7\.5 frames a second need"):
        Preprocessing("r3d_10", eye=EYE).windows(0)
    assert Preprocessing("r3d_18").windows(0) == Windows(16, 1, 16)
    assert Preprocessing("resnet18").windows(0) == Windows(1, 1, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "16 frames every 16"),
        ({"stride": 5}, "16 frames every 5"),
        ({"fps": 15}, "16 frames at 15 a second every 16 of these"),
        ({"eye": EYE}, "4 frames at 7.5 a second every 4 of these"),
        ({"eye": EYE, "stride": 20, "fps": 7.5}, "4 frames at 7.5 a second every 20"),
    ],
)
def test_windows_in_words(options, words):
    assert str(Preprocessing("r3d_10", **options)) == words


def test_networks_of_torchvision_get_windows_of_a_rate_too():
    assert Preprocessing("mvit_v2_s", fps=15).windows(30) == Windows(16, 2, 32)
    assert Preprocessing("r3d_18", fps=15).windows(30) == Windows(16, 2, 32)


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("resnet18", {"fps": 15}, "--clip_fps 15: resnet18 reads single frames"),
        ("resnet18", {"stride": 8}, "--window_stride 8: resnet18 reads single frames"),
        ("r3d_10", {"eye": EYE, "fps": 15}, "--clip_fps 15: these weights were trained at 7.5 a second"),
    ],
)
def test_rates_that_make_no_sense_are_refused(name, options, named):
    with pytest.raises(InputError, match=named):
        Preprocessing(name, **options)


def picture(height: int, width: int) -> torch.Tensor:
    coarse = torch.randint(0, 256, (1, 3, 9, 12), generator=torch.Generator().manual_seed(0)).float()
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0].to(torch.uint8)


@pytest.mark.parametrize("size", [(90, 161), (161, 90), (112, 112), (240, 320)])
def test_squeezed_pictures_are_those_of_torchvisions_preset_at_its_side_and_in_proportion_at_others(size):
    transforms = torchvision.models.video.R3D_18_Weights.DEFAULT.transforms()
    found = Preprocessing("r3d_10")
    crops = torch.stack([found.crop(picture(*size))] * 16)
    torch.testing.assert_close(found.normalise(crops)[0], transforms(torch.stack([picture(*size)] * 16)))
    assert fitted(picture(*size), 32, keep_aspect=False).shape == (3, 37, 49)
    assert Preprocessing("r3d_10", eye=Eye("r3d_10", side=32)).crop(picture(*size)).shape == (3, 32, 32)


@pytest.mark.parametrize(("size", "due"), [((90, 161), (32, 57)), ((161, 90), (57, 32)), ((20, 20), (32, 32))])
def test_pictures_whose_aspect_is_kept_have_their_short_side(size, due):
    assert fitted(picture(*size), 32, keep_aspect=True).shape == (3, *due)
    eye = Eye("r3d_10", side=32, keep_aspect=True)
    crop = Preprocessing("r3d_10", eye=eye).crop(picture(*size))
    top, left = ((length - 32 + 1) // 2 for length in due)
    left = round((due[1] - 32) / 2)
    top = round((due[0] - 32) / 2)
    assert torch.equal(crop, fitted(picture(*size), 32, True)[:, top : top + 32, left : left + 32])


def test_mean_and_deviation_are_those_of_the_eye():
    eye = Eye("r3d_10", frames=2, side=16, mean=(0.5, 0.25, 0), deviation=(0.5, 0.1, 1))
    frames = torch.full((2, 3, 16, 16), 255, dtype=torch.uint8)
    found = Preprocessing("r3d_10", eye=eye).normalise(frames)
    assert found.shape == (1, 3, 2, 16, 16)
    np.testing.assert_allclose(found[0, :, 0, 0, 0], [1, 7.5, 1], rtol=1e-6)
