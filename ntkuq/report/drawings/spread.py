"""Errors over predicted spread, by predicted spread."""

from typing import TYPE_CHECKING

from ntkuq.report import methods
from ntkuq.report.document import Document

from .canvas import INK, canvas, legend_height, legend_of, line, no_ticks, short


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
        axis.set_major_locator(_few_ticks(*axis.get_view_interval()))
        axis.set_minor_locator(no_ticks())
        axis.set_major_formatter(lambda x, _: short(x))
    axes.set_xlabel("predicted standard deviation")
    axes.set_ylabel("error ÷ predicted")
    legend_of(figure, document, shown, band=True)
    return figure


def _few_ticks(low: float, high: float):
    """One, two and five times powers of ten, or round numbers of a short range."""
    from matplotlib.ticker import FixedLocator, MaxNLocator

    series = [m * 10.0**power for power in range(-12, 13) for m in (1, 2, 5)]
    inside = [tick for tick in series if low <= tick <= high]
    if len(inside) < 2:
        inside = [t for t in MaxNLocator(4).tick_values(low, high) if low <= t <= high]
    return FixedLocator(methods.thin(inside, 5))
