"""The verdict: plain sentences with a number, its interval, n, and what to do.

Every line answers one question with yes, slightly, no, or cannot tell, by a rule that
is printed with it. The rules are in `rules`; `verdict` applies them to a run document.
"""

from typing import Any

from ntkuq.report.document import Document
from ntkuq.report.formats import Number
from ntkuq.report.methods import is_regression, score_of
from ntkuq.report.rules import TOLERANCE, shape_is_wrong

from .audit import audit_record
from .groups import group_record
from .intervals import intervals_record
from .method import method_record, recommended
from .records import method_answers
from .reliability import reliability_record
from .second_order import second_order_record
from .shape import shape_record
from .theory import reference_record, regime_record


def verdict(document: Document, tolerance: Number = TOLERANCE) -> list[dict[str, Any]]:
    """The verdict of a run document, most important line first.

    Args:
        document: as `validate` accepts it; its own "verdict" is not read.
        tolerance: how far coverage or calibration error may be off, as a fraction.

    Returns:
        Records with the keys code, label, answer, sentence, rule, section.
    """
    answers = method_answers(document, tolerance)
    records = [method_record(document, answers, tolerance)]
    judge = intervals_record if is_regression(document) else reliability_record
    done = [(i, m) for i, m in enumerate(document["methods"]) if m["status"] == "done"]
    records += [judge(document, i, answers, tolerance) for i, _ in done]
    if is_regression(document):
        records += [
            shape_record(document, i, tolerance)
            for i, method in done
            if shape_is_wrong(score_of(method, "pit_ks").get("p"), answers[i])
        ]
    chosen = recommended(document, answers)
    optional = (
        None if chosen is None else group_record(document, chosen, tolerance),
        regime_record(document, tolerance),
        second_order_record(document, tolerance),
        None if chosen is None else reference_record(document, chosen, tolerance),
    )
    records += [record for record in optional if record is not None]
    return [*records, audit_record(document, tolerance)]
