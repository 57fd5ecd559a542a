"""Random crops and colours of clips, the crops of tests, and the mixing of batches."""

import numpy as np
import pytest
import torch

from backbones import augmentation
from backbones.augmentation import Augmentation, mixed, still
from backbones.config import AugmentationConfig, ClipConfig
from recognition.features.backbone import Preprocessing

OFF = {"flip": 0, "jitter_share": 0, "grey": 0, "blur": 0}


def noise(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, size, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def augmentation_of(keep_aspect: bool = True, side: int = 20, **settings) -> Augmentation:
    return Augmentation(AugmentationConfig(**settings), ClipConfig(side=side, keep_aspect=keep_aspect))


@pytest.mark.parametrize("preset", [None, "srtg"])
@pytest.mark.parametrize("short_side", [None, [24, 30]])
def test_all_frames_of_a_clip_change_alike(preset, short_side):
    make = augmentation_of(preset=preset, short_side=short_side, jitter_share=1, grey=0.5, blur=1)
    clip = noise(1, 3, 40, 30).expand(5, -1, -1, -1).contiguous()
    for seed in range(5):
        torch.manual_seed(seed)
        made = make.colour(make.crop(clip))
        assert made.shape == (5, 3, 20, 20)
        assert made.dtype == torch.uint8
        assert torch.equal(made, made[:1].expand_as(made))


@pytest.mark.parametrize("preset", [None, "srtg"])
def test_what_is_made_is_another_for_each_draw_and_the_same_for_each_seed(preset):
    make, clip = augmentation_of(preset=preset), noise(2, 3, 40, 30)

    def draw(seed):
        torch.manual_seed(seed)
        return make.colour(make.crop(clip))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_blur_does_not_smear_frames_into_each_other():
    make = augmentation_of(**{**OFF, "blur": 1})
    clip = torch.zeros(3, 3, 20, 20, dtype=torch.uint8)
    clip[1] = 255
    assert torch.equal(make.colour(clip), clip)
    dotted = torch.zeros(1, 3, 20, 20)
    dotted[..., 10, 10] = 1
    assert make.colour(dotted).amax() < 1


def test_what_is_off_draws_nothing_and_changes_nothing():
    make, clip = augmentation_of(**OFF), noise(2, 3, 20, 20)
    state = torch.get_rng_state()
    assert torch.equal(make.colour(clip), clip)
    assert torch.equal(augmentation_of(preset="none").colour(clip), clip)
    assert torch.equal(torch.get_rng_state(), state)
    assert Augmentation(AugmentationConfig(jitter=[0, 0, 0, 0], grey=0, blur=0), ClipConfig()).colour(clip) is clip
    whole = augmentation_of(**OFF, area=None)
    torch.manual_seed(0)
    drawn = whole.crop(clip)
    assert torch.equal(drawn, clip)  # never mirrored


def test_mirroring_comes_as_often_as_it_is_asked_for():
    clip = noise(1, 3, 20, 20)
    assert torch.equal(augmentation_of(area=None, flip=1).crop(clip), clip.flip(-1))
    torch.manual_seed(0)
    make = augmentation_of(area=None, flip=0.25)
    num = sum(torch.equal(make.crop(clip), clip.flip(-1)) for _ in range(400))
    assert 70 < num < 130


def test_floating_point_and_whole_numbers_get_the_same_colours():
    make, clip = augmentation_of(jitter_share=1, blur=1), noise(2, 3, 20, 20)
    torch.manual_seed(3)
    whole = make.colour(clip)
    torch.manual_seed(3)
    floating = make.colour(clip / 255)
    assert floating.dtype == torch.float32
    assert (whole / 255 - floating).abs().max() <= 0.5 / 255 + 1e-6


def test_random_crops_have_the_area_and_aspect_asked_for():
    """Of a picture whose values say where they come from."""
    rows, columns = torch.meshgrid(torch.arange(200), torch.arange(200), indexing="ij")
    clip = torch.stack([rows, columns, rows])[None].to(torch.uint8)
    make = augmentation_of(**OFF, area=[0.2, 0.766], aspect=[0.75, 1.3333])
    torch.manual_seed(0)
    areas, aspects = [], []
    for _ in range(300):
        crop = make.crop(clip)[0].double()
        # from the middle of the first to the middle of the last of 20 pixels
        height, width = ((crop[c].amax() - crop[c].amin()) * 20 / 19 for c in (0, 1))
        areas.append(float(height * width / 200**2))
        aspects.append(float(width / height))
    assert 0.18 < min(areas) < 0.25
    assert 0.7 < max(areas) < 0.79
    assert np.mean(areas) == pytest.approx((0.2 + 0.766) / 2, abs=0.03)  # uniform
    assert 0.72 < min(aspects) < 0.8
    assert 1.25 < max(aspects) < 1.4


@pytest.mark.parametrize(("side", "scale"), [(28, 1.0), (14, 0.5)])
def test_smaller_crops_still_show_as_much_of_the_picture(side: int, scale: float, monkeypatch: pytest.MonkeyPatch):
    drawn = []
    resized = augmentation._resized
    monkeypatch.setattr(augmentation, "_resized", lambda x, short, keep: drawn.append(short) or resized(x, short, keep))
    make = augmentation_of(side=28, short_side=[32, 40])
    for _ in range(200):
        assert make.crop(noise(1, 3, 50, 60), side, scale).shape == (1, 3, side, side)
    assert min(drawn) == 32 * scale
    assert max(drawn) == 40
    assert min(drawn) / side == 32 / 28


def test_a_short_side_below_the_crop_is_never_drawn():
    make = augmentation_of(side=28, short_side=[20, 20])
    assert make.crop(noise(1, 3, 50, 60)).shape == (1, 3, 28, 28)


@pytest.mark.parametrize("settings", [{}, {"area": None}, {"short_side": [128, 128]}])
def test_pictures_are_squeezed_before_the_crop_if_their_aspect_is_not_kept(settings, monkeypatch: pytest.MonkeyPatch):
    seen = []
    resize = augmentation.F.resize
    monkeypatch.setattr(
        augmentation.F, "resize", lambda x, size, **how: seen.append(tuple(size)) or resize(x, size, **how)
    )
    for side, size in ((112, (128, 171)), (40, (46, 61))):
        make = Augmentation(AugmentationConfig(**settings), ClipConfig(side=side))
        assert make.crop(noise(1, 3, 50, 90)).shape == (1, 3, side, side)
        assert seen.pop() == ((128, 171) if "short_side" in settings else size)
    make = Augmentation(AugmentationConfig(**settings), ClipConfig(keep_aspect=True))
    make.crop(noise(1, 3, 50, 90))
    assert seen == []


def test_one_still_crop_is_what_features_are_made_of():
    frames, preprocessing = noise(2, 3, 90, 120), Preprocessing("r3d_18")
    wanted = torch.stack([preprocessing.crop(frame) for frame in frames])
    assert torch.equal(still(frames, 112, keep_aspect=False), wanted[None])


@pytest.mark.parametrize(("height", "width"), [(20, 31), (31, 20), (20, 20)])
def test_three_still_crops_lie_along_the_longer_side(height: int, width: int):
    frames = noise(2, 3, height, width)
    crops = still(frames, 20, keep_aspect=True, crops=3)
    places = [0, 6, 11] if height != width else [0, 0, 0]  # 5.5 is rounded to 6
    for crop, at in zip(crops, places, strict=True):
        wanted = frames[..., at : at + 20] if width >= height else frames[..., at : at + 20, :]
        assert torch.equal(crop, wanted)
    assert torch.equal(still(frames, 20, keep_aspect=True)[0], crops[1])


@pytest.mark.parametrize(("keep_aspect", "size"), [(True, (20, 50)), (False, (23, 31))])
def test_still_crops_cover_the_resized_picture(keep_aspect: bool, size: tuple[int, int]):
    gradient = torch.arange(200, dtype=torch.uint8).expand(1, 3, 80, 200).contiguous()
    left, middle, right = still(gradient, 20, keep_aspect, crops=3)
    assert left.shape == (1, 3, 20, 20)
    step = 200 / size[1]
    assert left[..., 0].float().mean() < step
    assert right[..., -1].float().mean() > 199 - step
    assert middle.float().mean() == pytest.approx(99.5, abs=step)


def test_mixing_keeps_shares_as_large_as_what_is_seen():
    clips = torch.eye(3)[:, :, None, None, None].expand(-1, -1, 2, 8, 8).contiguous()  # clip k shows k alone
    boxes = blends = 0
    for seed in range(40):
        torch.manual_seed(seed)
        made, shares = mixed(clips, torch.tensor([0, 1, 2]), 3)
        assert type(made) is torch.Tensor
        torch.testing.assert_close(made.mean((2, 3, 4)), shares)
        is_box = bool(((made == 0) | (made == 1)).all())
        boxes, blends = boxes + is_box, blends + (not is_box)
    assert min(boxes, blends) > 10


def test_mixing_leaves_the_batch_it_was_given():
    clips = torch.rand(4, 3, 2, 8, 8)
    before = clips.clone()
    mixed(clips, torch.tensor([0, 1, 2, 1]), 3)
    assert torch.equal(clips, before)
