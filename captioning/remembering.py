"""Any memory of `models` that reads films clip by clip.

Shapes: B films, C clips of N frames each, M width, H heads, K neighbours.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captioning.config import MemoryConfig
from models import CONFIGS, PUBLISHED_NAMES, build_mixers
from models.config import StackConfig
from models.norm import LayerNorm
from models.recogniser import ResidualBlock
from recognition.common.command_line import InputError
from recognition.training.config import validate

CLIP_LENGTHS = ("segment", "clip_frames")  # settings that say how many frames a layer sees at once


class Found(NamedTuple):
    """What the Q queries of each clip looked up: frames of the film, counted from 0, the most similar first, -1 where
    there were too few; and the weight of each, which add up to 1 for a query that found any."""

    frames: Tensor  # (B, C, Q, K)
    weights: Tensor


class ClipMemory(nn.Module):
    """A stack of layers as in a `Recogniser`, for films that are sequences of C N frames without probes.

    What is said of a clip depends on earlier clips and on itself: layers that see all frames of a stretch at once, as a
    kNN memory does of its segment, see those of one clip.

    Raises InputError for wrong settings, and for a layer of which that is not so.
    """

    def __init__(self, config: MemoryConfig, num_frames: int):
        super().__init__()
        family = PUBLISHED_NAMES.get(config.model, config.model)
        settings = _settings(family, config, num_frames)
        self.num_frames = num_frames
        self.mixers, residual = build_mixers(family, settings)
        for mixer in self.mixers:
            name = type(mixer).__name__
            if not mixer.is_causal:
                raise InputError(f"memory.args: {name} sees later clips; set causal to true, or take another model")
            if mixer.only_reads:
                raise InputError(f"memory.args: familiarity of {name} is for probes that do not write; set it to false")
            mixer.place(0, num_frames)
        blocks = [
            ResidualBlock(mixer, config.width) if is_residual else mixer
            for mixer, is_residual in zip(self.mixers, residual, strict=True)
        ]
        self.blocks = nn.ModuleList(blocks)
        self.norm = LayerNorm(config.width) if residual[-1] else nn.Identity()

    def forward(self, x: Tensor, scope: str = "film") -> Tensor:
        """What it says of each frame of films x (B, C, N, M); it forgets after each film, or clip, as `scope` says."""
        y = x.flatten(1, 2) if scope == "film" else x.flatten(0, 1)
        for block in self.blocks:
            y = block(y)
        return self.norm(y).view_as(x)

    def retrieved(self, x: Tensor) -> Found | None:
        """What the frames of each clip found in the last layer that looks things up, the frames before the clip there
        being: (B, C, N, H K); None without such a layer. In evaluation mode."""
        places = [place for place, mixer in enumerate(self.mixers) if mixer.page == "retrieval"]
        if not places or x.shape[1] < 2:
            return None
        block: Any = self.blocks[places[-1]]  # a mixer, or one in a residual block
        mixer: Any = self.mixers[places[-1]]
        num_clips, y = x.shape[1], x.flatten(1, 2)
        for below in self.blocks[: places[-1]]:
            y = below(y)
        _, states = block.study(y, [clip * self.num_frames for clip in range(1, num_clips)], is_read=False)
        frames, weights = [], []
        for clip, state in enumerate(states, 1):
            block.read(y[:, clip * self.num_frames : (clip + 1) * self.num_frames], state)
            frames.append(mixer.retrieved)
            weights.append(mixer.weights)
        nothing = torch.full_like(frames[0], -1), torch.zeros_like(weights[0])  # of the first clip
        return Found(torch.stack([nothing[0], *frames], 1), torch.stack([nothing[1], *weights], 1))


def _settings(family: str, config: MemoryConfig, num_frames: int) -> StackConfig:
    """The family's settings, clips being what its layers see at once."""
    args: dict[str, Any] = dict(config.args)
    if args.setdefault("d_embed", config.width) != config.width:
        raise InputError("memory.args.d_embed: is memory.width; leave it out")
    layers = args.get("layers")
    sections = {family: args}
    if family == "mixed" and isinstance(layers, list):
        for name in {name for name in layers if name in CONFIGS}:
            section = args.get(name)
            if section is None or isinstance(section, dict):
                args[name] = sections[name] = dict(section or {})
    for name, section in sections.items():
        for key in CLIP_LENGTHS:
            if key in CONFIGS[name].model_fields and section.setdefault(key, num_frames) != num_frames:
                place = f"{name}.{key}" if family == "mixed" else key
                raise InputError(f"memory.args.{place}: is the {num_frames} frames of a clip; leave it out")
    return validate(CONFIGS[family], args, "settings", ("memory", "args"))
