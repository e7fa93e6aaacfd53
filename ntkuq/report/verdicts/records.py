"""A line of the verdict, and the answer on one method."""

from collections.abc import Mapping
from typing import Any

from ntkuq.report import formats
from ntkuq.report.document import Document
from ntkuq.report.formats import Number
from ntkuq.report.methods import (
    coverage_score,
    distinct_labels,
    is_regression,
)
from ntkuq.report.rules import (
    RULES,
    TOLERANCE,
    Answer,
    judged_coverage,
    reliability_answer,
)

from .bins import error_test_of


def record(
    code: str,
    label: str | None,
    answer: Answer,
    sentence: str,
    section: str,
    tolerance: Number,
) -> dict[str, Any]:
    """A line of the verdict, with its rule."""
    rule = RULES[code].format(tolerance=formats.level(tolerance))
    return {
        "code": code,
        "label": label,
        "answer": answer,
        "sentence": sentence,
        "rule": rule,
        "section": section,
    }


def record_label(document: Document, index: int) -> str:
    """The method's label as it stands; numbered where methods share it."""
    label = document["methods"][index]["label"]
    shared = sum(method["label"] == label for method in document["methods"]) > 1
    return distinct_labels(document)[index] if shared else label


def answer_of(
    document: Document, method: Mapping[str, Any], tolerance: Number
) -> Answer:
    """The answer on the uncertainty of one method."""
    if method["status"] != "done":
        return "cannot tell"
    if is_regression(document):
        score = coverage_score(method)
        if score is None:
            return "cannot tell"
        return judged_coverage(score, tolerance)
    test = error_test_of(method, tolerance)
    return "cannot tell" if test is None else reliability_answer(test)


def method_answers(
    document: Document, tolerance: Number = TOLERANCE
) -> tuple[Answer, ...]:
    """The interval (or reliability) answer of every method, in document order."""
    return tuple(
        answer_of(document, method, tolerance) for method in document["methods"]
    )
