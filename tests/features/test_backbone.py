"""Frozen networks of frames and of clips: the same numbers as torchvision's own, whatever the weights come from."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.clip_networks import clip_network
from models.temporal_gates import SqueezeRecursion, insert_temporal_gates
from recognition.common.command_line import InputError
from recognition.features.backbone import (
    Backbone,
    Preprocessing,
    default_weights,
    fast_dtype,
    state_digest,
    torchvision,
)
from recognition.features.weights_file import Eye, write_backbone

CPU = torch.device("cpu")


def make(name: str = "resnet18", weights: str | Path = "random:0", fast: bool = False) -> Backbone:
    """A backbone on the CPU, in float32 unless `fast`."""
    return Backbone(name, str(weights), CPU, fast=fast)


def reference(name: str, seed: int) -> nn.Module:
    """torchvision's classifier as it comes, with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torchvision.models.get_model(name, weights=None).eval()


def images(*sizes: tuple[int, int]) -> list[Tensor]:
    """Images of noise and edges, (3, H, W) uint8."""
    generator = torch.Generator().manual_seed(0)
    coarse = [torch.randint(0, 256, (3, 12, 12), generator=generator, dtype=torch.uint8) for _ in sizes]
    return [nn.functional.interpolate(image[None], size)[0] for image, size in zip(coarse, sizes, strict=True)]


FRAMES = images((180, 320), (320, 180), (225, 301), (64, 48))


WINDOW = images(*[(90, 161)] * 16)  # each another picture


def features(backbone: Backbone) -> Tensor:
    """Features of FRAMES."""
    return backbone.features(torch.stack([backbone.preprocessing.crop(frame) for frame in FRAMES]))


@pytest.fixture(scope="module")
def resnet18() -> Backbone:
    return make()


def as_trained(name: str) -> Tensor:
    """FRAMES as torchvision prepares them for a network, from Pillow's images."""
    transforms = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    return torch.stack([transforms(Image.fromarray(frame.permute(1, 2, 0).numpy())) for frame in FRAMES])


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "vit_b_16"])
def test_preprocessing_equals_that_of_torchvision(name):
    ours = Preprocessing(name)
    cropped = torch.stack([ours.crop(frame) for frame in FRAMES])
    assert cropped.dtype == torch.uint8
    differences = (ours.normalise(cropped) - as_trained(name)).abs()
    assert differences.max() < 2.5 / 255 / 0.22  # grey levels, in the normalised images' units
    assert (differences > 1e-5).float().mean() < 0.01


@pytest.mark.parametrize(
    ("name", "last", "num_features"),
    [("resnet18", "fc", 512), ("shufflenet_v2_x0_5", "fc", 1024), ("mobilenet_v3_small", "classifier.3", 1024)],
)
def test_features_equal_those_of_torchvision(name, last, num_features):
    network = reference(name, seed=0)
    network.set_submodule(last, nn.Identity())
    with torch.inference_mode():
        expected = network(as_trained(name))
    backbone = make(name)
    found = features(backbone)
    assert backbone.num_features == num_features
    assert (found.shape, found.dtype) == ((4, num_features), torch.float32)
    scale = expected.abs().max()  # the fast memory layout adds in another order, a few pixels are rounded another way
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-3)
    assert expected.std(0).max() / scale > 1e-2  # frames differ, so that a mix-up would show


@pytest.mark.parametrize("name", ["r3d_18", "mvit_v2_s"])
def test_preprocessing_of_windows_equals_that_of_torchvision(name):
    transforms, ours = torchvision.models.get_model_weights(name).DEFAULT.transforms(), Preprocessing(name)
    crops = torch.stack([ours.crop(frame) for frame in [*WINDOW, *WINDOW[::-1]]])
    expected = torch.stack([transforms(torch.stack(frames)) for frames in (WINDOW, WINDOW[::-1])])
    torch.testing.assert_close(ours.normalise(crops), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "r2plus1d_18"])
