"""What an evaluation tells of layers that have something of their own to tell: a page for each kind of them.

A page is a module here. A layer names it (`models.mixer.Mixer.page`), and evaluation, which knows neither the one nor
the other, brings them together: under the name of the page evaluation.json holds what it describes, and the report its
section, the template of the same name beside it. So a new page is two new files, with these three functions:

    describe(dataset, answer, layers) -> Any
        What evaluation.json says, of the answers (N, P) to all episodes of a dataset and what the page's layers told
        of them, from the frames to the read-out. None or [] where there are no layers, which is most models.
    other_settings(described, dataset, score) -> list[Row]
        A row for each setting that was tried with the same weights, [] if there are none to try: `score(settings)` lets
        the layers change to them and gives all scores anew, with what they then tell under the page's name. The rows
        become `described["other_settings"]`.
    figures(described) -> dict[str, Figure]
        What the section shows by {{ figure("name") }}; no two pages share a name.

The template finds what is described as `described`, and all that base.html defines.
"""

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np


class Told(NamedTuple):
    """What one layer told of all episodes."""

    about: dict[str, Any]  # what it says of itself, see Mixer.describe
    found: dict[str, np.ndarray]  # (N, ...) by its name, see Mixer.tell


def find_pages() -> dict[str, ModuleType]:
    """All pages by their names, which also order them."""
    names = sorted(module.name for module in iter_modules(__path__))
    return {name: import_module(f"{__name__}.{name}") for name in names}
