"""Error of what is kept against the share that is kept."""

from typing import TYPE_CHECKING

from ntkuq.report import methods
from ntkuq.report.document import Document

from .canvas import INK, canvas, legend_height, legend_of, line


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def selective(document: Document) -> "Figure":
    """Risk–coverage curves, with the interval of the lowest one."""
    shown = methods.with_curve(document, "selective")
    figure, axes = canvas(3.1 + legend_height(shown))
    scale = 1.0 if methods.is_regression(document) else 100.0
    curves = {i: methods.curve_rows(document["methods"][i], "selective") for i in shown}
    lowest = min(shown, key=lambda i: sum(row[1] for row in curves[i]) / len(curves[i]))
    axes.fill_between(
        [100 * row[0] for row in curves[lowest]],
        [scale * row[2] for row in curves[lowest]],
        [scale * row[3] for row in curves[lowest]],
        color=INK,
        alpha=0.14,
        linewidth=0,
    )
    for i in shown:
        x = [100 * row[0] for row in curves[i]]
        line(axes, x, [scale * row[1] for row in curves[i]], i)
    axes.set_xlim(0, 100)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("predictions that are kept, %")
    axes.set_ylabel("mean squared error" if scale == 1 else "errors among them, %")
    legend_of(figure, document, shown)
    return figure