def test_features_of_windows_equal_those_of_torchvision(name):
    network = reference(name, seed=0)
    network.fc = nn.Identity()
    transforms = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    with torch.inference_mode():
        expected = network(transforms(torch.stack(WINDOW))[None])
    backbone = make(name)
    assert (backbone.name, backbone.num_features) == (f"{name}, 16 frames every 16", 512)
    found = backbone.features(torch.stack([backbone.preprocessing.crop(frame) for frame in WINDOW]))
    scale = expected.abs().max()
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-5)


GATES = {"fuse": "residual", "hidden": 3}  # they are small and leave the network's output as it is


def gated_backbone(weights: str | Path = "random:0") -> Backbone:
    return Backbone("r3d_18", str(weights), CPU, fast=False, gates=GATES)


def test_network_with_gates_has_them_by_the_seed_and_says_so():
    plain, gated, again = make("r3d_18"), *(gated_backbone() for _ in range(2))
    assert gated.name == "r3d_18 with temporal gates (fuse=residual, hidden=3), 16 frames every 16"
    assert gated.weights_sha256 == again.weights_sha256 != plain.weights_sha256
    assert sum(isinstance(module, SqueezeRecursion) for module in gated.network.modules()) == 8
    state = gated.network.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in plain.network.state_dict().items())


def test_weights_from_a_file_are_those_of_the_network_with_its_gates(tmp_path):
    network = reference("r3d_18", seed=0)
    torch.save(network.state_dict(), tmp_path / "plain.pth")
    insert_temporal_gates(network, **GATES)
    torch.save(network.state_dict(), tmp_path / "gated.pth")
    assert gated_backbone(tmp_path / "gated.pth").weights_sha256 == state_digest(network.state_dict())
    with pytest.raises(InputError, match="does not fit r3d_18"):
        gated_backbone(tmp_path / "plain.pth")
    with pytest.raises(InputError, match="does not fit r3d_18"):
        make("r3d_18", tmp_path / "gated.pth")


def without(state: dict[str, Tensor], *starts: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.startswith(starts)}


@pytest.mark.parametrize("num_classes", [None, 101])
@pytest.mark.parametrize(("name", "last"), [("r3d_18", "fc"), ("mobilenet_v3_small", "classifier.3")])
def test_last_layer_may_be_missing_or_of_other_classes(tmp_path, name, last, num_classes):
    state = reference(name, seed=4).state_dict()
    width = state[f"{last}.weight"].shape[1]
    bare = without(state, f"{last}.")
    if num_classes:
        bare |= {f"{last}.weight": torch.zeros(num_classes, width), f"{last}.bias": torch.zeros(num_classes)}
    torch.save(state, tmp_path / "whole.pth")
    torch.save(bare, tmp_path / "other.pth")
    whole, other = (make(name, tmp_path / f"{which}.pth") for which in ("whole", "other"))
    assert whole.weights_sha256 == state_digest(state)  # as ever, so that features made before stay theirs
    assert other.weights_sha256 == state_digest(bare)
    found = other.network.state_dict()
    assert all(torch.equal(value, found[key]) for key, value in whole.network.state_dict().items())


@pytest.mark.parametrize("change", [lambda state: state | {"more": torch.zeros(1)}, lambda s: without(s, "layer4.1.")])
def test_all_but_the_last_layer_must_fit(tmp_path, change):
    state = clip_network("r3d_18", num_classes=3, width=4).state_dict()
    write_backbone(tmp_path / "weights.safetensors", change(state), Eye("r3d_18", width=4))
    with pytest.raises(InputError, match="does not fit r3d_18"):
        make("r3d_18", tmp_path / "weights.safetensors")


