"""A report as one HTML file: sections of numbers, tables, figures and images.

`recipes.evaluation.sections` makes the sections of each task; `report.html` beside this
file is the template, which escapes all text.
"""

import base64
import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A few numbers by their names."""

    values: dict[str, Any]
    kind = "numbers"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table that is tinted by a share of 0-1, or shows a color."""

    value: Any
    share: float | None = None
    color: str | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of texts, numbers, `None` for a dash, and `Cell`s."""

    title: str
    columns: list[str]
    rows: list[list]
    note: str = ""
    upright: bool = False
    """Whether the titles of the columns stand upright, to save width."""
    kind = "table"

    @property
    def cells(self):
        """The rows, whose every cell is a `Cell`."""
        return [[c if isinstance(c, Cell) else Cell(c) for c in r] for r in self.rows]


@dataclasses.dataclass(frozen=True)
class Figures:
    """Figures as SVG beside each other; see `svg`."""

    title: str
    figures: list
    note: str = ""
    kind = "figures"


@dataclasses.dataclass(frozen=True)
class Example:
    """Images that belong together, data URIs, with lines about them and a name."""

    images: list[str]
    lines: list[str]
    name: str


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Examples beside each other."""

    title: str
    examples: list[Example]
    note: str = ""
    kind = "gallery"


@dataclasses.dataclass(frozen=True)
class Result:
    """A measured model: a sentence and sections."""

    sentence: str
    sections: list = dataclasses.field(default_factory=list)


def page(title, facts, results):
    """The HTML of a report.

    Args:
        title: of the page.
        facts: a dict of what else there is to know, text by name.
        results: list of `Result`.
    """
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["shown"] = _shown
    template = Path(__file__).with_name("report.html").read_text("utf-8")
    return environment.from_string(template).render(
        title=title, facts=facts, results=results
    )


def _shown(value, decimals=2):
    """A value as text."""
    if value is None:
        return "–"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    return f"{value:.{decimals}f}" if isinstance(value, float) else value


def svg(figure):
    """A matplotlib figure as SVG within HTML, whose black is the color of the text."""
    import matplotlib
    from markupsafe import Markup

    content = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(content, format="svg", transparent=True)
    text = content.getvalue()
    text = text[text.index("<svg") :].replace("#000000", "currentColor")
    return Markup(text)


def thumbnail(image, size=144, kind="jpeg"):
    """A small copy of an image as a data URI.

    Args:
        image: a `PIL.Image`, or a uint8 array of shape `(height, width, 3)`.
        size: pixels of the longer side, at most.
        kind: "jpeg" for photographs, "png" for flat colors.
    """
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image.copy()
    sampling = Image.Resampling.BICUBIC if kind == "jpeg" else Image.Resampling.NEAREST
    image.thumbnail((size, size), sampling)
    if max(image.size) <= 64:  # JPEG would blur so few pixels
        kind = "png"
    content = io.BytesIO()
    image.save(content, kind)
    code = base64.b64encode(content.getvalue()).decode()
    return f"data:image/{kind};base64,{code}"
