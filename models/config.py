"""What the settings of every family of models have in common."""

from abc import abstractmethod
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, Strict

Range = Annotated[tuple[float, float], Strict(False)]  # YAML writes it [low, high]
Count = Annotated[int, Field(ge=1)]


class StackConfig(BaseModel):
    """Settings of any stack of layers. Unknown names and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    d_embed: Count = 512  # M, the width in which the stack works
    key_value_slots: int = Field(0, ge=0)  # of a key-value memory before each layer; 0 for none
    match_init: bool = False  # start as a comparison of frames as they are: identity for a projection, tied queries

    @abstractmethod
    def layers_of(self, family: str) -> "list[tuple[str, MixerConfig]]":
        """The family and the settings of each layer of a stack that was asked for by the name `family`."""


class MixerConfig(StackConfig):
    """Settings of a stack of one family; the families add their own."""

    n_layers: Count = 1
    residual: bool = True  # each layer computes x + mixer(norm(x)) instead of mixer(x)

    def layers_of(self, family: str) -> list[tuple[str, "MixerConfig"]]:
        return [(family, self)] * self.n_layers

    def clip_frames_of(self, shown: int) -> int | None:
        """Study frames in the clips that a layer looks at, in episodes whose clips have `shown`; None if at none."""
        return None
