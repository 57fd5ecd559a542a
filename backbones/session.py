"""What the trainings of backbones do alike: which files they read, and what they say of films."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from backbones.config import BackboneSettings

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from backbones.items import Films


def input_files(config: BackboneSettings) -> dict[str, Path]:
    """The files that a run knows again by their content."""
    files = {}
    if config.data.list:
        files["list"] = Path(config.data.list)
    if config.network.weights and not config.network.weights.startswith(("DEFAULT", "random:")):
        files["weights"] = Path(config.network.weights)
    return files


def tell_films(films: "Films", fabric: "Fabric") -> None:
    """Say in the first process what is trained on, and which films of a list are missing."""
    if not fabric.is_global_zero:
        return
    parts = {"training": films.train, "validation": films.validation, "test": films.test}
    told = ", ".join(f"{len(items):,} {name}" for name, items in parts.items() if items)
    classes = f" of {len(films.classes)} classes" if films.classes else ""
    precision = fabric.strategy.precision.precision
    print(f"items: {told}{classes}; {fabric.world_size} x {fabric.device}, precision {precision}")
    for place, reason in films.missing:
        print(f"{place}: {reason}; left out", file=sys.stderr)
