"""Coverage, or the gap of the confidence, by group: a panel for each grouping."""

from typing import TYPE_CHECKING

from ntkuq.report import methods
from ntkuq.report.document import Document
from ntkuq.report.escape import plain, shorten
from ntkuq.report.rules import LEVEL
from ntkuq.report.sections.failures import grouped, groupings, main_score

from .canvas import INK, legend_of, panels, style


if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE_TICKS = 36  # letters of all names under a panel, above which they stand upright
MOST = 12  # groups that a panel shows, those with the most points


def groups(document: Document) -> "Figure":
    """A mark a group and method, with bars that hold for all groups together."""
    shown = methods.with_entry(document, "groups")
    names = groupings(document)
    figure, grid = panels(len(names), 2.3, columns=1)
    name = main_score(document)
    zero = LEVEL if name == "coverage" else 0.0
    for axes, by in zip(grid, names, strict=True):
        order = _largest(document, by, shown)
        for place, i in enumerate(shown):
            color, marker, _ = style(i)
            shift = 0.7 * ((place + 0.5) / len(shown) - 0.5)
            for row in grouped(document["methods"][i], by):
                score = row["scores"].get(name) or {}
                if row["name"] not in order or score.get("value") is None:
                    continue
                x = order.index(row["name"]) + shift
                ends = [e for e in row.get("simultaneous") or () if e is not None]
                if len(ends) == 2:
                    ends = [100 * (end - zero) for end in ends]
                    axes.plot([x, x], ends, color=color, linewidth=1, alpha=0.7)
                axes.plot(
                    x,
                    100 * (score["value"] - zero),
                    marker=marker,
                    color=color,
                    markersize=4,
                    markerfacecolor="none" if row.get("small") else color,
                )
        axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
        ticks = [shorten(plain(one), 12) for one in order]
        upright = sum(map(len, ticks)) > WIDE_TICKS
        axes.set_xticks(range(len(order)), ticks, rotation=90 if upright else 0)
        axes.set_xlim(-0.5, max(len(order), 1) - 0.5)
        axes.set_title(plain(by), fontsize=10)
    what = "coverage − 90 %" if name == "coverage" else "accuracy − confidence"
    figure.supylabel(f"{what}, points", fontsize=10)
    legend_of(figure, document, shown)
    return figure


def _largest(document: Document, by: str, shown: tuple[int, ...]) -> list[str]:
    """The groups that are shown, in their order."""
    sizes: dict[str, int] = {}
    for i in shown:
        for row in grouped(document["methods"][i], by):
            sizes.setdefault(row["name"], row["n"])
    kept = sorted(sizes, key=lambda one: -sizes[one])[:MOST]
    return [one for one in sizes if one in kept]
