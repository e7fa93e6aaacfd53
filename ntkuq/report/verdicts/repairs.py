"""What to do about a method whose uncertainty is off, from what was tried."""

from collections.abc import Mapping, Sequence
from typing import Any

from ntkuq.report import formats
from ntkuq.report.document import Document
from ntkuq.report.escape import plain
from ntkuq.report.formats import Number
from ntkuq.report.methods import coverage_score, distinct_labels, is_regression
from ntkuq.report.rules import Answer, judged_coverage


def remedy(
    document: Document,
    index: int,
    answers: Sequence[Answer],
    repair: str,
    tolerance: Number,
) -> str:
    """The repair that was seen to work, else the one to try; and another method."""
    labels = distinct_labels(document)
    found = measured(document, document["methods"][index], tolerance)
    others = [labels[i] for i, a in enumerate(answers) if a == "yes"]
    what = found or repair
    if not others:
        return f" To do: {what}."
    return f" To do: {what}, or use a method judged yes, such as {others[0]}."


def measured(
    document: Document, method: Mapping[str, Any], tolerance: Number
) -> str | None:
    """The repair with the narrowest intervals among those that hold, in words."""
    if not is_regression(document):
        return _best_of_classes(method)
    before = ((method.get("scores") or {}).get("width_90") or {}).get("value")
    best: tuple[float, str] | None = None
    for one in method.get("after") or ():
        after = {"scores": one.get("scores") or {}}
        score, width = coverage_score(after), after["scores"].get("width_90") or {}
        if score is None or width.get("value") is None or not before:
            continue
        answer = judged_coverage(score, tolerance)
        ratio = width["value"] / before
        if answer in ("yes", "cannot tell") and (best is None or ratio < best[0]):
            ends = [end for end in score.get("interval") or () if end is not None]
            bracket = f" {formats.percents(ends)}" if len(ends) == 2 else ""
            text = (
                f"use {plain(one['name'])}: {formats.percent(score['value'])}\u00a0%"
                f"{bracket} at {formats.number(ratio, 0.1)} times the width"
            )
            best = ratio, text
    return None if best is None else best[1]


def _best_of_classes(method: Mapping[str, Any]) -> str | None:
    """The repair with the smallest calibration error, if it lowers it."""
    before = ((method.get("scores") or {}).get("ece") or {}).get("value")
    best: tuple[float, str] | None = None
    for one in method.get("after") or ():
        score = (one.get("scores") or {}).get("ece") or {}
        value = score.get("value")
        if value is None or before is None or value >= before:
            continue
        if best is None or value < best[0]:
            ends = [end for end in score.get("interval") or () if end is not None]
            bracket = f" {formats.percents(ends)}" if len(ends) == 2 else ""
            text = (
                f"use {plain(one['name'])}: an error of {formats.percent(value)} points"
                f"{bracket}"
            )
            best = value, text
    return None if best is None else best[1]
