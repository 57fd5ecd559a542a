"""A small language model in a folder, for the tests of this room."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from captioning.language import small_language

TEXTS = [
    "a red ball moves left on a striped set.",
    "a blue ball grows on a dotted set.",
    "a green ball moves right on a plain set.",
    "a white ball shrinks on a chequered set.",
    "the red ball from the striped set grows.",
    "the blue ball from the dotted set moves right.",
    "the green ball from the plain set shrinks.",
    "the white ball from the chequered set moves left.",
]


@cache
def folder() -> Path:
    """Made once, of TEXTS; width 32, one layer."""
    return small_language(TEXTS, Path(mkdtemp()) / "language", width=32, layers=1, heads=2)
