"""Score against the time to fit."""

from typing import TYPE_CHECKING

from ntkuq.report import formats
from ntkuq.report.document import Document
from ntkuq.report.escape import shorten
from ntkuq.report.formats import Number
from ntkuq.report.methods import cost_points, distinct_labels, score_name, thin


if TYPE_CHECKING:
    from matplotlib.figure import Figure

from .canvas import (
    LABEL_LENGTH,
    canvas,
    ends_of,
    legend,
    legend_height,
    no_ticks,
    style,
)


def price(document: Document) -> "Figure":
    """The ranked score of every method against its time to fit."""
    points = cost_points(document)
    shown = [index for index, _, _ in points]
    figure, axes = canvas(2.7 + legend_height(shown))
    for index, duration, score in points:
        color, marker, _ = style(index)
        ends = ends_of(score)
        if len(ends) == 2:
            axes.plot([duration, duration], ends, color=color, linewidth=1.5)
        axes.plot(duration, score["value"], marker=marker, color=color, markersize=8)
    axes.set_xscale("log")
    low, high = min(d for _, d, _ in points), max(d for _, d, _ in points)
    axes.set_xlim(low / 2, high * 2)
    axes.xaxis.set_major_locator(_time_ticks(low / 2, high * 2))
    axes.xaxis.set_minor_locator(no_ticks())
    axes.xaxis.set_major_formatter(lambda x, _: formats.seconds(x).replace(".0", ""))
    axes.margins(y=0.1)
    axes.set_xlabel("time to fit")
    axes.set_ylabel(score_name((document["comparison"] or {}).get("score", "nll")))
    from matplotlib.lines import Line2D

    labels = distinct_labels(document)
    legend(
        figure,
        [
            Line2D([], [], color=s.color, marker=s.marker, linestyle="none")
            for s in map(style, shown)
        ],
        [shorten(labels[i], LABEL_LENGTH) for i in shown],
        handlelength=1,
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
