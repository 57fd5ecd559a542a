"""The shell that all families share: project features in, mix them through a stack of layers, read out the probes.

Shapes: B episodes, S study frames, P probes, T = S + P * repeat_test, Q probes asked together, D features, W whitened
axes, M model width.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.familiarity import match
from models.mixer import Mixer
from models.norm import LayerNorm


class Layout(NamedTuple):
    """What a model reads: sequences of study frames, then probes.

    num_features: D, or W of features that are whitened.
    num_probes: P.
    repeat_test: how often each probe is shown in a row; its last showing is read.
    clip_frames: how many study frames a clip has, if that is known.
    probes_write: whether probes are frames like others, which later ones remember. If not, each is asked by itself, and
        probes can be asked in the midst of study too.
    """

    num_features: int
    num_probes: int
    repeat_test: int = 1
    clip_frames: int | None = None
    probes_write: bool = True


class Recogniser(nn.Module):
    """Says of each probe at the end of a sequence whether it was seen before.

    Args:
        mixers: the layers, from the frames to the read-out. Each is told where it stands.
        layout: of the sequences.
        d_embed: M.
        residual: for each of the layers, whether it computes x + mixer(norm(x)) instead of mixer(x). A norm follows the
            last one if this is so there: what has been added up has no scale of its own.
        match_init: start from frames as they are: the projection is the identity, or orthonormal where M is smaller.

    Raises ValueError if probes write and a layer is of no use then.

    Attributes:
        mixers: the layers, to ask them what they have to tell; their weights are in `blocks`.
    """

    feature_mean: Tensor | None  # (D,), of training, once `standardise` or `whiten` was called
    feature_deviation: Tensor | None  # (D,), once `standardise` was called
    whitening: Tensor | None  # (D, W), once `whiten` was called
    threshold: Tensor | None  # the logit from which on "old" is best on validation, if it was looked for

    def __init__(
        self,
        mixers: Sequence[Mixer],
        layout: Layout,
        d_embed: int,
        residual: Sequence[bool],
        match_init: bool = False,
    ):
        super().__init__()
        self.num_probes, self.repeat_test = layout.num_probes, layout.repeat_test
        self.probes_write = layout.probes_write
        self.mixers = tuple(mixers)
        for mixer in mixers:
            if self.probes_write and mixer.only_reads:
                raise ValueError(f"familiarity of {type(mixer).__name__} is for probes that do not write")
            mixer.place(self.num_probes * self.repeat_test if self.probes_write else 0, layout.clip_frames)
        self.embed = nn.Linear(layout.num_features, d_embed)
        if match_init:
            match(self.embed.weight)
            nn.init.zeros_(self.embed.bias)
        self.blocks = nn.ModuleList(
            ResidualBlock(mixer, d_embed) if is_residual else mixer
            for mixer, is_residual in zip(mixers, residual, strict=True)
        )
        self.norm = LayerNorm(d_embed) if residual[-1] else nn.Identity()
        self.read_out = nn.Linear(d_embed, 1)
        for name in ("feature_mean", "feature_deviation", "whitening", "threshold"):
            self.register_buffer(name, None)

    def standardise(self, mean: Tensor, deviation: Tensor) -> None:
        """From now on scale each frame's features to unit length, then each feature by these statistics, (D,) each."""
        self.feature_mean, self.feature_deviation = mean, deviation.clamp(min=1e-6)

    def whiten(self, mean: Tensor, whitening: Tensor) -> None:
        """From now on scale each frame's features to unit length, subtract the mean (D,), map them by `whitening`
        (D, W), and scale what comes out to length sqrt(W), so that each axis has a mean square of 1."""
        self.feature_mean, self.whitening = mean, whitening

    def forward(
        self, features: Tensor, asked: Sequence[tuple[int, int]] | None = None, signs: Tensor | None = None
    ) -> Tensor:
        """features (B, T, D) of any floating type to logits (B, P), positive for old.

        Args:
            features: study frames, then probes.
            asked: of probes that do not write, (study frames shown before, probes) for each group that is asked
                together, in order. All after all study frames if not given.
            signs: (B, T, W), 1 or -1, by which whitened features are multiplied.
        """
        x = self.enter(features, signs)
        if not self.probes_write:
            x = self._ask(x, asked or [(x.shape[1] - self.num_probes, self.num_probes)])
            return self.answer(x)
        for block in self.blocks[:-1]:
            x = block(x)
        # Only the probes are read, so the last layer need not compute anything else.
        x = self.blocks[-1](x, self.num_probes * self.repeat_test)
        return self.answer(x)[:, self.repeat_test - 1 :: self.repeat_test]

    def enter(self, features: Tensor, signs: Tensor | None = None) -> Tensor:
        """What the first layer gets: features (B, T, D) of any floating type to (B, T, M)."""
        return self.embed(self._prepare(features.to(self.embed.weight.dtype), signs))

    def answer(self, x: Tensor) -> Tensor:
        """What the last layer says of frames, (B, T, M), to logits (B, T)."""
        return self.read_out(self.norm(x)).squeeze(2)

    def state_size(self, num_frames: int) -> int:
        """Floats that all layers together carry from `num_frames` study frames to the probes."""
        return sum(mixer.state_size(num_frames) for mixer in self.mixers)

    def _prepare(self, features: Tensor, signs: Tensor | None) -> Tensor:
        """Features as training statistics want them: (B, T, D) to (B, T, D or W)."""
        if self.feature_mean is None:
            return features
        features = F.normalize(features, dim=2) - self.feature_mean
        if self.feature_deviation is not None:
            features = features / self.feature_deviation
        if self.whitening is not None:
            features = math.sqrt(self.whitening.shape[1]) * F.normalize(features @ self.whitening, dim=2)
        return features if signs is None else features * signs

    def _ask(self, x: Tensor, asked: Sequence[tuple[int, int]]) -> Tensor:
        """Study frames, then probes that do not write, (B, T, M), to what the layers make of the probes, (B, P, M)."""
        ends, sizes = zip(*asked, strict=True)
        x, probes = x.split([x.shape[1] - sum(sizes), sum(sizes)], 1)
        groups = probes.split(sizes, 1)
        block: Any  # a mixer, or one in a residual block
        for block, mixer in zip(self.blocks, self.mixers, strict=True):
            states = [] if ends[0] else [mixer.start(len(x))]  # asked before anything is studied
            if later := ends[len(states) :]:
                x, studied = block.study(x, later, is_read=block is not self.blocks[-1])
                states += studied
            groups = [block.read(group, state) for group, state in zip(groups, states, strict=True)]
        return torch.cat(groups, 1)


class ResidualBlock(nn.Module):
    """x + mixer(norm(x))."""

    def __init__(self, mixer: Mixer, d_embed: int):
        super().__init__()
        self.norm, self.mixer = LayerNorm(d_embed), mixer

    def forward(self, x: Tensor, num_last: int | None = None) -> Tensor:
        first = 0 if num_last is None else x.shape[1] - num_last
        return x[:, first:] + self.mixer(self.norm(x), num_last)

    def study(self, x: Tensor, ends: Sequence[int], is_read: bool = True) -> tuple[Tensor | None, list[Any]]:
        y, states = self.mixer.study(self.norm(x), ends, is_read)
        return None if y is None else x + y, states

    def read(self, queries: Tensor, state: Any) -> Tensor:
        return queries + self.mixer.read(self.norm(queries), state)

    def step(self, x: Tensor, state: Any, is_read: bool = True) -> tuple[Tensor | None, Any]:
        y, state = self.mixer.step(self.norm(x), state, is_read)
        return None if y is None else x + y, state
