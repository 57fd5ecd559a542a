"""Residual networks for clips: torchvision's r3d_18, mc3_18 and r2plus1d_18, and others built of the same parts.

    name                            blocks a stage                    convolutions
    r3d_18, mc3_18, r2plus1d_18     2, 2, 2, 2                        torchvision's own networks
    r3d_34, mc3_34, r2plus1d_34     3, 4, 6, 3                        the same
    r3d_50, r2plus1d_50             3, 4, 6, 3 bottlenecks            the same
    r3d_101, r2plus1d_101           3, 4, 23, 3 bottlenecks           the same
    r3d_10, r2plus1d_10             1, 1, 1, 1                        the same; the latter is nearest to what Li et al.
                                                                      2023 (doi 10.1145/3581783.3612131) call R(2+1)D
    r3d_mini                        1, 1, 1, 1                        r3d_10 of width 16, for CPUs
    slow_r18                        2, 2, 2, 2                        of single frames in stages 1 and 2, in 3 and 4 the
                                                                      first of each block 3 x 3 x 3; no stride in time
                                                                      (Feichtenhofer et al. 2021, arXiv:2104.14558)

Of clips of T frames the stages see T, T/2, T/4 and T/8; T in all stages of mc3 and slow_r18, which have no strides in
time after their stems. The last stage gives 8 `width` features, 4 times as many of bottlenecks.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from models.temporal_gates import insert_temporal_gates
from models.vision import torchvision

parts: Any = torchvision.models.video.resnet
GATED = "srtg_"  # such names stand for networks with gates as published


class Plan(NamedTuple):
    """What a network is built of."""

    blocks: tuple[int, int, int, int]  # of each stage
    convolutions: tuple[Any, Any, Any, Any]  # of each stage
    kinds: tuple[Any, Any, Any, Any]  # of blocks, of each stage
    stem: str
    width: int = 64


class SpatialStrides(parts.Conv3DSimple):
    """A 3 x 3 x 3 convolution without a stride in time."""

    def __init__(self, in_planes: int, out_planes: int, midplanes: int | None = None, stride: int = 1):
        super().__init__(in_planes, out_planes, midplanes, (1, stride, stride))

    @staticmethod
    def get_downsample_stride(stride: int) -> tuple[int, int, int]:
        return 1, stride, stride


class SlowBlock(parts.BasicBlock):
    """A basic block whose second convolution reads single frames."""

    def __init__(self, inplanes: int, planes: int, *settings: Any):
        super().__init__(inplanes, planes, *settings)
        self.conv2[0] = parts.Conv3DNoTemporal(planes, planes)


class EvenBottleneck(parts.Bottleneck):
    """A bottleneck that is no narrower than what it reads, as Stergiou and Poppe (arXiv:2006.08247) built them."""

    expansion = 1


IN_SPACE, IN_BOTH, SEPARATE = parts.Conv3DNoTemporal, parts.Conv3DSimple, parts.Conv2Plus1D
BASIC, BOTTLENECKS = (parts.BasicBlock,) * 4, (parts.Bottleneck,) * 4
CONVOLUTIONS = {"r3d": (IN_BOTH,) * 4, "mc3": (IN_BOTH, *(IN_SPACE,) * 3), "r2plus1d": (SEPARATE,) * 4}
DEPTHS = {
    "18": ((2, 2, 2, 2), BASIC, ("r3d", "mc3", "r2plus1d")),
    "34": ((3, 4, 6, 3), BASIC, ("r3d", "mc3", "r2plus1d")),
    "50": ((3, 4, 6, 3), BOTTLENECKS, ("r3d", "r2plus1d")),
    "101": ((3, 4, 23, 3), BOTTLENECKS, ("r3d", "r2plus1d")),
    "10": ((1, 1, 1, 1), BASIC, ("r3d", "r2plus1d")),
}
PLANS = {
    f"{kind}_{depth}": Plan(blocks, CONVOLUTIONS[kind], kinds, "separate" if kind == "r2plus1d" else "basic")
    for depth, (blocks, kinds, of) in DEPTHS.items()
    for kind in of
}
PLANS["r3d_mini"] = PLANS["r3d_10"]._replace(width=16)
PLANS["slow_r18"] = Plan(
    (2, 2, 2, 2),
    (IN_SPACE, IN_SPACE, SpatialStrides, SpatialStrides),
    (parts.BasicBlock, parts.BasicBlock, SlowBlock, SlowBlock),
    "slow",
)
NETWORKS = tuple(PLANS)


def published_name(name: str) -> tuple[str, dict[str, Any] | None]:
    """The network and the settings of its gates that a name stands for: ("r3d_34", {}) of "srtg_r3d_34"."""
    return (name.removeprefix(GATED), {}) if name.startswith(GATED) else (name, None)


def clip_network(
    name: str, num_classes: int = 400, temporal_gates: Mapping[str, Any] | None = None, **shape: Any
) -> nn.Module:
    """A network of `NETWORKS`, also "srtg_NAME", which has gates as published unless `temporal_gates` says otherwise.

    Maps clips (B, 3, T, H, W) to (B, num_classes). The last layer is `fc`; with `nn.Identity` in its place it gives
    features (B, fc.in_features). Weights are drawn from torch's generator: convolutions Kaiming by fan-out, norms 1
    and 0, linear layers normal with a deviation of 0.01, gates as torch draws LSTMs. r3d_18, mc3_18 and r2plus1d_18
    have torchvision's names, and its numbers by the same seed.

    Args:
        temporal_gates: settings of `insert_temporal_gates`; None for no gates.
        shape: of `ClipNetwork`: width, dilate_last, expansion, stem_pool.

    Raises ValueError for another name and for settings that are not of these.
    """
    name, published = published_name(name)
    gates = published if temporal_gates is None else temporal_gates
    network = ClipNetwork(name, num_classes, **shape)
    return network if gates is None else insert_temporal_gates(network, **gates)


class ClipNetwork(parts.VideoResNet):
    """torchvision's `VideoResNet` in other widths and depths.

    Args:
        name: of `NETWORKS`.
        num_classes: outputs of the last layer.
        width: channels of the first stage, 64 unless given and 16 of r3d_mini; all others are in proportion.
        dilate_last: leave out the last stage's stride in time and read every second frame there instead (as Dave et
            al. 2022, arXiv:2101.07974), so that of 16 frames 4 are left. Names and shapes of all parameters stay.
        expansion: how many times wider than their inside bottlenecks are, 4 or 1; basic blocks have none.
        stem_pool: halve time and space once more after the stem, as Stergiou and Poppe do.

    Raises ValueError for another name and for settings that the network cannot have.
    """

    def __init__(
        self,
        name: str,
        num_classes: int = 400,
        width: int | None = None,
        dilate_last: bool = False,
        expansion: int = 4,
        stem_pool: bool = False,
    ):
        nn.Module.__init__(self)
        if name not in PLANS:
            raise ValueError(f"unknown network {name!r}; there are {', '.join(NETWORKS)}")
        plan = PLANS[name]
        width = plan.width if width is None else width
        for key, value in (("num_classes", num_classes), ("width", width)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{key}: must be a whole number of at least 1, found {value!r}")
        if expansion not in (1, 4):
            raise ValueError(f"expansion: must be 1 or 4, found {expansion!r}")
        kinds = (EvenBottleneck,) * 4 if plan.kinds == BOTTLENECKS and expansion == 1 else plan.kinds
        self.stem = _stem(plan.stem, width, stem_pool)
        self.inplanes = width
        for k, (kind, convolution, num_blocks) in enumerate(zip(kinds, plan.convolutions, plan.blocks, strict=True)):
            stage = self._make_layer(kind, convolution, width << k, num_blocks, stride=2 if k else 1)
            setattr(self, f"layer{k + 1}", stage)
        self.avgpool = nn.AdaptiveAvgPool3d((1, 1, 1))
        self.fc = nn.Linear(self.inplanes, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.fc.weight, 0, 0.01)
        nn.init.zeros_(self.fc.bias)
        if dilate_last:
            _dilate(self.layer4[0], name)


def _stem(kind: str, width: int, pool: bool) -> nn.Sequential:
    """torchvision's stems, in any width: what pictures go through before the stages."""
    if kind == "slow" and pool:
        raise ValueError("stem_pool: slow_r18 has a pool of its own; leave it out")
    if kind == "separate":
        middle = max(1, 45 * width // 64)
        convolutions = [
            nn.Conv3d(3, middle, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
            nn.Conv3d(middle, width, (3, 1, 1), 1, (1, 0, 0), bias=False),
        ]
    else:
        frames = 1 if kind == "slow" else 3
        convolutions = [nn.Conv3d(3, width, (frames, 7, 7), (1, 2, 2), (frames // 2, 3, 3), bias=False)]
    stem = nn.Sequential()
    for convolution in convolutions:
        stem.extend([convolution, nn.BatchNorm3d(convolution.out_channels), nn.ReLU(inplace=True)])
    if kind == "slow":
        stem.append(nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)))
    elif pool:
        stem.append(nn.MaxPool3d(3, 2, 1))
    return stem


def _dilate(block: Any, name: str) -> None:
    """Let a stage's first block read every second frame in place of every second of what it would give."""
    strided = [module for module in block.modules() if isinstance(module, nn.Conv3d) and module.stride[0] == 2]
    if not strided:
        raise ValueError(f"dilate_last: {name} has no stride in time; leave it out")
    for convolution in strided:
        convolution.stride = (1, *convolution.stride[1:])
        if convolution.kernel_size[0] == 3:
            convolution.dilation = (2, *convolution.dilation[1:])
            convolution.padding = (2, *convolution.padding[1:])
