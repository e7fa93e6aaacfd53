"""Figures of the study of conditions; none infers speed from C′."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.optimization.summary import (
    METHODS,
    Group,
    Row,
    limit_of,
    outcomes,
)
from ntkuq.optimization import link
from ntkuq.optimization.kernel_regime.rates import RATES


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's colors, and markers, by parametrization.
STYLES = {
    "standard": ("#0072b2", "o"),
    "ntk": ("#d55e00", "s"),
    "mup": ("#009e73", "^"),
}
NAMES = {"standard": "standard", "ntk": "NTK", "mup": "μP"}
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#444444")


def written(figure: Figure, folder: Path, name: str) -> None:
    """Write a figure as PNG and SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", dpi=150)
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _grid(found: list[Group], title: str) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """A row for each set of data, a column for each network."""
    from matplotlib.figure import Figure

    data = _unique(group.data for group in found)
    networks = _unique(group.network for group in found)
    size = (max(2.4 * len(networks), 4.8), 2.1 * len(data) + 1.3)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(data), len(networks), squeeze=False)
    lines = textwrap.wrap(title, int(15 * size[0]))
    figure.suptitle("\n".join(lines), fontsize=9)
    cells = {}
    for i, row in enumerate(data):
        for j, column in enumerate(networks):
            cells[row, column] = axes[i, j]
            axes[i, j].set_title(f"{column}, {row}", fontsize=8)
            axes[i, j].tick_params(labelsize=7)
            if not any((g.data, g.network) == (row, column) for g in found):
                axes[i, j].set_axis_off()
                axes[i, j].set_title("")
    return figure, cells


def _lines(
    axes: Axes, found: list[Group], value: Callable[[Row], float], **style: Any
) -> None:
    """Each seed as a point, their geometric mean as a line."""
    widths, means = [], []
    color, marker = STYLES[found[0].parametrization]
    for group in found:
        values = [value(row) for row in group.known]
        values = [one for one in values if one > 0]
        if values:
            widths.append(group.width)
            means.append(float(np.exp(np.mean(np.log(values)))))
            axes.plot(
                [group.width] * len(values),
                values,
                marker,
                color=color,
                ms=3,
                alpha=0.6,
            )
    axes.plot(widths, means, color=color, lw=1.2, **style)


def _against_width(
    found: list[Group], title: str, draw: Callable[[Axes, list[Group]], None]
) -> Figure:
    figure, cells = _grid(found, title)
    for (data, network), axes in cells.items():
        for parametrization in STYLES:
            same = [
                g
                for g in found
                if (g.data, g.network, g.parametrization)
                == (data, network, parametrization)
            ]
            if same:
                draw(axes, same)
                axes.set_xscale("log", base=2)
                axes.set_yscale("log")
                axes.set_xlabel("width", fontsize=7)
    first = next(axes for axes in cells.values() if axes.get_legend_handles_labels()[0])
    handles, labels = first.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=2, fontsize=7, frameon=False
    )
    return figure


def smallest_eigenvalue(found: list[Group], limits: list[Row]) -> Figure:
    """λ_min against width, with that of infinite width."""

    def draw(axes: Axes, same: list[Group]) -> None:
        color, _ = STYLES[same[0].parametrization]
        name = NAMES[same[0].parametrization]
        _lines(axes, same, lambda row: row["least"], label=name)
        axes.plot(
            [group.width for group in same],
            [limit_of(limits, group)["least"] for group in same],
            color=color,
            ls="--",
            lw=0.9,
            label=f"{name}, infinite width",
        )

    title = "Smallest eigenvalue of the tangent kernel (points: seeds)"
    return _against_width(found, title, draw)


def stability(found: list[Group], limits: list[Row]) -> Figure:
    """C′ against width: all probes, and those on the natural-gradient path."""
    del limits

    def draw(axes: Axes, same: list[Group]) -> None:
        name = NAMES[same[0].parametrization]
        _lines(axes, same, lambda row: row["constant"], label=f"{name}, all probes")
        path = "natural-gradient path"
        _lines(
            axes,
            same,
            lambda row: row["constants"][path],
            label=f"{name}, {path}",
            ls=":",
        )
        axes.axhline(0.5, color="#444444", lw=0.8)

    title = (
        "C′, largest over probes, and the bound 1/2 of the sufficient condition. "
        "Infinite width: 0 in the standard and NTK parametrizations, not in μP"
    )
    return _against_width(found, title, draw)


