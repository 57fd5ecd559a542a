"""Pages of HTML that need nothing else. All text from outside is escaped."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import BaseLoader, ChoiceLoader, Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from recognition.common.plotting import number, svg

FOLDER = Path(__file__).parent / "templates"


def render(
    template: str, folder: Path, figures: Mapping[str, Figure] | None = None, *others: BaseLoader, **values: Any
) -> str:
    """A template of a folder as a page, which may extend base.html and take from `others`.

    The macros of base.html, figure(name) and value(score, ends, digits), serve in each, as do the filters number and
    interval.
    """
    templates = Environment(
        loader=ChoiceLoader([FileSystemLoader([folder, FOLDER]), *others]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"number": number, "interval": interval}
    drawings = {name: Markup(svg(name, figure)) for name, figure in (figures or {}).items()}
    return templates.get_template(template).render(figures=drawings, **values)


def interval(ends: Sequence[float] | None, digits: int = 3) -> str:
    """An interval in brackets, which say so where there is none."""
    return "[no interval]" if ends is None else f"[{number(ends[0], digits)}, {number(ends[1], digits)}]"
