"""Drawings of a continual run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ntkuq.report.drawings.canvas import canvas, style
from ntkuq.report.escape import shorten


if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Tasks beyond which a legend would not fit.
MOST = 8
#: Characters of a task's name of which four stand in a line.
SHORT = 8


def matrix(document: Mapping[str, Any]) -> Figure:
    """Performance on each task (columns) after each task (rows), mean over seeds."""
    values = np.mean(document["measures"][document["main"]], axis=0)
    size = len(values)
    figure, axes = canvas(1.3 + 0.28 * max(size, 4))
    low = 0.0 if document["main"] == "accuracy" else min(0.0, float(np.min(values)))
    # cells, not an image: a page loads none
    edges = np.arange(size + 1) - 0.5
    axes.pcolormesh(edges, edges, values, vmin=low, vmax=1.0, cmap="Blues")
    axes.invert_yaxis()
    if size <= MOST + 2:
        # the blue on which white and black are read equally well
        middle = low + 0.65 * (1.0 - low)
        for row, column in np.ndindex(values.shape):
            value = values[row, column]
            color = "white" if value > middle else "black"
            axes.text(
                *(column, row, f"{value:.2f}"),
                ha="center",
                va="center",
                fontsize=8,
                color=color,
            )
    axes.set_xlabel("tested on task")
    axes.set_ylabel("after task")
    ticks = range(0, size, max(1, size // 10))
    axes.set_xticks(ticks, [str(t + 1) for t in ticks])
    axes.set_yticks(ticks, [str(t + 1) for t in ticks])
    return figure


def over_time(document: Mapping[str, Any], name: str) -> Figure:
    """A measure on the tasks met so far, after each task, with its interval."""
    scores = document["over_time"][name]
    figure, axes = canvas(2.6)
    x = np.arange(1, len(scores) + 1)
    look = style(0)
    y = [np.nan if s["value"] is None else s["value"] for s in scores]
    axes.plot(x, y, color=look.color, marker=look.marker)
    ends = [s["interval"] or (np.nan, np.nan) for s in scores]
    low, high = np.array(ends, float).T
    axes.fill_between(x, low, high, color=look.color, alpha=0.2, linewidth=0)
    axes.set_xlabel("tasks learned")
    axes.set_ylabel(name)
    axes.set_xticks(x[:: max(1, len(x) // 10)])
    return figure


def each_task(document: Mapping[str, Any], name: str) -> Figure:
    """A measure of each of the first tasks, from when it was learned, mean of seeds."""
    values = np.mean(np.array(document["measures"][name], float), axis=0)
    size = len(values)
    names = [shorten(name, 16) for name in document["tasks"][:MOST]]
    columns = 4 if max(map(len, names)) <= SHORT else 2
    figure, axes = canvas(2.5 + 0.18 * -(-len(names) // columns))
    for task in range(min(size, MOST)):
        look = style(task)
        axes.plot(
            np.arange(task, size) + 1,
            values[task:, task],
            color=look.color,
            marker=look.marker,
            linestyle=look.line,
            markersize=3,
            label=names[task],
        )
    axes.set_xlabel("tasks learned")
    axes.set_ylabel(name)
    axes.set_xticks(np.arange(1, size + 1)[:: max(1, size // 10)])
    figure.legend(loc="outside lower center", ncols=columns, fontsize=8)
    return figure
