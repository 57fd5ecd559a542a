"""What all mixers have in common. Whoever asks a layer something asks all of them, and none of which family it is.

Shapes: B episodes, T frames, S study frames, P probes (each showing counted), Q of them asked together, M model width.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.config import MixerConfig


class Mixer(nn.Module, ABC):
    """A sequence mixer, the layer of a stack. A family of MODELS also has a `Config` and is made of one.

    A layer that has something of its own to tell names the page of an evaluation that tells it, and gives it in
    `tell`, call by call, and in `describe`. What it does not define says that there is nothing special about it.

    Where probes write, they are frames like others, and `forward` has all. Where they do not, `study` takes in the
    study frames and `read` answers probes from the state that is left after some of them.

    In a stream `start` gives the state before the first frame and `step` takes in the next ones; `read` answers from
    such states too, what `step` would say of the frame.

    Attributes:
        is_causal: whether what it says of a probe depends on earlier frames alone.
        looks_ahead: whether what it says of a study frame depends on later ones, so that a layer above it can only
            answer at the end of study.
        only_reads: whether it is of use only where probes do not write.
        stores_probes: whether a probe that is shown where probes write changes its state.
        limit: where it keeps frames themselves, the setting that says how many, which `change` takes.
        page: the module of recognition/evaluation/pages/ that tells of this layer.
    """

    Config: type[MixerConfig]  # of a family of MODELS

    is_causal = True
    looks_ahead = False
    only_reads = False
    stores_probes = True
    limit: str | None = None
    page: str | None = None

    @abstractmethod
    def forward(self, x: Tensor, num_last: int | None = None) -> Tensor:
        """x (B, T, M) to (B, T, M), or to the last `num_last` frames alone."""

    @abstractmethod
    def state_size(self, num_frames: int) -> int:
        """Floats that it carries from `num_frames` study frames to the probes."""

    def study(self, x: Tensor, ends: Sequence[int], is_read: bool = True) -> tuple[Tensor | None, list[Any]]:
        """Take in study frames: x (B, S, M) to what it says of them, (B, S, M), and its state after the first n, for
        each n of `ends`, ascending. Without `is_read` nothing is said, which may be cheaper.

        As it stands here, the plain reference for others: the state is all frames so far.
        """
        return self(x) if is_read else None, [x[:, :end] for end in ends]

    def read(self, queries: Tensor, state: Any) -> Tensor:
        """What each probe gets to know, by itself, from a state that it leaves as it is: (B, Q, M) to (B, Q, M)."""
        seen = state.repeat_interleave(queries.shape[1], 0)
        return self(torch.cat([seen, queries.flatten(0, 1)[:, None]], 1), 1).view_as(queries)

    def start(self, num_rows: int) -> Any:
        """The state of `num_rows` streams before their first frame: tensors, memories, and tuples of them."""
        raise NotImplementedError(f"{type(self).__name__} goes over whole sequences")

    def step(self, x: Tensor, state: Any, is_read: bool = True) -> tuple[Tensor | None, Any]:
        """Take in the next frames of a stream: x (B, any number, M) to what `forward` says of them where all frames
        write, (B, the same number, M), and the state after them, which may be the same memory, written to.

        Without `is_read` nothing is said, which may be cheaper.
        """
        raise NotImplementedError(f"{type(self).__name__} goes over whole sequences")

    def cannot_stream(self, is_last: bool) -> str | None:
        """Why it cannot go step by step, None if it can. `is_last`: no layer hears what it says of study frames."""
        return "it goes over whole sequences" if type(self).step is Mixer.step else None

    def place(self, num_probes: int, clip_frames: int | None) -> None:
        """Hear once where it stands: the last `num_probes` frames are probes, `clip_frames` study frames are a clip.

        None where clips are not of one length that is known.
        """

    def tell(self) -> dict[str, Tensor]:
        """What it found in its latest call in evaluation mode, episodes first: {name: (B, ...)}. Empty for nothing."""
        return {}

    def describe(self) -> dict[str, Any]:
        """What its page should know besides, the same for all episodes."""
        return {}

    def change(self, **settings: Any) -> None:
        """Go on with these settings and the same weights. Raises ValueError for those that cannot be changed."""
        raise ValueError(f"{type(self).__name__} cannot change {', '.join(settings)}")


def in_pieces(read: Callable, x: Tensor, ends: Sequence[int], is_read: bool) -> tuple[Tensor | None, list[Any]]:
    """`Mixer.study` of a recurrent layer: x (B, S, M), a piece up to each of `ends`, and the rest where it is read.

    `read(piece, state) -> (y, state)` does one piece; the first gets None for a state.
    """
    outputs, states, state = [], [], None
    for first, stop in itertools.pairwise([0, *ends]):
        y, state = read(x[:, first:stop], state)
        outputs.append(y)
        states.append(state)
    if is_read and ends[-1] < x.shape[1]:
        outputs.append(read(x[:, ends[-1] :], state)[0])
    return torch.cat(outputs, 1) if is_read else None, states
