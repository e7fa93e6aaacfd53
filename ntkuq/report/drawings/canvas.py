"""What the drawings share: colors, markers, an empty canvas, bands, lines, legend."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ntkuq.report import formats
from ntkuq.report.document import Document
from ntkuq.report.escape import shorten
from ntkuq.report.formats import Number
from ntkuq.report.methods import distinct_labels


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"  # stands for the text color of the page
# Inches. Text of 10 points is then 12 pixels high where a page is 400 pixels wide.
WIDTH = 4.3
LABEL_LENGTH = 30  # characters of a method's label in a legend
NARROW_LABEL = 18  # the same where two of them share a line

# Okabe and Ito's palette, black replaced by the ink and yellow by gray; on white
# darkened until each has a contrast of 3 (WCAG 2.2, 1.4.11), by amounts that keep all
# pairs apart for those who see no red or no green: at least 15 in CIELAB.
COLORS = (
    "#005688", "#974100", "#009c72", "#b86c96", "#bc8100", "#499ac8", INK, "#636363",
)  # fmt: skip
#: The same on a dark page, where the palette itself has that contrast.
DARK_COLORS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", INK, "#8c8c8c",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
LINES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (9, 2)))


class Style(NamedTuple):
    """Color, marker and line of a method, the same in every figure of a page."""

    color: str
    marker: str
    line: Any  # matplotlib's line style


def style(index: int) -> Style:
    """The style of the method at this place of the document."""
    return Style(
        COLORS[index % len(COLORS)],
        MARKERS[index % len(MARKERS)],
        LINES[index % len(LINES)],
    )


def canvas(height: float) -> "tuple[Figure, Axes]":
    """A figure of the page's width with one set of axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def legend_height(shown: Sequence[int]) -> float:
    """Inches for the legend under a figure of these methods."""
    return 0.2 * -(-(len(shown) + 1) // 2)


def bands(axes: "Axes", curves: Sequence[Sequence[tuple[Number, ...]]]) -> None:
    """Gray bands around zero; methods with the same number of points share one."""
    distinct = {tuple((r[0], r[2], r[3]) for r in rows): None for rows in curves}
    for band in distinct:
        axes.fill_between(
            [100 * x for x, _, _ in band],
            [100 * (lower - x) for x, lower, _ in band],
            [100 * (upper - x) for x, _, upper in band],
            color=INK,
            alpha=max(0.14 / len(distinct), 0.04),
            linewidth=0,
        )


def line(axes: "Axes", x: Sequence[Number], y: Sequence[Number], index: int) -> None:
    """A curve in the style of its method."""
    color, marker, dashes = style(index)
    every = max(1, len(x) // 8)
    axes.plot(
        x,
        y,
        color=color,
        linestyle=dashes,
        marker=marker,
        # Shifted, so that markers of methods that agree do not hide each other.
        markevery=(index * every // 4 % every, every),
    )


def finish(
    figure: "Figure", axes: "Axes", document: Document, shown: Sequence[int]
) -> None:
    """The zero line, room above and below, and the legend."""
    axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
    axes.margins(y=0.08)
    labels = distinct_labels(document)
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Line2D([], [], color=s.color, linestyle=s.line, marker=s.marker)
        for s in map(style, shown)
    ]
    names = [shorten(labels[i], LABEL_LENGTH) for i in shown]
    band = Patch(color=INK, alpha=0.14, linewidth=0)
    legend(figure, [*handles, band], [*names, "calibrated, 95 %"], handlelength=3.2)


def legend(
    figure: "Figure",
    handles: Sequence[Any],
    names: Sequence[str],
    *,
    handlelength: float,
) -> None:
    """A legend under the axes: two names a line if they fit, else the page grows."""
    columns = 2 if max(map(len, names), default=0) <= NARROW_LABEL else 1
    if columns == 1:
        more = len(names) - -(-len(names) // 2)
        figure.set_figheight(figure.get_figheight() + 0.2 * more)
    figure.legend(
        handles,
        names,
        loc="outside lower center",
        ncols=columns,
        handlelength=handlelength,
        columnspacing=1.2,
    )


def ends_of(score: Mapping) -> tuple[Number, ...]:
    """The ends of the interval that are known."""
    ends = score.get("interval") or ()
    return tuple(end for end in ends if end is not None)


def no_ticks():
    """No ticks."""
    from matplotlib.ticker import NullLocator

    return NullLocator()


def short(x: Number) -> str:
    """A number on an axis."""
    return f"{x:.4g}".replace("-", formats.MINUS)


def head(axes: "Axes", text: str) -> None:
    """A heading over one of two panels side by side, in lines that fit its width."""
    import textwrap

    axes.set_title(textwrap.fill(text, NARROW_LABEL + 2), fontsize=10)


def panels(
    count: int, height: float, columns: int = 2
) -> "tuple[Figure, Sequence[Axes]]":
    """A grid of axes in reading order, `height` inches a row; what is left is empty."""
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH, 0.7 + height * rows), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid[count:]:
        axes.set_visible(False)
    return figure, grid[:count]


def legend_of(
    figure: "Figure", document: Document, shown: Sequence[int], *, band: bool = False
) -> None:
    """A legend of methods, with the gray band where there is one."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    labels = distinct_labels(document)
    handles: list[Any] = [
        Line2D([], [], color=s.color, linestyle=s.line, marker=s.marker)
        for s in map(style, shown)
    ]
    names = [shorten(labels[i], LABEL_LENGTH) for i in shown]
    if band:
        handles.append(Patch(color=INK, alpha=0.14, linewidth=0))
        names.append("calibrated, 95 %")
    legend(figure, handles, names, handlelength=3.2)
