"""Scores against the severity of shifts, averaged over their kinds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ntkuq.report import methods
from ntkuq.report.document import Document
from ntkuq.report.sections.knows import MEAN, SEVERITY

from .canvas import ends_of, head, legend_of, panels, style


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
            for x, (_, ends) in points.items():
                if len(ends) == 2:
                    both = [scale * end for end in ends]
                    axes.plot([x, x], both, color=color, linewidth=1, alpha=0.7)
        head(axes, heading)
        axes.margins(y=0.1)
        axes.set_xlabel("severity")
    legend_of(figure, document, shown)
    return figure


def _averages(
    document: Document, index: int, name: str
) -> dict[int, tuple[float, Sequence[float]]]:
    """Severity -> the mean over the kinds of shift and its interval."""
    return {
        one["severity"]: (one["scores"][name]["value"], ends_of(one["scores"][name]))
        for one in document["methods"][index]["severity"]
        if one["shift"] == MEAN
        and (one["scores"].get(name) or {}).get("value") is not None
    }
