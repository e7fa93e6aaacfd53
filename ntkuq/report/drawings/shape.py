"""The distribution of the probability integral transforms."""

from typing import TYPE_CHECKING

from ntkuq.report.document import Document
from ntkuq.report.methods import curve_rows, with_curve


if TYPE_CHECKING:
    from matplotlib.figure import Figure

from .canvas import bands, canvas, finish, legend_height, line


def shape(document: Document) -> "Figure":
    """The distribution function of the transforms, minus the uniform one."""
    shown = with_curve(document, "pit")
    figure, axes = canvas(3.1 + legend_height(shown))
    methods = document["methods"]
    bands(axes, [curve_rows(methods[i], "pit") for i in shown])
    for i in shown:
        rows = curve_rows(methods[i], "pit")
        x = [100 * grid for grid, *_ in rows]
        y = [100 * (ecdf - grid) for grid, ecdf, *_ in rows]
        line(axes, x, y, i)
    axes.set_xlim(0, 100)
    axes.set_xlabel("predicted quantile, %")
    axes.set_ylabel("share below it − expected, points")
    finish(figure, axes, document, shown)
    return figure
