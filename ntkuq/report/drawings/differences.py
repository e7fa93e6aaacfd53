"""Paired differences to the best method."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ntkuq.report import methods
from ntkuq.report.document import Document
from ntkuq.report.escape import shorten
from ntkuq.report.formats import Number


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

from .canvas import INK, NARROW_LABEL, canvas, ends_of, no_ticks, short, style


def differences(document: Document) -> "Figure":
    """A forest of intervals, the best method at zero."""
    paired = methods.differences(document)
    best = methods.best_index(document)
    rows = [
        (i, d)
        for i, d in enumerate(paired)
        if i == best or (d is not None and d["value"] is not None)
    ]
    labels = methods.distinct_labels(document)
    names = [_lines(labels[i], best=i == best) for i, _ in rows]
    lines = max(map(len, names))
    figure, axes = canvas(0.9 + (0.34 + 0.1 * max(lines - 2, 0)) * len(rows))
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
    axes.set_yticks(range(len(rows)), ["\n".join(name) for name in names])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.axvline(0, color=INK, linewidth=0.8, zorder=1)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("difference (right is worse)")
    values = [x for _, d in rows if d for x in (d["value"], *ends_of(d))]
    _compress(axes, values)
    axes.xaxis.set_major_formatter(lambda x, _: short(x))
    return figure


def _lines(label: str, *, best: bool) -> list[str]:
    """A label on two lines at most, and whether it is the best."""
    parts = textwrap.wrap(shorten(label, 2 * NARROW_LABEL), NARROW_LABEL)
    if len(parts) > 2:
        parts = [parts[0], shorten(" ".join(parts[1:]), NARROW_LABEL)]
    return parts + (["(best)"] if best else [])


def _compress(axes: "Axes", values: Sequence[Number]) -> None:
    """A logarithmic axis far from zero if one value would hide the others."""
    sizes = sorted(abs(x) for x in values if x != 0)
    typical = sizes[len(sizes) // 2] if sizes else 0.0
    if not typical or sizes[-1] <= 30 * typical:
        return
    threshold = 2 * typical
    axes.set_xscale("symlog", linthresh=threshold)
    axes.xaxis.set_major_locator(_symmetric_ticks(threshold))
    axes.xaxis.set_minor_locator(no_ticks())
    low, high = min(0.0, *values), max(0.0, *values)
    axes.set_xlim(1.5 * low - threshold / 4, 1.5 * high + threshold / 4)
    axes.set_xlabel("difference (right is worse;\nscale is compressed)")


def _symmetric_ticks(threshold: Number):
    from matplotlib.ticker import SymmetricalLogLocator

    return SymmetricalLogLocator(base=10, linthresh=threshold)
