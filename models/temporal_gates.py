"""Squeeze-and-recursion temporal gates (Stergiou and Poppe 2021, arXiv:2006.08247), for clips and for sequences.

A 3D convolution sees a few neighbouring frames. Here an LSTM reads the spatial means of all frames of a feature map,
and the map's channels are re-weighted by its output s, so by what happens over the whole clip:

    product     y = x s              as published; s lies in (-1, 1), so the map shrinks and changes signs
    sigmoid     y = x sigmoid(s)
    residual    y = x (1 + P s)      P starts at zero and y at x: the one to put into a network that has learned

A gate can leave the map as it is unless the frames' means a and the LSTM's outputs b = s go together in time. A frame
of a has a soft neighbour in b, the mean of b by the weights alpha = softmax(-|a_t - b_u|^2 / tau) over u, and that one
in a. If this is nearest to the frame where one began, for all frames, the clip returns from b (soft cycle consistency:
Dwibedi et al. 2019, arXiv:1904.07846).

    cycle       s is applied to clips that return from b to a and from a to b, all or nothing. The decision has no
                gradient, so an LSTM learns from open clips alone, and the outputs of a new one are too alike to open
                any. Let it learn without a gate or with a soft one first, the weights fit, and watch `openness`.
    soft        y = x + p (fused - x), p the mean probability that a random walk by alpha from a to b and back ends
                where it began. It is the same for both directions, and has a gradient.

Both ask which frames go together and not in what order: a sequence and its reverse are consistent. Frames that are
nearer to each other than about sqrt(tau) are not told apart, so that even equal sequences of such frames are shut.

Shapes: B clips, C channels, T frames, H x W places. A sequence (B, T, C) is a clip with one place.
"""

import difflib
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from inspect import signature
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from models.config import Count, MixerConfig
from models.mixer import Mixer

CHOICES = {
    "fuse": ("product", "sigmoid", "residual"),
    "gate": (None, "cycle", "soft"),
    "direction": ("both", "either"),
    "place": ("start", "top", "mid", "end", "skip", "final"),
}


class Recursion(NamedTuple):
    """What `SqueezeRecursion` found besides its output."""

    s: Tensor  # (B, C, T), what channels are re-weighted by
    openness: Tensor  # (B,), 1 where s was applied, 0 where the gate was shut, between them for the soft gate
    alpha: Tensor  # (B, T, T), how near each frame's mean is to each frame's s; sums to 1 over the latter


