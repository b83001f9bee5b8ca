"""Reports as single HTML files: sections of numbers, tables, figures and images.

`recipes.evaluation.sections` creates the sections of each task. The template is
`report.html` in this folder; it escapes all text.
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
    """A section of named numbers."""

    values: dict[str, Any]
    kind = "numbers"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A table cell, optionally tinted by a share of 0-1 or with a color swatch."""

    value: Any
    share: float | None = None
    color: str | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of strings, numbers, `None` (shown as a dash) and `Cell`s."""

    title: str
    columns: list[str]
    rows: list[list]
    note: str = ""
    upright: bool = False
    """Whether to rotate the column titles to save width."""
    kind = "table"

    @property
    def cells(self):
        """The rows with all values as `Cell`s."""
        return [[c if isinstance(c, Cell) else Cell(c) for c in r] for r in self.rows]


@dataclasses.dataclass(frozen=True)
class Figures:
    """A row of SVG figures; see `svg`."""

    title: str
    figures: list
    note: str = ""
    kind = "figures"


@dataclasses.dataclass(frozen=True)
class Example:
    """A group of images, as data URIs, with lines of text and a name."""

    images: list[str]
    lines: list[str]
    name: str


@dataclasses.dataclass(frozen=True)
class Gallery:
    """A grid of examples."""

    title: str
    examples: list[Example]
    note: str = ""
    kind = "gallery"


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a model: a sentence and sections."""

    sentence: str
    sections: list = dataclasses.field(default_factory=list)


def page(title, facts, results):
    """Returns the HTML of a report.

    Args:
        title: title of the page.
        facts: dict of further facts, from name to text.
        results: list of `Result`.
    """
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["as_text"] = _as_text
    template = Path(__file__).with_name("report.html").read_text("utf-8")
    return environment.from_string(template).render(
        title=title, facts=facts, results=results
    )


def _as_text(value, decimals=2):
    """Returns a value as text."""
    if value is None:
        return "–"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    return f"{value:.{decimals}f}" if isinstance(value, float) else value


def svg(figure):
    """Returns a matplotlib figure as inline SVG, with black as the text color."""
    import matplotlib
    from markupsafe import Markup

    content = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(content, format="svg", transparent=True)
    text = content.getvalue()
    text = text[text.index("<svg") :].replace("#000000", "currentColor")
    return Markup(text)


def thumbnail(image, size=144, kind="jpeg"):
    """Returns a small copy of an image as a data URI.

    Args:
        image: a `PIL.Image`, or a uint8 array of shape `(height, width, 3)`.
        size: maximum length of the longer side in pixels.
        kind: "jpeg" for photographs, "png" for flat colors.
    """
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image.copy()
    sampling = Image.Resampling.BICUBIC if kind == "jpeg" else Image.Resampling.NEAREST
    image.thumbnail((size, size), sampling)
    if max(image.size) <= 64:  # JPEG would blur tiny images
        kind = "png"
    content = io.BytesIO()
    image.save(content, kind)
    code = base64.b64encode(content.getvalue()).decode()
    return f"data:image/{kind};base64,{code}"
