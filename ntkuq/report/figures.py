"""Drawings of a run document, as matplotlib figures and as SVG for a page.

`draw` returns a figure to save in any format; `svg` returns text for a page: no script,
text kept as text, ink in the color of the page (so that dark mode needs nothing), ids
that are unique on the page, and the same bytes every time. Matplotlib's global settings
are neither read nor changed.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.sax.saxutils import escape

from . import formats
from .document import Document
from .escape import shorten
from .formats import Number
from .methods import (
    best_index,
    cost_points,
    curve_rows,
    differences,
    distinct_labels,
    score_name,
    thin,
    with_curve,
)


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"  # stands for the text color of the page
WIDTH = 5.4  # inches
LABEL_LENGTH = 30  # characters of a method's label in a legend

# Okabe and Ito's palette, black replaced by the ink and yellow by gray.
COLORS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", INK, "#8c8c8c",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
LINES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (9, 2)))

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
    "legend.fontsize": 9.5,
    "font.family": "sans-serif",
    "font.size": 10,
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
}


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
    if key not in _DRAWINGS:
        raise ValueError(f"no figure {key!r}; there are {', '.join(_DRAWINGS)}")
    with _settings():
        return _DRAWINGS[key](document)


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
        figure = _DRAWINGS[key](document)
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


# ---- the drawings ----------------------------------------------------------------


def _differences(document: Document) -> "Figure":
    paired = differences(document)
    best = best_index(document)
    rows = [
        (i, d)
        for i, d in enumerate(paired)
        if i == best or (d is not None and d["value"] is not None)
    ]
    figure, axes = _canvas(0.9 + 0.34 * len(rows))
    labels = distinct_labels(document)
    for place, (i, difference) in enumerate(rows):
        color, marker, _ = style(i)
        told = bool((difference or {}).get("distinguishable"))
        value = difference["value"] if difference else 0.0
        ends = (difference or {}).get("interval")
        if ends and None not in ends:
            axes.plot(ends, [place, place], color=color, linewidth=2, zorder=2)
        axes.plot(
            value,
            place,
            marker=marker,
            color=color,
            markerfacecolor=color if told or i == best else "none",
            markeredgewidth=1.5,
            markersize=7,
            linestyle="none",
            zorder=3,
        )
    names = [
        shorten(labels[i], LABEL_LENGTH - (8 if i == best else 0))
        + (" (best)" if i == best else "")
        for i, _ in rows
    ]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.axvline(0, color=INK, linewidth=0.8, zorder=1)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("difference (right is worse)")
    values = [x for _, d in rows if d for x in (d["value"], *_ends(d))]
    _compress(axes, values)
    axes.xaxis.set_major_formatter(lambda x, _: _short(x))
    return figure


def _ends(score: Mapping) -> tuple[Number, ...]:
    ends = score.get("interval") or ()
    return tuple(end for end in ends if end is not None)


def _compress(axes: "Axes", values: Sequence[Number]) -> None:
    """A logarithmic axis far from zero if one value would hide the others."""
    sizes = sorted(abs(x) for x in values if x != 0)
    typical = sizes[len(sizes) // 2] if sizes else 0.0
    if not typical or sizes[-1] <= 30 * typical:
        return
    threshold = 2 * typical
    axes.set_xscale("symlog", linthresh=threshold)
    axes.xaxis.set_major_locator(_symmetric_ticks(threshold))
    axes.xaxis.set_minor_locator(_no_ticks())
    low, high = min(0.0, *values), max(0.0, *values)
    axes.set_xlim(1.5 * low - threshold / 4, 1.5 * high + threshold / 4)
    axes.set_xlabel("difference (right is worse; scale is compressed)")


def _coverage(document: Document) -> "Figure":
    shown = with_curve(document, "coverage")
    figure, axes = _canvas(3.1 + _legend_height(shown))
    methods = document["methods"]
    _bands(axes, [curve_rows(methods[i], "coverage") for i in shown])
    for i in shown:
        rows = curve_rows(methods[i], "coverage")
        x = [100 * level for level, *_ in rows]
        y = [100 * (observed - level) for level, observed, *_ in rows]
        _line(axes, x, y, i)
    axes.set_xlim(0, 100)
    axes.set_xlabel("nominal level of the interval, %")
    axes.set_ylabel("observed − nominal, points")
    _finish(figure, axes, document, shown)
    return figure


def _shape(document: Document) -> "Figure":
    shown = with_curve(document, "pit")
    figure, axes = _canvas(3.1 + _legend_height(shown))
    methods = document["methods"]
    _bands(axes, [curve_rows(methods[i], "pit") for i in shown])
    for i in shown:
        rows = curve_rows(methods[i], "pit")
        x = [100 * grid for grid, *_ in rows]
        y = [100 * (ecdf - grid) for grid, ecdf, *_ in rows]
        _line(axes, x, y, i)
    axes.set_xlim(0, 100)
    axes.set_xlabel("predicted quantile, %")
    axes.set_ylabel("share below it − expected, points")
    _finish(figure, axes, document, shown)
    return figure


def _bands(axes: "Axes", curves: Sequence[Sequence[tuple[Number, ...]]]) -> None:
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


def _line(axes: "Axes", x: Sequence[Number], y: Sequence[Number], index: int) -> None:
    color, marker, line = style(index)
    every = max(1, len(x) // 8)
    axes.plot(
        x,
        y,
        color=color,
        linestyle=line,
        marker=marker,
        # Shifted, so that markers of methods that agree do not hide each other.
        markevery=(index * every // 4 % every, every),
    )


def _finish(
    figure: "Figure", axes: "Axes", document: Document, shown: Sequence[int]
) -> None:
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
    figure.legend(
        [*handles, Patch(color=INK, alpha=0.14, linewidth=0)],
        [*names, "calibrated, 95 %"],
        loc="outside lower center",
        ncols=2,
        handlelength=3.2,
        columnspacing=1.5,
    )


def _reliability(document: Document) -> "Figure":
    shown = with_curve(document, "reliability")
    columns = 2 if len(shown) > 1 else 1
    lines = -(-len(shown) // columns)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 0.5 + 2.1 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    labels = distinct_labels(document)
    for place, axes in enumerate(grid.flat):
        if place >= len(shown):
            axes.set_visible(False)
            continue
        index = shown[place]
        rows = curve_rows(document["methods"][index], "reliability")
        _reliability_panel(axes, rows, style(index))
        axes.set_title(shorten(labels[index], LABEL_LENGTH), fontsize=10)
        axes.tick_params(labelbottom=place + columns >= len(shown))
    figure.supxlabel("stated confidence, %", fontsize=10)
    figure.supylabel("accuracy − confidence, points", fontsize=10)
    return figure


def _reliability_panel(
    axes: "Axes", rows: Sequence[tuple[Number, ...]], look: Style
) -> None:
    rows = sorted(thin(rows, 60))
    x = [100 * confidence for confidence, *_ in rows]
    y = [100 * (accuracy - confidence) for confidence, accuracy, *_ in rows]
    counts = [row[2] for row in rows]
    most = max(*counts, 1)
    axes.fill_between(
        x,
        [100 * (lower - confidence) for confidence, _, _, lower, _ in rows],
        [100 * (upper - confidence) for confidence, _, _, _, upper in rows],
        color=INK,
        alpha=0.14,
        linewidth=0,
    )
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.plot(x, y, color=look.color, linewidth=1)
    for a, b, count in zip(x, y, counts, strict=True):
        share = count / most
        axes.plot(
            a,
            b,
            marker=look.marker,
            color=look.color,
            markersize=3 + 5 * share**0.5,
            alpha=0.35 + 0.65 * share**0.5,
            markeredgewidth=0,
        )
    bars = axes.inset_axes((0, 0, 1, 0.14), sharex=axes)
    bars.bar(x, counts, width=1.2, color=look.color, alpha=0.6, linewidth=0)
    bars.set_ylim(0, most)
    bars.axis("off")
    axes.margins(y=0.25)


def _price(document: Document) -> "Figure":
    points = cost_points(document)
    shown = [index for index, _, _ in points]
    figure, axes = _canvas(2.7 + _legend_height(shown))
    for index, duration, score in points:
        color, marker, _ = style(index)
        ends = _ends(score)
        if len(ends) == 2:
            axes.plot([duration, duration], ends, color=color, linewidth=1.5)
        axes.plot(duration, score["value"], marker=marker, color=color, markersize=8)
    axes.set_xscale("log")
    low, high = min(d for _, d, _ in points), max(d for _, d, _ in points)
    axes.set_xlim(low / 2, high * 2)
    axes.xaxis.set_major_locator(_time_ticks(low / 2, high * 2))
    axes.xaxis.set_minor_locator(_no_ticks())
    axes.xaxis.set_major_formatter(lambda x, _: formats.seconds(x).replace(".0", ""))
    axes.margins(y=0.1)
    axes.set_xlabel("time to fit")
    axes.set_ylabel(score_name((document["comparison"] or {}).get("score", "nll")))
    from matplotlib.lines import Line2D

    labels = distinct_labels(document)
    figure.legend(
        [
            Line2D([], [], color=s.color, marker=s.marker, linestyle="none")
            for s in map(style, shown)
        ],
        [shorten(labels[i], LABEL_LENGTH) for i in shown],
        loc="outside lower center",
        ncols=2,
        handlelength=1,
        columnspacing=1.5,
    )
    return figure


def _time_ticks(low: Number, high: Number):
    from matplotlib.ticker import FixedLocator

    round_times = (
        *(10.0**power for power in range(-6, 1)),
        10.0, 60.0, 600.0, 3600.0, 36000.0, 360000.0, 3600000.0,
    )  # fmt: skip
    inside = [t for t in round_times if low <= t <= high]
    return FixedLocator(thin(inside, 6) if inside else [(low * high) ** 0.5])


def _symmetric_ticks(threshold: Number):
    from matplotlib.ticker import SymmetricalLogLocator

    return SymmetricalLogLocator(base=10, linthresh=threshold)


def _no_ticks():
    from matplotlib.ticker import NullLocator

    return NullLocator()


def _short(x: Number) -> str:
    return f"{x:.4g}".replace("-", formats.MINUS)


def _canvas(height: float) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _legend_height(shown: Sequence[int]) -> float:
    return 0.2 * -(-(len(shown) + 1) // 2)


_DRAWINGS: Mapping[str, Callable[[Document], "Figure"]] = {
    "differences": _differences,
    "coverage": _coverage,
    "shape": _shape,
    "reliability": _reliability,
    "price": _price,
}
