"""Alterations: each does what its name says and leaves shape, type and its input alone."""

import pytest
import torch
from torch import Tensor

from recognition.episodes.episode_spec import ALTERATIONS as KINDS
from recognition.films.alterations import ALTERATIONS, brightened, cropped, mirrored


def frames(height: int = 45, width: int = 63) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, height, width), generator=generator, dtype=torch.uint8)


def test_every_alteration_is_a_kind_of_probes_in_the_same_order():
    assert tuple(ALTERATIONS) == KINDS


@pytest.mark.parametrize("name", ALTERATIONS)
def test_altered_frames_keep_shape_and_type_and_differ_from_the_frames(name):
    for size in [(45, 63), (224, 224), (1, 1)]:
        before = frames(*size)
        given = before.clone()
        found = ALTERATIONS[name](given)
        assert (found.shape, found.dtype) == (before.shape, torch.uint8)
        torch.testing.assert_close(given, before, rtol=0, atol=0)
    assert (ALTERATIONS[name](frames()) != frames()).float().mean() > 0.5


def test_mirrored_frame_has_left_and_right_exchanged():
    found = mirrored(frames())
    for column in (0, 20, 62):
        torch.testing.assert_close(found[..., column], frames()[..., 62 - column], rtol=0, atol=0)
    torch.testing.assert_close(mirrored(found), frames(), rtol=0, atol=0)


def test_cropped_frame_shows_the_middle_larger():
    ramp = torch.arange(200, dtype=torch.uint8).expand(1, 3, 100, 200)
    for picture, size in ((ramp, 200), (ramp.transpose(2, 3), 200)):
        row = cropped(picture)[0, 0, 7] if picture is ramp else cropped(picture)[0, 0, :, 7]
        torch.testing.assert_close(row.float(), torch.linspace(24.5, 174.5, size), rtol=0, atol=1)  # 150 of 200


def test_brightened_frame_is_half_as_bright_again_and_never_wraps_around():
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 256).expand(1, 3, 2, 256)
    found = brightened(ramp)[0, 1, 1].int()
    assert found[[0, 1, 100, 170]].tolist() == [0, 2, 150, 255]
    assert (found.diff() >= 0).all()
    assert found[255] == 255