class SqueezeRecursion(nn.Module):
    """Re-weighs the channels of every frame by an LSTM over all frames, see above.

    Args:
        channels: C.
        layers: of the LSTM, which starts from a state of zeros at every clip.
        hidden: units of the LSTM, projected to C unless they are as many; None for C.
        fuse: "product", "sigmoid" or "residual".
        gate: None applies s always, "cycle" and "soft" see above.
        tau: temperature of the gate, in squared distances.
        direction: whether a clip must be consistent in "both" directions for a cycle gate to open, or in "either".

    `openness` (B,) keeps how far the gate was open for each clip of the latest call that had one, without gradient.

    Raises ValueError for settings that are not of these.
    """

    def __init__(
        self,
        channels: int,
        layers: int = 2,
        hidden: int | None = None,
        fuse: Literal["product", "sigmoid", "residual"] = "product",
        gate: Literal["cycle", "soft"] | None = None,
        tau: float = 1.0,
        direction: Literal["both", "either"] = "both",
    ):
        super().__init__()
        hidden = channels if hidden is None else hidden
        for name, value in (("fuse", fuse), ("gate", gate), ("direction", direction)):
            _check_choice(name, value)
        for name, number in (("channels", channels), ("layers", layers), ("hidden", hidden)):
            if not isinstance(number, int) or number < 1:
                raise ValueError(f"{name}: must be a whole number of at least 1, found {number!r}")
        if not isinstance(tau, (int, float)) or not 0 < tau < float("inf"):
            raise ValueError(f"tau: must be a number above 0, found {tau!r}")
        self.channels, self.fuse, self.gate, self.tau, self.direction = channels, fuse, gate, tau, direction
        self.lstm = nn.LSTM(channels, hidden, layers, batch_first=True)
        self.project = nn.Identity() if hidden == channels else nn.Linear(hidden, channels)
        if fuse == "residual":
            self.scale = nn.Linear(channels, channels, bias=False)
            nn.init.zeros_(self.scale.weight)
        self.openness: Tensor | None = None

    def forward(self, x: Tensor, details: bool = False, has_gate: bool = True) -> Tensor | tuple[Tensor, Recursion]:
        """x (B, C, T, H, W) or (B, T, C) to y of its shape; with `details` to (y, Recursion).

        Without `has_gate`, s is applied whatever the gate.
        """
        is_clip = x.ndim == 5
        if x.ndim not in (3, 5) or x.shape[1 if is_clip else 2] != self.channels:
            raise ValueError(
                f"a clip must be (B, {self.channels}, T, H, W) and a sequence (B, T, {self.channels}), "
                f"found {tuple(x.shape)}"
            )
        dtype = self.lstm.get_parameter("weight_ih_l0").dtype
        with torch.autocast(x.device.type, enabled=False):  # the recursion is cheap, and errors would add up
            a = x.mean((3, 4), dtype=dtype).transpose(1, 2) if is_clip else x.to(dtype)  # (B, T, C)
            s = self.project(self.lstm(a)[0])  # (B, T, C)
            openness = self._openness(a, s) if has_gate else a.new_ones(len(a))
            weight = s if self.fuse == "product" else s.sigmoid() if self.fuse == "sigmoid" else 1 + self.scale(s)
            if self.gate == "soft":
                weight = 1 + openness[:, None, None] * (weight - 1)
        if has_gate:
            self.openness = openness.detach()
        weight = weight.to(x.dtype)
        y = x * (weight.transpose(1, 2)[..., None, None] if is_clip else weight)
        if self.gate == "cycle":
            y = torch.where(openness.bool().view(-1, *[1] * (x.ndim - 1)), y, x)
        return (y, Recursion(s.transpose(1, 2), openness, soft_neighbours(a, s, self.tau))) if details else y

    def _openness(self, a: Tensor, b: Tensor) -> Tensor:
        """(B,), from 0 to 1."""
        if self.gate is None:
            return a.new_ones(len(a))
        if a.shape[1] == 1:
            warnings.warn("a temporal gate is always open for clips of a single frame", stacklevel=3)
        if self.gate == "soft":
            return return_probability(a, b, self.tau)
        with torch.no_grad():
            returns = is_cycle_consistent(a, b, self.tau), is_cycle_consistent(b, a, self.tau)
        return (returns[0] & returns[1] if self.direction == "both" else returns[0] | returns[1]).to(a.dtype)


