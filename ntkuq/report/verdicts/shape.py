"""Are whole distributions right, where the coverage is?"""

from collections.abc import Mapping
from typing import Any

from ntkuq.report import formats
from ntkuq.report.document import Document
from ntkuq.report.formats import Number
from ntkuq.report.methods import (
    score_of,
)

from .records import record, record_label


def shape_record(document: Document, index: int, tolerance: Number) -> dict[str, Any]:
    """What is wrong with the shape of a method's predictions."""
    method = document["methods"][index]
    score = score_of(method, "pit_ks")
    p, value = score["p"], score["value"]
    sentence = (
        f"right at this level, wrong shape elsewhere (p-value {formats.p_value(p)}"
    )
    if score.get("n"):
        sentence += f", {formats.plural(score['n'], 'test point')}"
    sentence += ")"
    if value is not None:
        ends = [e for e in score.get("interval") or () if e is not None]
        bracket = f" {formats.percents(ends)}" if len(ends) == 2 else ""
        sentence += f": quantiles are off by up to {formats.percent(value)} points"
        sentence += bracket
    sentence += _largest_gap(method)
    sentence += ". To do: recalibrate whole distributions, not widths alone."
    label = record_label(document, index)
    return record("shape", label, "no", sentence, "shape", tolerance)


def _largest_gap(method: Mapping[str, Any]) -> str:
    """Where the cumulative distribution of the transforms departs the most."""
    curve = (method.get("curves") or {}).get("pit")
    if not curve:
        return ""
    gaps = [
        (abs(e - g), g, e)
        for g, e in zip(curve["grid"], curve["ecdf"], strict=True)
        if g is not None and e is not None
    ]
    if not gaps:
        return ""
    _, grid, observed = max(gaps)
    return (
        f"; the predicted {formats.percent(grid)}\u00a0% quantile holds"
        f" {formats.percent(observed)}\u00a0% of the points"
    )
