"""Networks for clips: sizes as published, torchvision's own where it has them, and every parameter in use."""

import pytest
import torch
from torch import Tensor, nn

from models.clip_networks import NETWORKS, clip_network, published_name
from models.temporal_gates import SqueezeRecursion
from models.vision import torchvision

OWN = ("r3d_18", "mc3_18", "r2plus1d_18")  # torchvision's
NUM_BLOCKS = {"10": 4, "mini": 4, "18": 8, "r18": 8, "34": 16, "50": 16, "101": 33}


def meta(name: str, **settings: object) -> nn.Module:
    """A network without weights, to count what it would have."""
    with torch.device("meta"):
        return clip_network(name, **settings)


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def clip(num_frames: int = 16, side: int = 32) -> Tensor:
    return torch.randn((2, 3, num_frames, side, side), generator=torch.Generator().manual_seed(1))


def small(name: str, **settings: object) -> nn.Module:
    torch.manual_seed(0)
    return clip_network(name, num_classes=5, **{"width": 4} | settings)


def frames_of_stages(network: nn.Module) -> list[int]:
    """How many of 16 frames each stage gives."""
    found: list[int] = []
    for k in range(1, 5):
        network.get_submodule(f"layer{k}").register_forward_hook(lambda *args: found.append(args[2].shape[2]))
    with torch.no_grad():
        network.eval()(clip())
    return found


@pytest.mark.parametrize(
    ("name", "millions", "features", "gates"),
    [
        ("r3d_18", 33.4, 512, 11.2),
        ("r3d_34", 63.7, 512, 20.2),
        ("r2plus1d_18", 31.5, 512, 11.2),
        ("r2plus1d_34", 61.8, 512, 20.2),
        ("mc3_18", 11.7, 512, 11.2),
        ("mc3_34", 22.0, 512, 20.2),
        ("r3d_50", 47.0, 2048, 40.3),
        ("r3d_101", 86.0, 2048, 76.1),
        ("r2plus1d_50", 53.9, 2048, 40.3),
        ("r2plus1d_101", 99.9, 2048, 76.1),
    ],
)
def test_numbers_of_parameters_and_features_are_those_of_the_table(name, millions, features, gates):
    network, gated = meta(name), meta(name, temporal_gates={})
    assert (round(size(network) / 1e6, 1), network.fc.in_features) == (millions, features)
    assert round((size(gated) - size(network)) / 1e6, 1) == gates


@pytest.mark.parametrize(
    ("name", "number"),
    [("slow_r18", 20_023_872), ("r3d_18", 33_166_272), ("r3d_10", 14_361_792), ("r3d_mini", 903_984)],
)
def test_numbers_of_parameters_without_the_last_layer(name, number):
    network = meta(name)
    assert size(network) - size(network.fc) == number


def test_gates_of_bottlenecks_as_published_and_inside_have_the_sizes_of_the_papers():
    plain = size(meta("r3d_50"))
    assert round((size(meta("r3d_50", temporal_gates={"hidden": None})) - plain) / 1e6) == 322
    assert round((size(meta("r3d_50", temporal_gates={"place": "mid"})) - plain) / 1e6, 1) == 20.2
    for name, gates in (("r3d_50", 20.2), ("r3d_101", 38.1)):
        even = meta(name, expansion=1)
        assert even.fc.in_features == 512
        added = size(meta(name, expansion=1, temporal_gates={})) - size(even)
        assert round(added / 1e6, 1) == gates


@pytest.mark.parametrize("name", OWN)
def test_torchvisions_networks_are_its_own(name):
    states = []
    for build in (clip_network, lambda name: torchvision.models.get_model(name, weights=None)):
        torch.manual_seed(3)
        network = build(name).eval()
        states.append(network.state_dict())
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    other = clip_network(name).eval()
    other.load_state_dict(states[1])
    with torch.no_grad():
        assert torch.equal(other(clip(4)), network(clip(4)))


@pytest.mark.parametrize("gates", [None, {"fuse": "product"}])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_gets_a_gradient(name, gates):
    network = small(name, temporal_gates=gates).train()
    network(clip(side=48)).square().sum().backward()
    assert [key for key, value in network.named_parameters() if value.grad is None or not value.grad.any()] == []


@pytest.mark.parametrize("name", NETWORKS)
def test_published_names_contain_as_many_lstms_as_blocks(name):
    network = meta(f"srtg_{name}", width=4)
    gates = [module for module in network.modules() if isinstance(module, SqueezeRecursion)]
    assert len(gates) == sum(isinstance(m, nn.LSTM) for m in network.modules()) == NUM_BLOCKS[name.split("_")[-1]]
    assert {gate.fuse for gate in gates} == {"product"}
    assert published_name(f"srtg_{name}") == (name, {})
    assert published_name(name) == (name, None)