class TemporalGate(Mixer):
    """`SqueezeRecursion` as a layer of a stack, on each clip of the study and on each probe by itself.

    Carries nothing from study to probe, so a stack of this alone can only guess: it is made for stacks of several
    families, before a memory, `layers: [temporal_gate, transformer]`. A probe is a clip of one frame, for which every
    gate is open, so none is asked.

    Attributes:
        clip_frames: study frames of a clip. If None, the whole study is one clip: a layer must be told, as `Recogniser`
            tells it, how long the clips are.
        num_probes: how many of the last frames are probes. If None, all that are read where `num_last` is given, else
            none: a layer below others must be told.
        openness: how far the gate was open for each clip of the study in the latest call, (B, clips); None if that
            read no study frames, as in a stack's last layer.
    """

    is_causal = True  # in what the probes are answered
    looks_ahead = True  # a gate looks at whole clips of the study
    page = "temporal_gates"

    class Config(MixerConfig):
        residual: bool = False  # the layer re-weighs what passes
        clip_frames: Count | None = None  # study frames of a clip, of which the last may be shorter; as shown if None
        lstm_layers: Count = 2
        hidden: Count | None = None  # units of the LSTM; d_embed unless given
        fuse: Literal["product", "sigmoid", "residual"] = "residual"  # the layer then starts as the identity
        gate: Literal["cycle", "soft"] | None = None
        direction: Literal["both", "either"] = "both"
        tau: float = Field(1.0, gt=0)

        def clip_frames_of(self, shown: int) -> int:
            return self.clip_frames or shown

    def __init__(self, config: Config):
        super().__init__()
        self.clip_frames = config.clip_frames
        self.num_probes: int | None = None
        self.openness: Tensor | None = None
        self.recursion = SqueezeRecursion(
            config.d_embed,
            config.lstm_layers,
            config.hidden,
            fuse=config.fuse,
            gate=config.gate,
            tau=config.tau,
            direction=config.direction,
        )

    def forward(self, x: Tensor, num_last: int | None = None) -> Tensor:
        """x (B, T, M) to (B, T, M), or to the last `num_last` frames alone."""
        num_read = x.shape[1] if num_last is None else num_last
        num_probes = min(num_read, (num_last or 0) if self.num_probes is None else self.num_probes)
        if num_read == num_probes:  # the study is not read
            x = x[:, x.shape[1] - num_read :]
        study, probes = x.split([x.shape[1] - num_probes, num_probes], 1)
        clip_frames = self.clip_frames or max(1, study.shape[1])
        num_rest = study.shape[1] % clip_frames
        clips, rest = study.split([study.shape[1] - num_rest, num_rest], 1)
        parts, openness = [], []
        for part, size in ((clips, clip_frames), (rest, num_rest)):
            if part.shape[1]:
                parts.append(self._each(part, size))
                assert self.recursion.openness is not None  # of this call
                openness.append(self.recursion.openness.view(len(x), -1))
        self.openness = torch.cat(openness, 1) if openness else None
        if num_probes:
            parts.append(self._each(probes, 1, has_gate=False))
        y = torch.cat(parts, 1)
        return y[:, y.shape[1] - num_read :]

    def study(self, x: Tensor, ends: Sequence[int], is_read: bool = True) -> tuple[Tensor | None, list[None]]:
        return self(x) if is_read else None, [None] * len(ends)

    def read(self, queries: Tensor, state: None) -> Tensor:
        return self._each(queries, 1, has_gate=False)

    def cannot_stream(self, is_last: bool) -> str:
        return "its gates look at whole clips"

    def state_size(self, num_frames: int) -> int:
        return 0

    def place(self, num_probes: int, clip_frames: int | None) -> None:
        self.num_probes, self.clip_frames = num_probes, self.clip_frames or clip_frames

    def tell(self) -> dict[str, Tensor]:
        if self.recursion.gate is None or self.openness is None:
            return {}
        return {"openness": self.openness}

    def describe(self) -> dict[str, Any]:
        return {"clip_frames": self.clip_frames}

    def _each(self, x: Tensor, size: int, has_gate: bool = True) -> Tensor:
        """Clips of `size` frames one after the other, (B, clips * size, M), each by itself."""
        return self.recursion(x.reshape(-1, size, x.shape[2]), has_gate=has_gate).view(x.shape)


def soft_neighbours(a: Tensor, b: Tensor, tau: float = 1.0) -> Tensor:
    """How near frames of b are to those of a: (B, T, C) and (B, U, C) to shares (B, T, U) that sum to 1 over U."""
    return torch.softmax(-_squared_distances(a, b) / tau, 2)


def is_cycle_consistent(a: Tensor, b: Tensor, tau: float = 1.0) -> Tensor:
    """Whether all frames of a find back to themselves by soft neighbours in b: (B, T, C) and (B, U, C) to (B,) bool.

    A frame that several frames equal has found back at any of them.
    """
    there = soft_neighbours(a, b, tau) @ b  # (B, T, C)
    back = soft_neighbours(there, a, tau) @ a  # (B, T, C)
    distances = _squared_distances(back, a)
    return (distances.diagonal(dim1=1, dim2=2) <= distances.amin(2)).all(1)