def losses(found: list[Group], limits: list[Row], parametrization: str) -> Figure:
    """Loss curves of the widest networks, one figure cell for each."""
    del limits
    figure, cells = _grid(
        found,
        "Squared residual as a share of the first, each seed; the widest networks, "
        f"parametrization {NAMES[parametrization]}",
    )
    for (data, network), axes in cells.items():
        same = [
            g
            for g in found
            if (g.data, g.network, g.parametrization)
            == (data, network, parametrization)
            and g.known
        ]
        if not same:
            continue
        widest = max(same, key=lambda group: group.width)
        for method, color in zip(METHODS, COLORS, strict=True):
            for number, row in enumerate(widest.known):
                curve = row["curves"][method]
                steps = np.asarray(curve["steps"]) + 1
                squares = np.array(curve["squares"], float)
                label = method if number == 0 else None
                axes.plot(steps, squares, color=color, lw=0.9, label=label)
        axes.axhline(1e-6, color="#444444", lw=0.6, ls=":")
        axes.set(xscale="log", yscale="log", ylim=(1e-9, 3.0))
        axes.set_title(f"{network}, {data}, width {widest.width}", fontsize=8)
        axes.set_xlabel("steps + 1", fontsize=7)
    drawn = [axes for axes in cells.values() if axes.lines]
    if drawn:
        handles, labels = drawn[0].get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=3,
            fontsize=7,
            frameon=False,
        )
    return figure


def steps_against_width(found: list[Group], limits: list[Row], method: str) -> Figure:
    """Steps to a thousandth of the residual; at the top where it was not reached."""
    del limits

    def draw(axes: Axes, same: list[Group]) -> None:
        color, marker = STYLES[same[0].parametrization]
        cap = max((group.tried(method) for group in same if group.known), default=1)
        axes.axhline(cap, color="#444444", lw=0.6, ls=":")
        middles = [
            (group.width, float(np.median(np.minimum(group.steps(method), cap))))
            for group in same
            if group.known
        ]
        if middles:
            axes.plot(
                *zip(*middles, strict=True),
                color=color,
                marker=marker,
                ms=3,
                lw=1.2,
                label=NAMES[same[0].parametrization],
            )

    title = f"{method}: steps to 1e-3 of the residual (dotted: as many as were tried)"
    return _against_width(found, title, draw)


def diagnostic_and_outcome(found: list[Group], limits: list[Row]) -> Figure:
    """Does C′ say who keeps the rate, and κ how much natural gradient gains?"""
    del limits
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    rate_claim, ratio_claim = link(outcomes(found))
    for parametrization, (color, marker) in STYLES.items():
        same = [g for g in found if g.parametrization == parametrization and g.known]
        style: dict[str, Any] = {"color": color, "ms": 4, "ls": "", "marker": marker}
        rows = [row for group in same for row in group.known]
        worst = [
            max(abs(row["contractions"][str(r)] - (1 - r) ** 2) for r in RATES)
            for row in rows
        ]
        left.plot(
            [row["constant"] for row in rows],
            np.maximum(worst, 1e-8),
            label=NAMES[parametrization],
            **style,
        )
        points = outcomes(same)
        for bound, inside in ((False, color), (True, "none")):
            some = [(p.condition, p.ratio) for p in points if p.bound is bound]
            if some:
                right.plot(*zip(*some, strict=True), mfc=inside, **style)
    left.axvline(0.5, color="#444444", lw=0.8)
    left.axhline(0.05, color="#444444", lw=0.8, ls=":")
    left.set(xscale="log", yscale="log")
    left.set_xlabel("C′", fontsize=8)
    left.set_ylabel("largest |observed - lazy rate| over η", fontsize=8)
    left.set_title(f"C′ < 1/2 and the rate\n{_said(rate_claim, 'AUC')}", fontsize=8)
    right.set(xscale="log", yscale="log")
    right.set_xlabel("κ = λ_max / λ_min", fontsize=8)
    right.set_ylabel("steps, gradient descent / natural; open: at least", fontsize=8)
    right.set_title(f"κ and the gain\n{_said(ratio_claim, "Somers' D")}", fontsize=8)
    if left.lines:
        left.legend(fontsize=7, frameon=False)
    return figure


def _said(claim: Any, name: str) -> str:
    score = claim.statistic
    if score is None or not np.isfinite(score.value):
        return claim.word
    text = f"{name} {score.value:.2f}"
    if score.interval is not None:
        text += " ({:.2f} to {:.2f})".format(*score.interval)
    return f"{text}, {claim.word}"


def _steps(method: str) -> Callable[[list[Group], list[Row]], Figure]:
    return functools.partial(steps_against_width, method=method)


FIGURES: dict[str, Callable[[list[Group], list[Row]], Figure]] = {
    "smallest-eigenvalue": smallest_eigenvalue,
    "stability": stability,
    "losses-standard": functools.partial(losses, parametrization="standard"),
    "losses-ntk": functools.partial(losses, parametrization="ntk"),
    "losses-mup": functools.partial(losses, parametrization="mup"),
    "steps-natural-gradient": _steps("natural gradient, η = 1"),
    "steps-kfac": _steps("KFAC"),
    "steps-adam": _steps("Adam"),
    "link": diagnostic_and_outcome,
}
