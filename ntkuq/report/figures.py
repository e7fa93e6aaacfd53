"""Drawings of a run document, as matplotlib figures and as SVG for a page.

`draw` returns a figure to save in any format; `svg` returns text for a page: no script,
text kept as text, ink in the color of the page (so that dark mode needs nothing), ids
that are unique on the page, and the same bytes every time. Matplotlib's global settings
are neither read nor changed.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from .document import Document
from .drawings import DRAWINGS
from .drawings.canvas import INK as INK


if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SETTINGS: Mapping[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ntkuq",
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "font.family": "sans-serif",
    "font.size": 10,
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
}


def draw(document: Document, key: str) -> "Figure":
    """One figure of the report.

    Args:
        document: a valid run document with the data that the figure needs.
        key: "differences", "coverage", "shape", "reliability" or "price".

    Returns:
        A matplotlib figure that belongs to no window.

    Raises:
        ValueError: no such figure.
    """
    if key not in DRAWINGS:
        raise ValueError(f"no figure {key!r}; there are {', '.join(DRAWINGS)}")
    with _settings():
        return DRAWINGS[key](document)


def svg(document: Document, key: str, title: str, description: str) -> str:
    """One figure as SVG text to put into a page.

    Args:
        document: a valid run document with the data that the figure needs.
        key: as for `draw`; also the prefix of every id in the drawing.
        title: its name for those who do not see it.
        description: what it shows, for those who do not see it.

    Returns:
        An `<svg>` element.
    """
    import io

    with _settings():
        figure = DRAWINGS[key](document)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return _for_page(file.getvalue(), f"fig-{key}", title, description)


@contextmanager
def _settings() -> Iterator[None]:
    import warnings

    import matplotlib as mpl

    with mpl.rc_context(), warnings.catch_warnings():
        # Text stays text, so the reader's font draws what matplotlib's cannot.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def _for_page(text: str, prefix: str, title: str, description: str) -> str:
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r"url\(#", f"url(#{prefix}-", text)
    text = re.sub(r'href="#', f'href="#{prefix}-', text)
    text = text.replace(INK, "currentColor")
    text = re.sub(r"font: ([\d.]+px) '[^\"]*?sans-serif", r"font: \1 sans-serif", text)
    text = re.sub(r' d="([^"]*)"', lambda m: f' d="{_rounded(m[1])}"', text)
    label = f'role="img" aria-labelledby="{prefix}-title {prefix}-desc"'
    head = (
        f'<title id="{prefix}-title">{escape(title)}</title>'
        f'<desc id="{prefix}-desc">{escape(description)}</desc>'
    )
    opening, _, body = text.partition(">")
    size = " ".join(re.findall(r'viewBox="[^"]*"', opening))
    links = (
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    )
    return f"<svg {links} {size} {label}>{head}{body.strip()}"


def _rounded(path: str) -> str:
    numbers = re.sub(
        r"-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), path
    )
    return re.sub(r"\s+", " ", numbers).strip()
