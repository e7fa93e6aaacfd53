"""Do intervals hold what they promise?"""

from collections.abc import Mapping, Sequence
from typing import Any

from ntkuq.report import formats
from ntkuq.report.document import Document
from ntkuq.report.formats import Number
from ntkuq.report.methods import (
    coverage_score,
)
from ntkuq.report.rules import (
    TOLERANCE,
    Answer,
    binomial_interval,
    points_needed,
)

from .records import record, record_label
from .repairs import remedy


def intervals_record(
    document: Document, index: int, answers: Sequence[Answer], tolerance: Number
) -> dict[str, Any]:
    """The answer on the intervals of one method."""
    method, answer = document["methods"][index], answers[index]
    sentence = coverage_sentence(method, answer, tolerance)
    if answer in ("no", "slightly"):
        sentence += remedy(
            document,
            index,
            answers,
            "recalibrate the widths on points kept aside, or use conformal intervals",
            tolerance,
        )
    label = record_label(document, index)
    return record("intervals", label, answer, sentence, "coverage", tolerance)


def coverage_sentence(
    method: Mapping[str, Any], answer: Answer, tolerance: Number = TOLERANCE
) -> str:
    """The coverage of one method in words, with its exact 95 % interval and n."""
    score = coverage_score(method)
    if score is None:
        return "coverage not available, so the intervals cannot be judged."
    hits, n, level = score.get("hits"), score["n"], score["level"]
    share = score["value"] if hits is None else hits / n
    ends = formats.percents(
        score["interval"] if hits is None else binomial_interval(hits, n, 0.95)
    )
    fact = (
        f"{formats.level(level)}\u00a0% intervals hold"
        f" {formats.percent(share)}\u00a0% {ends}"
        f" of {formats.plural(n, 'test point')}"
    )
    if answer == "yes":
        return f"{fact}, within {formats.level(tolerance)} points of what they claim."
    if answer == "cannot tell":
        if hits is None:
            return f"{fact}; more groups, or points, are needed for a clear answer."
        needed = points_needed(level, tolerance)
        if needed <= n:
            return f"{fact}: too near the edge of the tolerance for a clear answer."
        return f"{fact}; about {formats.count(needed)} are needed for a clear yes."
    direction = "too narrow" if share < level else "too wide"
    degree = "slightly " if answer == "slightly" else ""
    return f"{fact}: {degree}{direction}."
