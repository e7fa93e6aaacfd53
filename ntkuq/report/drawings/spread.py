"""Errors over predicted spread, by predicted spread."""

from typing import TYPE_CHECKING

from ntkuq.report import methods
from ntkuq.report.document import Document

from .canvas import INK, canvas, legend_height, legend_of, line, short


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def spread(document: Document) -> "Figure":
    """The ratio on a logarithmic axis, one a calibrated spread."""
    shown = methods.with_curve(document, "spread")
    figure, axes = canvas(3.1 + legend_height(shown))
    curves = {i: methods.curve_rows(document["methods"][i], "spread") for i in shown}
    low = min(row[3] for rows in curves.values() for row in rows)
    high = max(row[4] for rows in curves.values() for row in rows)
    # the widest band of all bins, since each method has its own
    axes.axhspan(low, high, color=INK, alpha=0.14, linewidth=0)
    for i in shown:
        line(axes, [row[0] for row in curves[i]], [row[1] for row in curves[i]], i)
    axes.axhline(1, color=INK, linewidth=0.8, zorder=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda x, _: short(x))
        axis.set_minor_formatter(lambda x, _: short(x))
    axes.tick_params(which="minor", labelsize=8)
    axes.set_xlabel("predicted standard deviation")
    axes.set_ylabel("error ÷ predicted")
    legend_of(figure, document, shown, band=True)
    return figure
