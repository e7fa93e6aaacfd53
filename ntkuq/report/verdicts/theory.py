"""Does kernel theory apply, and how near is the posterior to the exact one?"""

from typing import Any

from ntkuq.report import formats
from ntkuq.report.document import Document
from ntkuq.report.escape import plain
from ntkuq.report.formats import Number
from ntkuq.report.methods import is_regression
from ntkuq.report.rules import NEAR, Answer, reference_answer

from .records import record, record_label


def regime_record(document: Document, tolerance: Number) -> dict[str, Any] | None:
    """The kernel regime; None where it was not measured."""
    found = document.get("regime")
    if not found:
        return None
    words = [claim["word"] for claim in found["claims"]]
    answer: Answer = "cannot tell"
    if "refuted" in words:
        answer = "no"
    elif words and all(word == "confirmed" for word in words):
        answer = "yes"
    sentence = plain(found["verdict"])
    return record("regime", None, answer, sentence, "regime", tolerance)


def reference_record(
    document: Document, index: int, tolerance: Number
) -> dict[str, Any] | None:
    """The distance of a method to the chains, over that of their halves."""
    method = document["methods"][index]
    found = method.get("distance")
    if not found:
        return None
    name = "relative_wasserstein" if is_regression(document) else "total_variation"
    own, floor = (found[part].get(name) or {} for part in ("scores", "floor"))
    if own.get("value") is None or not floor.get("value"):
        return None
    answer = reference_answer(own, floor)
    ratio = own["value"] / floor["value"]
    unit = "of the chains' standard deviation" if is_regression(document) else ""
    ends = formats.interval(own)
    sentence = (
        f"its predictions are {formats.number(own['value'], own.get('se'))} {ends}"
        f" {unit} from Markov chains on the same posterior, {formats.number(ratio)}"
        f" times the distance of two halves of the chains"
    ).replace("  ", " ")
    if answer == "yes":
        sentence += ": as near as can be told."
    elif answer == "no":
        sentence += (
            f", above {formats.number(NEAR)}. Where its calibration is also off, the"
            " approximation is at fault rather than the model."
        )
    else:
        sentence += ": too uncertain to tell."
    label = record_label(document, index)
    return record("reference", label, answer, sentence, "reference", tolerance)
