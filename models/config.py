"""What the settings of every family of models have in common."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, Strict

Range = Annotated[tuple[float, float], Strict(False)]  # YAML writes it [low, high]
Count = Annotated[int, Field(ge=1)]


class MixerConfig(BaseModel):
    """Settings of a stack of one family; the families add their own. Unknown names and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    d_embed: Count = 512  # M, the width in which the stack works
    n_layers: Count = 1
    residual: bool = True  # each layer computes x + mixer(norm(x)) instead of mixer(x)
