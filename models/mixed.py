"""Settings of a stack whose layers are of several families.

model:
  model: mixed
  args:
    d_embed: 64                     # one width for all layers
    layers: [mamba2, transformer]   # from the frames to the read-out; a family may come more than once
    mamba2: {d_conv: 1}             # the family's own settings, for all its layers
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    Strict,
    ValidationInfo,
    create_model,
    field_validator,
    model_serializer,
)

from models.config import MixerConfig, StackConfig

SHARED = tuple(StackConfig.model_fields)


def mixed_config(families: Mapping[str, type[MixerConfig]]) -> type[StackConfig]:
    """The settings of stacks of these families: `layers`, and a section under the name of each family.

    A family's defaults hold here too, `residual` among them: a transformer layer brings its own residual connections,
    a layer of Mamba2 gets one.
    """

    class MixedConfig(StackConfig):
        layers: Annotated[
            tuple[Literal[tuple(families)], ...],  # type: ignore[valid-type]  # pydantic reads it when it is there
            Strict(False),
            Field(min_length=1),
        ]

        @field_validator(*families, mode="before", check_fields=False)
        @classmethod
        def _complete(cls, section: Any, info: ValidationInfo) -> Any:
            """What all layers share is put into the section of each family that is used."""
            known = info.data
            if not {*SHARED, "layers"} <= known.keys():
                return None  # one of them is wrong, and that is told
            if info.field_name not in known["layers"]:
                if section is not None:
                    raise ValueError(f"layers names no {info.field_name}; name it there, or remove its settings")
                return None
            if section is None:
                section = {}
            if not isinstance(section, dict):
                return section  # refused as no mapping
            if twice := [key for key in SHARED if key in section]:
                raise ValueError(f"{twice[0]} is the same for all layers; set it beside layers")
            if "n_layers" in section:
                raise ValueError("n_layers is given by layers, which may name a family more than once")
            shared = {key: known[key] for key in SHARED}
            return {**section, **shared, "n_layers": len(known["layers"])}

        @model_serializer(mode="wrap")
        def _as_written(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
            """As in a YAML file: no family that is not used, nothing twice."""
            settings = serialise(self)
            sections = {family: settings.pop(family) for family in families}
            for family in self.layers:
                given = sections[family].items()
                settings[family] = {key: value for key, value in given if key not in (*SHARED, "n_layers")}
            return settings

        def layers_of(self, family: str) -> list[tuple[str, MixerConfig]]:
            return [(family, getattr(self, family)) for family in self.layers]

    sections: dict[str, Any] = {
        name: (config | None, Field(None, validate_default=True)) for name, config in families.items()
    }
    return create_model("MixedConfig", __base__=MixedConfig, **sections)
