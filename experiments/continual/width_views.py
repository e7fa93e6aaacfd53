"""Table and figure of the width study, from its document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


#: Okabe and Ito's colors, then gray; one a way of training, with a marker.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555")
MARKERS = "osD^vP*Xh"


def widths_of(document: dict[str, Any], name: str) -> list[int]:
    """The widths of an arm: an arm of deep networks ends earlier."""
    size = len(document["arms"][name]["forgetting"][0])
    return document["widths"][:size]


def markdown(document: dict[str, Any]) -> str:
    """The table of the documentation, from a stored run."""
    heads = (
        "way of training",
        "widths",
        "learned",
        "forgotten",
        "exponent of forgetting",
        "of relative forgetting",
        "of distance",
        "partial correlation",
    )
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, arm in document["arms"].items():
        widths = widths_of(document, name)
        learned, lost = (np.mean(arm[key], axis=0) for key in ("learned", "forgetting"))
        cells = [
            name,
            f"{widths[0]} to {widths[-1]}",
            f"{learned[0]:.2f} to {learned[-1]:.2f}",
            f"{lost[0]:.3f} to {lost[-1]:.3f}",
            *(_claim(document, text, name) for text in STATEMENTS),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    stopping = [claim for claim in document["claims"] if claim["number"] == 19]
    after = [
        f"{claim['statement'][:1].upper()}{claim['statement'][1:]}: {claim['word']}, "
        f"{_interval(claim['statistic'])}."
        for claim in stopping
        if claim["statistic"] is not None
    ]
    cost = (
        f"{document['seeds']} seeds, {document['seconds'] / 60:.0f} minutes of wall "
        f"time and {document['processor seconds'] / 60:.0f} of processors on "
        f"{document['machine']['cores']} cores (load average {document['load']:.0f} at "
        "the end)."
    )
    return "\n".join([*lines, "", " ".join([*after, cost])])


#: Statements whose statistics are the last columns.
STATEMENTS = (
    "width reduces forgetting",
    "width reduces relative forgetting",
    "wider networks move less from initialization",
    "width acts through laziness alone",
)


def _claim(document: dict[str, Any], statement: str, name: str) -> str:
    text = f"{statement} ({name})"
    (claim,) = (one for one in document["claims"] if one["statement"] == text)
    if claim["statistic"] is None:
        return "not tested"
    return f"{_interval(claim['statistic'])}, {claim['word']}"


def _interval(score: dict[str, Any]) -> str:
    if score["interval"] is None or None in score["interval"]:
        return f"{score['value']:.3f} (no interval)"
    low, high = score["interval"]
    return f"{score['value']:.3f} [{low:.3f}, {high:.3f}]"


def figure(document: dict[str, Any], path: Path) -> None:
    """Forgetting, and the distance from initialization, against width.

    Lines are means over seeds, bars from the least to the largest of them.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    drawn = Figure(figsize=(8, 4.2), layout="constrained")
    left, right = drawn.subplots(1, 2)
    for number, (name, arm) in enumerate(document["arms"].items()):
        look = {
            "color": COLORS[number % len(COLORS)],
            "marker": MARKERS[number % len(MARKERS)],
            "linestyle": "-" if number < len(COLORS) else "--",
            "markersize": 4,
            "linewidth": 1.2,
            "capsize": 2,
            "elinewidth": 0.8,
        }
        # a little apart, so that bars can be told from each other
        x = np.array(widths_of(document, name)) * 2 ** (0.06 * (number - 4))
        for axes, key in ((left, "forgetting"), (right, "distance")):
            values = np.array(arm[key])
            mean = values.mean(axis=0)
            bars = (mean - values.min(axis=0), values.max(axis=0) - mean)
            axes.errorbar(x, mean, bars, label=name if axes is left else None, **look)
    left.set_ylim(bottom=0)
    right.set_yscale("log")
    # less than a decade has few ticks of its own
    right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.minorticks_off()
    left.set_ylabel("average forgetting\nof the earlier tasks")
    right.set_ylabel("distance of the weights from their start\nover their norm there")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(document["widths"], [str(w) for w in document["widths"]])
        axes.xaxis.minorticks_off()
        axes.set_xlabel("width")
        axes.spines[["top", "right"]].set_visible(False)
    drawn.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, metadata={"Date": None})
