"""Would a second-order step help the network?"""

from typing import Any

from ntkuq.report.document import Document
from ntkuq.report.escape import plain
from ntkuq.report.formats import Number
from ntkuq.report.rules import Answer

from .records import record


def second_order_record(document: Document, tolerance: Number) -> dict[str, Any] | None:
    """The probe; None where none was made."""
    found = document.get("probe")
    if not found:
        return None
    known: dict[str, Answer] = {"yes": "yes", "no": "no"}
    answer = known.get(found["answer"], "cannot tell")
    sentence = plain(found["verdict"])
    return record("probe", None, answer, sentence, "second-order", tolerance)
