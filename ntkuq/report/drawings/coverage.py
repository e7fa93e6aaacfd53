"""Observed coverage minus its nominal level."""

from typing import TYPE_CHECKING

from ntkuq.report.document import Document
from ntkuq.report.methods import curve_rows, with_curve


if TYPE_CHECKING:
    from matplotlib.figure import Figure

from .canvas import bands, canvas, finish, legend_height, line


def coverage(document: Document) -> "Figure":
    """Observed minus nominal coverage, a curve a method."""
    shown = with_curve(document, "coverage")
    figure, axes = canvas(3.1 + legend_height(shown))
    methods = document["methods"]
    bands(axes, [curve_rows(methods[i], "coverage") for i in shown])
    for i in shown:
        rows = curve_rows(methods[i], "coverage")
        x = [100 * level for level, *_ in rows]
        y = [100 * (observed - level) for level, observed, *_ in rows]
        line(axes, x, y, i)
    axes.set_xlim(0, 100)
    axes.set_xlabel("nominal level of the interval, %")
    axes.set_ylabel("observed − nominal, points")
    finish(figure, axes, document, shown)
    return figure
