"""The shell that all families share: project features in, mix them through a stack of layers, read out the probes.

Shapes: B episodes, S study frames, P probes, T = S + P * repeat_test, D features, M model width.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from models.mixer import Mixer
from models.norm import LayerNorm


class Recogniser(nn.Module):
    """Says of each probe at the end of a sequence whether it was seen before.

    Args:
        mixers: the layers, from the frames to the read-out. Each is told where it stands.
        num_features: D.
        d_embed: M.
        num_probes: P.
        residual: for each of them, whether it computes x + mixer(norm(x)) instead of mixer(x). A norm follows the last
            layer if this is so there: what has been added up has no scale of its own.
        repeat_test: how often each probe is shown in a row; its last showing is read.
        clip_frames: how many study frames a clip has, if that is known.

    Attributes:
        mixers: the layers, to ask them what they have to tell; their weights are in `blocks`.
    """

    feature_mean: Tensor | None  # (D,), of training, once `standardise` was called
    feature_deviation: Tensor | None

    def __init__(
        self,
        mixers: Sequence[Mixer],
        num_features: int,
        d_embed: int,
        num_probes: int,
        residual: Sequence[bool],
        repeat_test: int = 1,
        clip_frames: int | None = None,
    ):
        super().__init__()
        self.num_probes, self.repeat_test = num_probes, repeat_test
        self.mixers = tuple(mixers)
        for mixer in mixers:
            mixer.place(num_probes * repeat_test, clip_frames)
        self.embed = nn.Linear(num_features, d_embed)
        self.blocks = nn.ModuleList(
            ResidualBlock(mixer, d_embed) if is_residual else mixer
            for mixer, is_residual in zip(mixers, residual, strict=True)
        )
        self.norm = LayerNorm(d_embed) if residual[-1] else nn.Identity()
        self.read_out = nn.Linear(d_embed, 1)
        self.register_buffer("feature_mean", None)
        self.register_buffer("feature_deviation", None)

    def standardise(self, mean: Tensor, deviation: Tensor) -> None:
        """From now on scale each frame's features to unit length, then each feature by these statistics, (D,) each."""
        self.feature_mean, self.feature_deviation = mean, deviation.clamp(min=1e-6)

    def forward(self, features: Tensor) -> Tensor:
        """features (B, T, D) of any floating type to logits (B, P), positive for old."""
        features = features.to(self.embed.weight.dtype)
        if self.feature_mean is not None and self.feature_deviation is not None:
            features = (nn.functional.normalize(features, dim=2) - self.feature_mean) / self.feature_deviation
        x = self.embed(features)
        for block in self.blocks[:-1]:
            x = block(x)
        # Only the probes are read, so the last layer need not compute anything else.
        x = self.blocks[-1](x, self.num_probes * self.repeat_test)
        return self.read_out(self.norm(x)).squeeze(2)[:, self.repeat_test - 1 :: self.repeat_test]

    def state_size(self, num_frames: int) -> int:
        """Floats that all layers together carry from `num_frames` study frames to the probes."""
        return sum(mixer.state_size(num_frames) for mixer in self.mixers)


class ResidualBlock(nn.Module):
    """x + mixer(norm(x))."""

    def __init__(self, mixer: Mixer, d_embed: int):
        super().__init__()
        self.norm, self.mixer = LayerNorm(d_embed), mixer

    def forward(self, x: Tensor, num_last: int | None = None) -> Tensor:
        first = 0 if num_last is None else x.shape[1] - num_last
        return x[:, first:] + self.mixer(self.norm(x), num_last)
