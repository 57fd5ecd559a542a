"""The network that tells how memorable frames are: its published shape, weights from files, frames as they are."""

import functools
import importlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from on_disk import CLIPS
from torch import Tensor, nn

from recognition.common.command_line import InputError
from recognition.evaluation import memorability
from recognition.evaluation.activations import conv_layers, filter_activations
from recognition.evaluation.memorability import CROPPED, MemorabilityNet, Scorer, load_network, memorability_transform
from recognition.features.backbone import state_digest, torchvision
from recognition.films.alterations import mirrored
from recognition.films.synthetic import write_films
from recognition.films.video import DecodeError, decode

CPU = torch.device("cpu")
NARROW = functools.partial(
    MemorabilityNet, semantic=torchvision.models.resnet18, channels=(4, 8, 6, 6, 4), widths=(16, 16, 8, 8, 8, 8)
)


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of these tests are the published one with fewer layers and channels."""
    monkeypatch.setattr(memorability, "MemorabilityNet", NARROW)


def pictures(num: int, seed: int = 0) -> Tensor:
    """(N, 3, 227, 227) from 0 to 1, coarse enough to differ."""
    coarse = torch.rand(num, 3, 9, 9, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, (CROPPED, CROPPED))


def test_network_has_the_published_size_and_names():
    with torch.device("meta"):  # without numbers it takes no memory
        network = MemorabilityNet()
    sizes = {name: 0 for name, _ in network.named_children()}
    for name, parameter in network.named_parameters():
        sizes[name.partition(".")[0]] += parameter.numel()
    assert list(sizes) == ["features", *(f"conv{k}" for k in range(1, 6)), *(f"fc{k}" for k in range(6, 13))]
    # Worked out by hand from the layers: 60.2 million in the ResNet-152, 1.7 in the convolutions, 69.8 in the rest.
    assert sizes["features"] == 60_192_808
    assert sum(sizes[f"conv{k}"] for k in range(1, 6)) == 17_472 + 153_856 + 442_752 + 663_936 + 442_624
    assert network.fc6.in_features == 9216 + 1000
    assert [network.get_submodule(f"fc{k}").out_features for k in range(6, 13)] == [4096, 4096, 2048, 1024, 512, 256, 1]
    assert len(conv_layers(network.features)) == 155
    assert len(conv_layers(network)) == 155 + 5


def test_score_equals_that_of_the_layers_one_by_one():
    network = NARROW().eval()
    images = pictures(2)
    x = images
    for number in range(1, 6):
        x = network.get_submodule(f"conv{number}")(x).relu()
        if number in (1, 2):
            x = nn.LocalResponseNorm(5)(nn.MaxPool2d(3, 2)(x))
    x = torch.cat([nn.MaxPool2d(3, 2)(x).reshape(2, -1), network.features(images)], 1)
    for number in range(6, 12):
        x = network.get_submodule(f"fc{number}")(x).relu()
    torch.testing.assert_close(network(images), network.fc12(x).sigmoid().squeeze(1))


def test_scores_lie_between_0_and_1_and_do_not_depend_on_the_batch():
    scorer = Scorer("random:0", CPU)
    scores, activations = scorer.score_frames(pictures(5))
    assert (scores.shape, scores.dtype, activations.shape) == ((5,), torch.float32, (5, 0))
    assert ((scores > 0) & (scores < 1)).all()
    assert scores.std() > 1e-4  # pictures differ, so that a mix-up would show
    one_by_one = torch.cat([scorer.score_frames(picture[None])[0] for picture in pictures(5)])
    torch.testing.assert_close(scores, one_by_one, rtol=0, atol=1e-6)
    torch.testing.assert_close(scorer.score_frames(pictures(5))[0], scores, rtol=0, atol=0)


def test_pictures_of_another_shape_are_not_taken_for_others():
    with pytest.raises(ValueError, match=r"\(N, 3, 227, 227\) are due"):
        NARROW()(torch.zeros(1, 3, 224, 224))


@pytest.mark.parametrize("size", [(90, 160), (320, 180), (512, 768), (227, 227)])
def test_frames_are_squeezed_and_cropped_as_pictures_were_for_the_published_weights(size: tuple[int, int]):
    transforms = torchvision.transforms
    published = transforms.Compose([transforms.Resize((256, 256)), transforms.CenterCrop(227), transforms.ToTensor()])
    frame = torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    ours = memorability_transform()(frame)
    assert (ours.shape, ours.dtype) == ((3, CROPPED, CROPPED), torch.float32)
    expected = published(transforms.functional.to_pil_image(frame))
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)


def test_pixels_are_those_that_the_published_package_has_of_the_same_frame():
    """As resmem 1.1.6 with Pillow gives them, every 75th of every 75th row, times 255."""
    y, x, c = np.mgrid[:90, :160, :3]
    frame = torch.from_numpy(((7 * y + 13 * x + 101 * c + x * y // 5) % 256).astype(np.uint8)).permute(2, 0, 1)
    ours = 255 * memorability_transform()(frame)[:, ::75, ::75]
    red = [[151, 36, 176, 61], [125, 148, 132, 17], [99, 222, 88, 195], [72, 187, 44, 159]]
    green = [[166, 137, 21, 162], [226, 101, 233, 109], [200, 67, 189, 56], [173, 32, 145, 66]]
    blue = [[97, 238, 122, 110], [71, 202, 78, 210], [45, 168, 34, 157], [52, 133, 190, 105]]
    torch.testing.assert_close(ours, Tensor([red, green, blue]), rtol=0, atol=1e-4)


@pytest.mark.skipif("RESMEM_WEIGHTS" not in os.environ, reason="RESMEM_WEIGHTS does not name resmem/model.pt")
def test_published_weights_score_frames_as_their_package_does(monkeypatch: pytest.MonkeyPatch, films: Path):
    """Needs the package `resmem`, whose licence allows non-commercial research alone, and 2 GB of memory."""
    weights = Path(os.environ["RESMEM_WEIGHTS"]).resolve()
    monkeypatch.setattr(memorability, "MemorabilityNet", MemorabilityNet)
    monkeypatch.syspath_prepend(weights.parent.parent)
    package = importlib.import_module("resmem")
    real = sorted(path for path in CLIPS.glob("*.mp4") if "corrupted" not in path.name)
    frames = [next(decode(path))[0] for path in [*films.glob("*.mp4"), *real]]
    pictures = [package.transformer(torchvision.transforms.functional.to_pil_image(frame)) for frame in frames]
    with torch.inference_mode():
        expected = package.ResMem(pretrained=True).eval()(torch.stack(pictures)).flatten()
    scorer = Scorer(str(weights), CPU)
    ours, _ = scorer.score_frames(torch.stack([scorer.transform(torch.from_numpy(f).permute(2, 0, 1)) for f in frames]))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
    assert expected.std() > 0.01


def test_letterbox_keeps_the_ratio_of_sides_between_black_bars():
    white = torch.full((3, 90, 160), 255, dtype=torch.uint8)
    boxed = memorability_transform("letterbox")(white)[0]
    assert boxed.shape == (CROPPED, CROPPED)
    assert int((boxed[:, 100] > 0.5).sum()) == 256 * 90 // 160
    upright = memorability_transform("letterbox")(white.permute(0, 2, 1))[0]
    torch.testing.assert_close(upright, boxed.T)


def test_weights_from_a_file_are_those_that_were_saved(tmp_path: Path):
    network, name = load_network("random:3")
    torch.save(network.state_dict(), tmp_path / "model.pt")
    loaded, loaded_name = load_network(str(tmp_path / "model.pt"))
    assert (name, loaded_name) == ("random:3", "model.pt")
    assert state_digest(loaded.state_dict()) == state_digest(network.state_dict())
    assert state_digest(NARROW(tmp_path / "model.pt").state_dict()) == state_digest(network.state_dict())
    assert state_digest(load_network("random:3")[0].state_dict()) == state_digest(network.state_dict())
    assert state_digest(load_network("random:4")[0].state_dict()) != state_digest(network.state_dict())


def without(name: str) -> dict[str, Tensor]:
    return {key: value for key, value in NARROW().state_dict().items() if key != name}


@pytest.mark.parametrize(
    ("name", "write", "reason"),
    [
        ("absent.pt", lambda path: None, "no such file, and not random:SEED"),
        ("DEFAULT", lambda path: None, "no such file"),
        ("lfs.pt", lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        ("junk.pt", lambda path: path.write_bytes(b"junk"), "cannot be read"),
        ("empty.pt", Path.touch, "cannot be read"),
        ("pickled.pt", lambda path: torch.save(nn.Linear(1, 1), path), "cannot be read"),  # runs no code of a file
        ("less.pt", lambda path: torch.save(without("fc12.bias"), path), "does not fit"),
        ("more.pt", lambda path: torch.save(without("") | {"x": torch.ones(1)}, path), "does not fit"),
        ("list.pt", lambda path: torch.save([1], path), "does not fit"),
    ],
)
def test_file_without_the_right_weights_is_refused_in_one_line(tmp_path: Path, name: str, write, reason: str):
    write(tmp_path / name)
    with pytest.raises(InputError) as error:
        load_network(str(tmp_path / name))
    assert str(error.value).startswith(f"--weights {tmp_path / name}: ")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seed", ["x", "", "9" * 30])
def test_seed_that_is_no_number_is_refused(seed: str):
    with pytest.raises(InputError, match=f"--weights random:{seed}: .* whole number"):
        load_network(f"random:{seed}")


def test_activations_of_a_layer_come_with_the_scores():
    scorer = Scorer("random:0", CPU, layer="features.layer2.0.conv1")
    scores, activations = scorer.score_frames(pictures(3))
    layer = scorer.network.features.layer2[0].conv1
    torch.testing.assert_close(
        activations, filter_activations(scorer.network, pictures(3), layer), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(scores, Scorer("random:0", CPU).score_frames(pictures(3))[0], rtol=0, atol=0)
    with pytest.raises(InputError, match=r"--layer conv6: not a convolution .*did you mean 'conv5'"):
        Scorer("random:0", CPU, layer="conv6")


def test_frames_of_a_film_are_counted_as_they_are_decoded_and_altered_where_they_are_to_be(tmp_path: Path):
    [film] = write_films(tmp_path, 1, 2, 10)
    scorer = Scorer("random:0", CPU)
    frame, alteration = np.array([0, 7, 7, 19]), np.array([0, 0, 1, 0], np.uint8)
    scores, _ = map(np.concatenate, zip(*scorer.score_film(film, frame, alteration, 3), strict=True))
    images = [torch.from_numpy(image).permute(2, 0, 1) for image, _ in decode(film)]
    shown = [images[0], images[7], mirrored(images[7][None])[0], images[19]]
    expected, _ = scorer.score_frames(torch.stack([scorer.transform(image) for image in shown]))
    np.testing.assert_allclose(scores, expected.numpy(), rtol=0, atol=1e-6)
    assert len(np.unique(scores.round(6))) == 4
    with pytest.raises(DecodeError, match="has no frame 20, which is probed"):
        list(scorer.score_film(film, np.array([3, 20]), np.zeros(2, np.uint8), 3))


def test_times_tell_which_frames_the_rows_of_a_feature_file_are(tmp_path: Path):
    """Rows of features of clips are windows, told by the times of their middle frames."""
    [film] = write_films(tmp_path, 1, 2, 10)
    times = np.array([time_s for _, time_s in decode(film)])
    scorer, none = Scorer("random:0", CPU), np.zeros(2, np.uint8)
    [(expected, _)] = scorer.score_film(film, np.array([4, 12]), none, 3)
    [(scores, _)] = scorer.score_film(film, np.array([0, 2]), none, 3, times[[4, 8, 12, 16]])
    assert scores.tolist() == expected.tolist()
    with pytest.raises(DecodeError, match="has no frame 1, which is probed; it is not the film"):
        list(scorer.score_film(film, np.array([0, 1]), none, 3, np.array([0, 0.05])))
    with pytest.raises(DecodeError, match="its feature file has 1 rows, too few for a probe of frame 1"):
        list(scorer.score_film(film, np.array([0, 1]), none, 3, times[:1]))


def test_whole_network_scores_a_picture_on_a_cpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memorability, "MemorabilityNet", MemorabilityNet)
    scores, _ = Scorer("random:0", CPU).score_frames(pictures(2))
    assert ((scores > 0) & (scores < 1)).all()
    assert scores[0] != scores[1]
