"""Accuracy minus stated confidence."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ntkuq.report.document import Document
from ntkuq.report.escape import shorten
from ntkuq.report.formats import Number
from ntkuq.report.methods import curve_rows, distinct_labels, thin, with_curve


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

from .canvas import INK, LABEL_LENGTH, NARROW_LABEL, WIDTH, Style, style


def reliability(document: Document) -> "Figure":
    """A panel a method: accuracy minus confidence by confidence."""
    shown = with_curve(document, "reliability")
    columns = 2 if len(shown) > 1 else 1
    lines = -(-len(shown) // columns)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 0.5 + 2.1 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    labels = distinct_labels(document)
    for place, axes in enumerate(grid.flat):
        if place >= len(shown):
            axes.set_visible(False)
            continue
        index = shown[place]
        rows = curve_rows(document["methods"][index], "reliability")
        isotonic = curve_rows(document["methods"][index], "pav")
        _reliability_panel(axes, rows, isotonic, style(index))
        length = NARROW_LABEL if columns == 2 else LABEL_LENGTH
        axes.set_title(shorten(labels[index], length), fontsize=10)
        axes.tick_params(labelbottom=place + columns >= len(shown))
    figure.supxlabel("stated confidence, %", fontsize=10)
    figure.supylabel("accuracy − confidence, points", fontsize=10)
    return figure


def _reliability_panel(
    axes: "Axes",
    rows: Sequence[tuple[Number, ...]],
    isotonic: Sequence[tuple[Number, ...]],
    look: Style,
) -> None:
    """Marks are bins; line and band are isotonic where the run has that curve."""
    rows = sorted(thin(rows, 60))
    x = [100 * confidence for confidence, *_ in rows]
    y = [100 * (accuracy - confidence) for confidence, accuracy, *_ in rows]
    counts = [row[2] for row in rows]
    most = max(*counts, 1)
    curve = isotonic or [(c, a, lower, upper) for c, a, _, lower, upper in rows]
    at = [100 * row[0] for row in curve]
    accuracy, low, high = (
        [100 * (row[column] - row[0]) for row in curve] for column in (1, 2, 3)
    )
    axes.fill_between(at, low, high, color=INK, alpha=0.14, linewidth=0)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.plot(at, accuracy, color=look.color, linewidth=1)
    for a, b, count in zip(x, y, counts, strict=True):
        share = count / most
        axes.plot(
            a,
            b,
            marker=look.marker,
            color=look.color,
            markersize=3 + 5 * share**0.5,
            alpha=0.35 + 0.65 * share**0.5,
            markeredgewidth=0,
        )
    bars = axes.inset_axes((0, 0, 1, 0.14), sharex=axes)
    bars.bar(x, counts, width=1.2, color=look.color, alpha=0.6, linewidth=0)
    bars.set_ylim(0, most)
    bars.axis("off")
    axes.margins(y=0.25)
