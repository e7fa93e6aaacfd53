"""Drawings of a run document, as matplotlib figures and as SVG for a page.

`draw` returns a figure to save in any format; `svg` returns text for a page: no script,
text kept as text, ink in the color of the page (so that dark mode needs nothing), ids
that are unique on the page, and the same bytes every time. Matplotlib's global settings
are neither read nor changed.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from .document import Document
from .drawings import DRAWINGS
from .drawings.canvas import COLORS, DARK_COLORS, INK as INK
from .escape import latex


if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SETTINGS: Mapping[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ntkuq",
    "pdf.fonttype": 42,
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
        key: one of `DRAWINGS`, such as "differences" or "coverage".

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
    return as_svg(lambda: drawn(document, key), key, title, description)


def drawn(document: Document, key: str) -> "Figure":
    """One figure, with the settings that are in force."""
    return DRAWINGS[key](document)


def as_svg(make: Callable[[], Any], key: str, title: str, description: str) -> str:
    """A drawing as SVG text to put into a page; the arguments are those of `svg`."""
    import io

    with _settings():
        figure = make()
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return _for_page(file.getvalue(), f"fig-{key}", title, description)


def write_all(
    document: Document, folder: str | PathLike[str], suffix: str = ".pdf"
) -> list[Path]:
    """Write every figure that the document has the data for.

    Args:
        document: a valid run document.
        folder: a directory; made where it is missing.
        suffix: ".pdf", ".svg", ".png", or ".pgf" to be typeset by LaTeX.

    Returns:
        The files, named by the keys of the figures.

    Raises:
        ValueError: for another suffix.
        FileNotFoundError: for ".pgf" without a LaTeX installation, which Matplotlib
            asks for the sizes of texts.
    """
    import shutil

    from .sections import sections
    from .sections.blocks import Figure

    kinds = (".pdf", ".svg", ".png", ".pgf")
    if suffix not in kinds:
        raise ValueError(f"expected a suffix of {', '.join(kinds)}, got {suffix!r}")
    if suffix == ".pgf" and shutil.which("xelatex") is None:
        raise FileNotFoundError(
            "figures as .pgf need LaTeX (xelatex), which was not found: install it, or "
            "write .pdf"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for section in sections(document):
        for block in section.blocks:
            if not isinstance(block, Figure):
                continue
            file = folder / f"{block.key}{suffix}"
            # the ink is as good as black
            with _settings():
                figure = DRAWINGS[block.key](document)
                if suffix == ".pgf":
                    _quote_for_latex(figure)
                stamp = {"pdf": "CreationDate", "svg": "Date"}.get(suffix[1:])
                # the backend of .pgf knows no metadata
                options = {} if stamp is None else {"metadata": {stamp: None}}
                figure.savefig(file, **options, bbox_inches="tight")
            files.append(file)
    return files


def _quote_for_latex(figure: "Figure") -> None:
    """Matplotlib hands texts to LaTeX as they are, commands and all."""
    from matplotlib.text import Text
    from matplotlib.ticker import FuncFormatter

    def quoted(text: str) -> str:
        return "\n".join(latex(line) for line in text.split("\n"))

    for text in figure.findobj(Text):
        text.set_text(quoted(text.get_text()))
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            formatter = axis.get_major_formatter()
            # names at ticks; the texts above are those of the last drawing
            if isinstance(formatter, FuncFormatter):
                axis.set_major_formatter(
                    FuncFormatter(lambda x, at, of=formatter: quoted(of(x, at)))
                )


def dark_colors() -> Iterator[tuple[str, str]]:
    """CSS variables for a dark page, with the colors that they give the methods."""
    for color, dark in zip(COLORS, DARK_COLORS, strict=True):
        if color != INK:
            yield _variable(color), dark


def _variable(color: str) -> str:
    return f"--method-{COLORS.index(color)}"


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
    text = re.sub(
        rf"(fill|stroke): ({'|'.join(color for color in COLORS if color != INK)})\b",
        lambda m: f"{m[1]}: var({_variable(m[2])}, {m[2]})",
        text,
    )
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
