"""Drawings of a bandit run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ntkuq.report.drawings.canvas import INK, canvas, style


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def regret(document: Mapping[str, Any]) -> Figure:
    """Cumulative regret with its band, beside what random arms come to."""
    figure, axes = canvas(2.9)
    curve, look = document["curve"], style(0)
    t = [point["round"] for point in curve]
    axes.plot(t, [point["mean"] for point in curve], color=look.color, label="policy")
    low, high = (
        np.array([np.nan if p[end] is None else p[end] for p in curve], float)
        for end in ("lower", "upper")
    )
    axes.fill_between(t, low, high, color=look.color, alpha=0.2, linewidth=0)
    rounds, chance = document["rounds"], document["random"]["mean"]
    axes.plot([0, rounds], [0, chance], color=INK, linestyle="--", label="random arms")
    axes.set_xlabel("rounds")
    axes.set_ylabel("cumulative regret")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure


def calibration(document: Mapping[str, Any], name: str, honest: float) -> Figure:
    """A measure of the rewards of the chosen arms, block by block."""
    figure, axes = canvas(2.6)
    blocks = [block for block in document["calibration"] if block["count"]]
    middle = [0.5 * (block["from"] + block["to"]) for block in blocks]
    look = style(0)
    value, low, high = (
        np.array(
            [np.nan if b[name][end] is None else b[name][end] for b in blocks], float
        )
        for end in ("mean", "lower", "upper")
    )
    axes.plot(middle, value, color=look.color, marker=look.marker)
    axes.fill_between(middle, low, high, color=look.color, alpha=0.2, linewidth=0)
    axes.axhline(honest, color=INK, linewidth=0.8, linestyle="--")
    axes.set_xlabel("rounds")
    axes.set_ylabel("held" if name == "coverage_90" else "mean z²")
    axes.set_xlim(0, document["rounds"])
    return figure