EYE = Eye(
    "r3d_10", 4, {"fuse": "sigmoid", "hidden": 3}, dilate_last=True, frames=4, fps=7.5, side=32, films=("a" * 64,)
)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Weights of a network that was trained here."""
    torch.manual_seed(1)
    network = clip_network("r3d_10", num_classes=3, temporal_gates=EYE.gates, **EYE.shape)
    write_backbone(tmp_path / "weights.safetensors", network.state_dict(), EYE)
    return tmp_path / "weights.safetensors"


def test_weights_that_were_trained_here_say_what_the_network_is_and_reads(own):
    backbone = make("r3d_10", own)
    assert backbone.name == (
        "r3d_10 (dilate_last=True, side=32, width=4) with temporal gates (fuse=sigmoid, hidden=3), "
        "4 frames at 7.5 a second every 4 of these"
    )
    assert (backbone.weights, backbone.films) == ("weights.safetensors", {"a" * 64})
    state = load_file(own)
    assert backbone.weights_sha256 == state_digest(state)
    network = clip_network("r3d_10", num_classes=3, temporal_gates=EYE.gates, **EYE.shape).eval()
    network.load_state_dict(state)
    network.fc = nn.Identity()
    frames = torch.stack([backbone.preprocessing.crop(frame) for frame in WINDOW[:8]])
    mean, deviation = (torch.tensor(value)[:, None, None] for value in (EYE.mean, EYE.deviation))
    clips = ((frames / 255 - mean) / deviation).unflatten(0, (2, 4)).transpose(1, 2)
    assert frames.shape == (8, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(backbone.features(frames), network(clips), rtol=1e-4, atol=1e-5)


def test_what_the_command_line_repeats_of_the_weights_is_no_contradiction(own):
    assert Backbone("r3d_10", str(own), CPU, gates=EYE.gates, fps=7.5).name == make("r3d_10", own).name


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("r3d_34", {}, "--backbone r3d_34: .*weights.safetensors is of r3d_10; say --backbone r3d_10"),
        ("resnet18", {}, "--backbone resnet18: .* is of r3d_10"),
        ("r3d_10", {"gates": {"fuse": "residual"}}, r"--temporal_gates: .* has other ones \(.*sigmoid.*\); leave"),
        ("srtg_r3d_10", {}, "--temporal_gates: .* has other ones"),
        ("r3d_10", {"fps": 15}, "--clip_fps 15: these weights were trained at 7.5 a second"),
    ],
)
def test_weights_of_another_network_are_refused(own, name, options, named):
    with pytest.raises(InputError, match=named):
        Backbone(name, str(own), CPU, **options)


def test_gates_for_weights_without_are_refused(tmp_path):
    write_backbone(tmp_path / "w.safetensors", {}, Eye("r3d_10", 4))
    with pytest.raises(InputError, match=r"--temporal_gates: .* has other ones \(none\)"):
        Backbone("r3d_10", str(tmp_path / "w.safetensors"), CPU, gates={})


def test_networks_of_other_depths_are_backbones_by_their_names():
    mini, gated = make("r3d_mini"), make("srtg_r3d_mini")
    assert (mini.name, mini.num_features) == ("r3d_mini, 16 frames every 16", 128)
    assert gated.name == "r3d_mini with temporal gates (), 16 frames every 16"
    assert gated.weights_sha256 == Backbone("r3d_mini", "random:0", CPU, gates={}).weights_sha256
    with pytest.raises(InputError, match="--weights DEFAULT: there are none of r3d_mini; give a file"):
        make("r3d_mini", "DEFAULT")


def test_half_precision_differs_by_rounding_alone(resnet18):
    fast = make(fast=True)
    assert fast.compute_dtype == fast_dtype(CPU)
    assert resnet18.compute_dtype == torch.float32
    assert nn.functional.cosine_similarity(features(fast), features(resnet18)).min() > 0.9999


def test_features_do_not_depend_on_the_other_frames_of_the_batch(resnet18):
    crops = torch.stack([resnet18.preprocessing.crop(frame) for frame in FRAMES])
    one_by_one = torch.cat([resnet18.features(crop[None]) for crop in crops])
    torch.testing.assert_close(resnet18.features(crops), one_by_one, rtol=1e-4, atol=1e-5)  # kernels by batch size


@pytest.mark.parametrize("ending", ["pth", "pt", "safetensors"])
def test_weights_from_a_file_are_those_that_were_saved(tmp_path, resnet18, ending):
    path = tmp_path / f"weights.{ending}"
    state = reference("resnet18", seed=0).state_dict()
    save_file(state, path) if ending == "safetensors" else torch.save(state, path)
    backbone = make(weights=path)
    assert (backbone.weights, backbone.weights_sha256) == (path.name, resnet18.weights_sha256)
    torch.testing.assert_close(features(backbone), features(resnet18), rtol=0, atol=0)


def test_digest_changes_with_any_weight_and_any_name():
    state = {"a": torch.zeros(2, 3), "b": torch.ones(4)}
    assert state_digest(state) == state_digest(dict(reversed(state.items())))
    others = [state | {"b": torch.tensor([1, 1, 1, 1 + 1e-7])}, {"a": state["a"], "c": state["b"]}, {"a": state["a"]}]
    assert len({state_digest(other) for other in [state, *others]}) == 4


def test_equal_seeds_give_equal_weights_and_others_do_not(resnet18):
    digests = [make(weights=f"random:{seed}").weights_sha256 for seed in (0, 1)]
    assert digests[0] == resnet18.weights_sha256 != digests[1]


def test_random_weights_leave_the_global_generator_as_it_was():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    make("shufflenet_v2_x0_5")
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


def test_network_is_frozen(resnet18):
    assert not resnet18.network.training
    assert not any(parameter.requires_grad for parameter in resnet18.network.parameters())


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnt18", "did you mean 'resnet18'?"),
        ("ResNet50", "did you mean 'resnet50'?"),
        ("r3d18", "did you mean 'r3d_18'?"),
        ("slow_r50", "did you mean 'slow_r18'?"),
        ("s3d", "no linear layer"),
        ("fasterrcnn_resnet50_fpn", "not a classifier"),
        ("squeezenet1_0", "no linear layer"),
    ],
)
def test_backbone_that_cannot_be_had_is_refused(name, hint):
    with pytest.raises(InputError, match=f"--backbone {name}") as error:
        make(name)
    assert hint in str(error.value)


@pytest.mark.parametrize("seed", ["x", "", "1.5", "9" * 30])
def test_seed_that_is_no_number_is_refused(seed):
    with pytest.raises(InputError, match=f"^--weights random:{seed}: .* whole number"):
        make(weights=f"random:{seed}")


def other_network() -> dict[str, Tensor]:
    """Weights that do not fit resnet18."""
    return reference("shufflenet_v2_x0_5", seed=0).state_dict()


@pytest.mark.parametrize(
    ("name", "write", "reason"),
    [
        ("missing.pth", lambda path: None, "no such file, and neither DEFAULT nor random:SEED"),
        ("DEFALT", lambda path: None, "neither DEFAULT"),
        ("folder", Path.mkdir, "no such file"),
        ("junk.pth", lambda path: path.write_bytes(b"junk"), "cannot be read"),
        ("junk.safetensors", lambda path: path.write_bytes(b"junk"), "cannot be read"),
        ("empty.pth", Path.touch, "cannot be read"),
        ("pickled.pth", lambda path: torch.save(nn.Linear(1, 1), path), "cannot be read"),  # runs no code of a file
        ("other.pth", lambda path: torch.save(other_network(), path), "does not fit resnet18"),
        ("other.safetensors", lambda path: save_file(other_network(), path), "does not fit resnet18"),
        ("checkpoint.pth", lambda path: torch.save({"model": other_network()}, path), "does not fit resnet18"),
        ("list.pth", lambda path: torch.save([1, 2], path), "does not fit resnet18"),
    ],
)
def test_file_without_the_right_weights_is_refused_in_one_line(tmp_path, name, write, reason):
    write(tmp_path / name)
    with pytest.raises(InputError) as error:
        make(weights=tmp_path / name)
    assert str(error.value).startswith(f"--weights {tmp_path / name}: ")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_default_weights_are_torchvisions_recommended_ones():
    assert default_weights("resnet18") is torchvision.models.ResNet18_Weights.DEFAULT