@pytest.mark.parametrize("place", ["start", "top", "mid", "end", "skip", "final"])
@pytest.mark.parametrize("name", ["r3d_50", "slow_r18", "r3d_10"])
@torch.no_grad()
def test_residual_gates_leave_answers_as_they_were_at_the_start(name, place):
    plain, gated = small(name).eval(), small(name, temporal_gates={"fuse": "residual", "place": place}).eval()
    x = clip(4)
    before = plain.state_dict()
    assert gated.load_state_dict(before, strict=False).unexpected_keys == []
    assert torch.equal(gated(x), plain(x))
    assert {key for key in gated.state_dict() if "gate" not in key} == before.keys()


@pytest.mark.parametrize("expansion", [1, 4])
def test_gates_of_a_bottleneck_stand_where_they_say(expansion):
    widths = {}
    for place in ("start", "top", "mid", "end", "skip", "final"):
        network = meta("r3d_50", expansion=expansion, temporal_gates={"place": place})
        found = {name: (m.channels, m.lstm.hidden_size) for name, m in network.named_modules() if hasattr(m, "lstm")}
        widths[place] = next((name, *found[name]) for name in found if name.startswith("layer2.0"))
    wide = 128 * expansion
    assert widths == {
        "start": ("layer2.0_gate", 64 * expansion, min(128, 64 * expansion)),
        "top": ("layer2.0.conv1.gate", 128, 128),
        "mid": ("layer2.0.conv2.gate", 128, 128),
        "end": ("layer2.0.conv3.gate", wide, 128),
        "skip": ("layer2.0.downsample.gate", wide, 128),
        "final": ("layer2.0_gate", wide, 128),
    }


@pytest.mark.parametrize(
    ("name", "settings", "frames"),
    [
        ("r3d_18", {}, [16, 8, 4, 2]),
        ("r2plus1d_50", {}, [16, 8, 4, 2]),
        ("mc3_34", {}, [16, 16, 16, 16]),
        ("slow_r18", {}, [16, 16, 16, 16]),
        ("r3d_18", {"stem_pool": True}, [8, 4, 2, 1]),
        *((name, {"dilate_last": True}, [16, 8, 4, 4]) for name in ("r3d_18", "r2plus1d_10", "r3d_50")),
    ],
)
def test_stages_see_so_many_of_sixteen_frames(name, settings, frames):
    assert frames_of_stages(small(name, **settings)) == frames


@pytest.mark.parametrize("name", ["r3d_18", "r2plus1d_18", "r3d_50"])
def test_dilated_network_has_the_parameters_of_the_plain_one_and_reads_them_otherwise(name):
    plain, dilated = small(name).eval(), small(name, dilate_last=True).eval()
    shapes = [{key: value.shape for key, value in network.state_dict().items()} for network in (plain, dilated)]
    assert shapes[0] == shapes[1]
    dilated.load_state_dict(plain.state_dict())
    block = "layer4.0.conv2.0" if name == "r3d_50" else "layer4.0.conv1.0"
    first, reads = plain.get_submodule(block), dilated.get_submodule(block)
    channels = next(first.parameters()).shape[1]
    maps = torch.randn((1, channels, 7, 6, 6), generator=torch.Generator().manual_seed(0))
    strided = [m for m in first.modules() if isinstance(m, nn.Conv3d) and m.stride[0] == 2]
    for convolution in strided:  # every second frame, read as a clip of its own
        convolution.stride = (1, *convolution.stride[1:])
    with torch.no_grad():
        found = reads(maps)
        for k in (0, 1):
            torch.testing.assert_close(found[:, :, k::2], first(maps[:, :, k::2]))


@pytest.mark.parametrize("name", NETWORKS)
def test_width_scales_all_channels(name):
    widths = [meta(name, width=width).fc.in_features for width in (16, 64)]
    assert widths[1] == 4 * widths[0] == (2048 if "50" in name or "101" in name else 512)
    assert clip_network("r3d_mini").fc.in_features == 128


@pytest.mark.parametrize(
    ("name", "settings", "named"),
    [
        ("r3d_19", {}, "unknown network 'r3d_19'; there are r3d_18"),
        ("srtg_x", {}, "unknown network 'x'"),
        ("r3d_18", {"width": 0}, "width: must be a whole number of at least 1, found 0"),
        ("r3d_18", {"num_classes": 0}, "num_classes"),
        ("r3d_50", {"expansion": 2}, "expansion: must be 1 or 4, found 2"),
        ("mc3_18", {"dilate_last": True}, "dilate_last: mc3_18 has no stride in time"),
        ("slow_r18", {"dilate_last": True}, "dilate_last: slow_r18"),
        ("slow_r18", {"stem_pool": True}, "stem_pool: slow_r18 has a pool of its own"),
        ("r3d_10", {"temporal_gates": {"fuze": 1}}, "fuze: no setting has this name; did you mean 'fuse'"),
        ("r3d_10", {"temporal_gates": {"fuse": "sum"}}, "fuse: must be one of"),
    ],
)
def test_networks_that_cannot_be_built_are_refused(name, settings, named):
    with pytest.raises(ValueError, match=named):
        meta(name, **settings)
