"""Before and after a repair, a panel for each of them."""

from typing import TYPE_CHECKING

from ntkuq.report import methods
from ntkuq.report.document import Document
from ntkuq.report.rules import TOLERANCE
from ntkuq.report.sections.after import repair_names, repaired

from .canvas import INK, ends_of, head, legend_of, panels, style


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def after(document: Document) -> "Figure":
    """Coverage against width, or calibration error: hollow before, filled after."""
    shown = methods.with_entry(document, "after")
    regression = methods.is_regression(document)
    names = [
        name
        for name in repair_names(document)
        if any(_point(document, i, name, regression) for i in shown)
    ]
    figure, grid = panels(max(len(names), 1), 2.2)
    for axes, name in zip(grid, names or ["no repair"], strict=False):
        for i in shown:
            _pair(axes, document, i, name, regression)
        head(axes, name)
        if regression:
            axes.axhspan(-100 * TOLERANCE, 100 * TOLERANCE, color=INK, alpha=0.1, lw=0)
            axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
        axes.margins(0.1)
    if regression:
        for axes in grid[-2:]:
            axes.set_xlabel("mean width")
        figure.supylabel("coverage − 90 %, points", fontsize=10)
    else:
        for axes in grid:
            axes.set_xlim(-0.5, len(shown) - 0.5)
            axes.set_xticks([])
            axes.set_ylim(bottom=0)
        figure.supylabel("calibration error, points", fontsize=10)
    legend_of(figure, document, shown)
    return figure


def _pair(
    axes: "Axes", document: Document, index: int, name: str, regression: bool
) -> None:
    color, marker, _ = style(index)
    before = _point(document, index, None, regression)
    found = _point(document, index, name, regression)
    if before is None or found is None:
        return
    place = methods.with_entry(document, "after").index(index)
    both = (
        [before, found] if regression else [(place, *before[1:]), (place, *found[1:])]
    )
    axes.plot(
        [x for x, *_ in both],
        [y for _, y, _ in both],
        color=color,
        linewidth=0.8,
        alpha=0.6,
        zorder=2,
    )
    for (x, y, ends), fill in zip(both, ("none", color), strict=True):
        if len(ends) == 2:
            axes.plot([x, x], ends, color=color, linewidth=1, zorder=2)
        axes.plot(x, y, marker=marker, color=color, markerfacecolor=fill, zorder=3)


def _point(
    document: Document, index: int, name: str | None, regression: bool
) -> tuple[float, float, list[float]] | None:
    """Width, gap in points, and the ends of its interval; None where not known."""
    method = document["methods"][index]
    scores = method.get("scores") if name is None else repaired(method, name)
    main = (scores or {}).get("coverage_90" if regression else "ece") or {}
    width = (scores or {}).get("width_90") or {}
    if main.get("value") is None or (regression and width.get("value") is None):
        return None
    zero = 0.9 if regression else 0.0
    ends = [100 * (end - zero) for end in ends_of(main)]
    return width.get("value") or 0.0, 100 * (main["value"] - zero), ends
