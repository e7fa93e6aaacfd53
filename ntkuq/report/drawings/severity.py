"""Scores against the severity of shifts, averaged over their kinds."""

from typing import TYPE_CHECKING

from ntkuq.report import methods
from ntkuq.report.document import Document
from ntkuq.report.sections.knows import SEVERITY

from .canvas import legend_of, panels, style


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def severity(document: Document) -> "Figure":
    """A panel a score, a line a method."""
    shown = methods.with_entry(document, "severity")
    columns = SEVERITY[methods.is_regression(document)]
    figure, grid = panels(len(columns), 2.2)
    for axes, (name, heading, percentage) in zip(grid, columns, strict=True):
        scale = 100 if percentage else 1
        for i in shown:
            color, marker, dashes = style(i)
            points = _averages(document, i, name)
            axes.plot(
                list(points),
                [scale * value for value, _ in points.values()],
                color=color,
                marker=marker,
                linestyle=dashes,
            )
            for x, (value, se) in points.items():
                ends = [scale * (value - 1.96 * se), scale * (value + 1.96 * se)]
                axes.plot([x, x], ends, color=color, linewidth=1, alpha=0.7)
        axes.set_title(heading, fontsize=10)
        axes.margins(y=0.1)
    figure.supxlabel("severity of the shift", fontsize=10)
    legend_of(figure, document, shown)
    return figure


def _averages(
    document: Document, index: int, name: str
) -> dict[int, tuple[float, float]]:
    """Mean over the kinds of shift, and its standard error over test points.

    The kinds share the test points, so their errors are taken to be in step: the
    standard error of the mean is the mean of the standard errors, which is an upper
    bound.
    """
    found: dict[int, list[tuple[float, float]]] = {}
    for one in document["methods"][index]["severity"]:
        score = one["scores"].get(name) or {}
        if score.get("value") is not None:
            pair = (score["value"], score.get("se") or 0.0)
            found.setdefault(one["severity"], []).append(pair)
    return {
        level: (
            sum(v for v, _ in pairs) / len(pairs),
            sum(s for _, s in pairs) / len(pairs),
        )
        for level, pairs in sorted(found.items())
    }
