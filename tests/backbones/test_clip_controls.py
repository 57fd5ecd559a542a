import numpy as np
import pytest
import torch

from backbones.controls import CONTROLS, changed


def clip(num_frames: int = 8) -> torch.Tensor:
    """Clips (2, T, C, H, W) whose pixels say their frame, and of which clip."""
    return (torch.arange(num_frames) + 100 * torch.arange(2)[:, None])[..., None, None, None].expand(-1, -1, 3, 4, 5)


def frames(clips: torch.Tensor) -> list[list[int]]:
    assert (clips == clips[..., :1, :1, :1]).all()
    return clips[..., 0, 0, 0].tolist()


def test_repeated_shows_the_middle_frame_alone():
    assert frames(changed(clip(5), "repeated", 0)) == [[2] * 5, [102] * 5]


def test_reversed_shows_the_last_frame_first():
    assert frames(changed(clip(4), "reversed", 0)) == [[3, 2, 1, 0], [103, 102, 101, 100]]


def test_shuffled_shows_every_frame_once_in_an_order_of_the_film():
    first, second = frames(changed(clip(), "shuffled", 7))
    assert sorted(first) == list(range(8)) != first
    assert [frame + 100 for frame in first] == second
    assert frames(changed(clip(), "shuffled", 7))[0] == first
    assert frames(changed(clip(), "shuffled", 8))[0] != first


@pytest.mark.parametrize("control", CONTROLS)
def test_clips_keep_their_shape_and_are_not_changed_in_place(control: str):
    clips = torch.randint(0, 256, (8, 3, 6, 6), dtype=torch.uint8)
    before = clips.clone()
    found = changed(clips, control, 3)
    assert (found.shape, found.dtype) == (clips.shape, clips.dtype)
    assert torch.equal(clips, before)
    np.testing.assert_array_equal(changed(clips.numpy(), control, 3), found.numpy())


@pytest.mark.parametrize("control", CONTROLS)
def test_a_clip_of_one_frame_stays_as_it_is(control: str):
    assert torch.equal(changed(clip(1), control, 0), clip(1))