def return_probability(a: Tensor, b: Tensor, tau: float = 1.0) -> Tensor:
    """How probably walks from frames of a to b and back, by nearness, end where they began: (B, T, C) twice to (B,)."""
    return (soft_neighbours(a, b, tau) * soft_neighbours(b, a, tau).transpose(1, 2)).sum(2).mean(1)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """(B, T, C) and (B, U, C) to (B, T, U); not by products of matrices, so that equal frames are at exactly 0."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()


def openness(network: nn.Module) -> dict[str, Tensor]:
    """How far each of a network's gates was open in its latest call, (B,) from 0 to 1, by the gates' names."""
    gates = {name: gate for name, gate in network.named_modules() if isinstance(gate, SqueezeRecursion)}
    return {name: gate.openness for name, gate in gates.items() if gate.openness is not None}


def check_settings(settings: Iterable[str]) -> None:
    """Raise ValueError for a setting of which neither `insert_temporal_gates` nor `SqueezeRecursion` knows the name."""
    known = {*signature(insert_temporal_gates).parameters, *signature(SqueezeRecursion).parameters}
    known -= {"network", "settings", "channels"}
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"
            raise ValueError(f"{name}: no setting has this name; {hint}")


def insert_temporal_gates(
    network: nn.Module,
    stages: Sequence[int] = (1, 2, 3, 4),
    place: Literal["start", "top", "mid", "end", "skip", "final"] = "final",
    **settings: Any,
) -> nn.Module:
    """Put a `SqueezeRecursion` into every block of a residual network for clips, of torchvision or `clip_networks`, in
    place.

    Parameters that were there keep their names and values: load published weights before, and weights of a network
    with gates after this. Of clips of 16 frames the stages of r3d_18 see 16, 8, 4 and 2.

    Bottlenecks are 4 times as wide outside as inside. Unless told otherwise, a gate for their outside has as many
    hidden units as they have channels inside, C, and projects back: 32 C^2 weights in place of 256 C^2.

    Args:
        network: the network; it is also returned.
        stages: which of layer1 to layer4 get gates.
        place: "final" after the block; "start" before it; "top" after its first convolution, norm and ReLU; "mid" after
            its second ones; "end" after its last ones, before the addition, in basic blocks the same as "mid"; "skip"
            on the shortcut.
        settings: of `SqueezeRecursion`.

    Raises ValueError for another network, for one that has gates, and for settings that are not of these.
    """
    check_settings(settings)
    _check_choice("place", place)
    if not isinstance(stages, Sequence) or not stages or not all(stage in (1, 2, 3, 4) for stage in stages):
        raise ValueError(f"stages: must be some of 1, 2, 3 and 4, found {stages!r}")
    if any(isinstance(module, SqueezeRecursion) for module in network.modules()):
        raise ValueError("the network has temporal gates already")
    for name in (f"layer{stage}" for stage in sorted(set(stages))):
        blocks = getattr(network, name, None)
        if not isinstance(blocks, nn.Sequential) or not all(map(_is_block_of_clips, blocks)):
            raise ValueError(f"temporal gates are for residual networks for clips; this network has no such {name}")
        # A gate is one more part of the sequence in which it stands, under a name of its own, so no name changes.
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        block: Any  # torchvision's
        for key, block in blocks.named_children():
            last = getattr(block, "conv3", block.conv2)
            weight = next(block.conv1.parameters())  # (channels, block's input channels, ...)
            inside = _width(block.conv1)
            channels = {"start": weight.shape[1], "top": inside, "mid": _width(block.conv2)}.get(place, _width(last))
            gate = SqueezeRecursion(channels, **{"hidden": min(inside, channels)} | settings)
            gate = gate.to(weight).train(block.training)
            if place == "start":
                parts[f"{key}_gate"] = gate
            parts[key] = block
            if place == "final":
                parts[f"{key}_gate"] = gate
            elif place == "skip":
                block.downsample = block.downsample or nn.Sequential()
                block.downsample.add_module("gate", gate)
            elif place != "start":
                {"top": block.conv1, "mid": block.conv2, "end": last}[place].add_module("gate", gate)
        setattr(network, name, nn.Sequential(parts))
        getattr(network, name).training = blocks.training
    return network


def _is_block_of_clips(block: nn.Module) -> bool:
    """Whether it is a block of torchvision's networks for clips: two or three sequences with norms over time."""
    sequences = [getattr(block, name, None) for name in ("conv1", "conv2", *["conv3"] * hasattr(block, "conv3"))]
    return all(
        isinstance(sequence, nn.Sequential) and any(isinstance(module, nn.BatchNorm3d) for module in sequence)
        for sequence in sequences
    )


def _width(sequence: nn.Sequential) -> int:
    """Channels that come out of convolutions and their norms."""
    return [module.num_features for module in sequence if isinstance(module, nn.BatchNorm3d)][-1]


def _check_choice(name: str, value: object) -> None:
    if value not in CHOICES[name]:
        raise ValueError(f"{name}: must be one of {', '.join(map(str, CHOICES[name]))}, found {value!r}")
