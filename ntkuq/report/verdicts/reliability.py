"""Are stated probabilities right?"""

from collections.abc import Mapping, Sequence
from typing import Any

from ntkuq.report import formats
from ntkuq.report.document import Document
from ntkuq.report.formats import Number
from ntkuq.report.methods import (
    score_of,
)
from ntkuq.report.rules import (
    TOLERANCE,
    Answer,
    error_points_needed,
)

from .bins import error_test_of, reliability_bins
from .records import record, record_label
from .repairs import remedy


def reliability_record(
    document: Document, index: int, answers: Sequence[Answer], tolerance: Number
) -> dict[str, Any]:
    """The answer on the probabilities of one method."""
    method, answer = document["methods"][index], answers[index]
    sentence = reliability_sentence(method, answer, tolerance)
    if answer in ("no", "slightly"):
        sentence += remedy(
            document,
            index,
            answers,
            "fit a temperature on points kept aside",
            tolerance,
        )
    label = record_label(document, index)
    return record("reliability", label, answer, sentence, "reliability", tolerance)


def reliability_sentence(
    method: Mapping[str, Any], answer: Answer, tolerance: Number = TOLERANCE
) -> str:
    """The calibration error of one classifier in words, with its interval and n."""
    score = score_of(method, "ece")
    if score.get("value") is None:
        return "calibration error not available, so the probabilities cannot be judged."
    value, n, limit = score["value"], score.get("n") or 0, formats.level(tolerance)
    ends = [end for end in score.get("interval") or () if end is not None]
    bracket = f" {formats.percents(ends)}" if len(ends) == 2 else ""
    fact = (
        f"stated confidence and accuracy differ by {formats.percent(value)} points"
        f"{bracket} on average over {formats.plural(n, 'test point')}"
    )
    test = error_test_of(method, tolerance)
    if test is None:
        return f"{fact}; without the reliability curve this cannot be judged."
    fact += f" (by chance alone: about {formats.percent(test.chance)})"
    if answer == "yes":
        return f"{fact}, too little for a true error of {limit} points."
    if answer == "cannot tell":
        return fact + _error_points_clause(method, n, tolerance)
    gap = _mean_overconfidence(method)
    if gap is None:
        return f"{fact}."
    direction = "too sure" if gap > 0 else "not sure enough"
    degree = "slightly " if answer == "slightly" else ""
    return f"{fact}: {degree}{direction}, by {formats.percent(abs(gap))} points net."


def _error_points_clause(method: Mapping[str, Any], n: int, tolerance: Number) -> str:
    """How many points a calibrated classifier of these confidences would need."""
    confidence, _, count = reliability_bins(method)
    needed = error_points_needed(confidence, count, tolerance)
    if needed <= n:
        return ": too near the edge of the tolerance for a clear answer."
    if needed > 10**7:
        return "; many more points are needed for a clear yes."
    return f"; about {formats.count(needed)} are needed for a clear yes."


def _mean_overconfidence(method: Mapping[str, Any]) -> Number | None:
    """Mean confidence minus accuracy over all points, from the binned curve."""
    confidence, accuracy, count = reliability_bins(method)
    if not count.size:
        return None
    return float((confidence - accuracy) @ count / count.sum())
