"""Pages of HTML that need nothing else. All text from outside is escaped."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import BaseLoader, ChoiceLoader, Environment, FileSystemLoader, StrictUndefined

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = Path(__file__).parent / "templates"


def render(
    template: str, folder: Path, figures: "Mapping[str, Figure] | None" = None, *others: BaseLoader, **values: Any
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
    drawings = {}
    if figures:
        from recognition.common.plotting import svg  # with matplotlib, which a page without figures does not wait for

        drawings = {name: svg(name, figure) for name, figure in figures.items()}
    return templates.get_template(template).render(figures=drawings, **values)


def number(value: float | None, digits: int = 3) -> str:
    """A number as it is printed; a dash where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}".replace("-", "−")


def interval(ends: Sequence[float] | None, digits: int = 3) -> str:
    """An interval in brackets, which say so where there is none."""
    return "[no interval]" if ends is None else f"[{number(ends[0], digits)}, {number(ends[1], digits)}]"
