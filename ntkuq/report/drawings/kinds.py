"""Epistemic and aleatoric uncertainty as shares of a bar."""

from typing import TYPE_CHECKING

from ntkuq.report import methods
from ntkuq.report.document import Document
from ntkuq.report.escape import shorten
from ntkuq.report.sections.kinds import epistemic_share, with_kinds

from .canvas import LABEL_LENGTH, canvas, style


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def kinds(document: Document) -> "Figure":
    """A bar a method: dark epistemic, light aleatoric."""
    shown = with_kinds(document)
    figure, axes = canvas(0.8 + 0.34 * len(shown))
    labels = methods.distinct_labels(document)
    for place, i in enumerate(shown):
        share = 100 * epistemic_share(document, i)
        color = style(i).color
        axes.barh(place, share, color=color, height=0.6)
        axes.barh(place, 100 - share, left=share, color=color, alpha=0.25, height=0.6)
    axes.set_yticks(
        range(len(shown)), [shorten(labels[i], LABEL_LENGTH) for i in shown]
    )
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    figure.supxlabel("epistemic (dark) and aleatoric (light), %", fontsize=10)
    axes.tick_params(axis="y", length=0)
    return figure
