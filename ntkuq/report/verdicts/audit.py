"""What the audit counts."""

from typing import Any

from ntkuq.report import formats
from ntkuq.report.audit import findings
from ntkuq.report.document import Document
from ntkuq.report.escape import shorten
from ntkuq.report.formats import Number
from ntkuq.report.rules import (
    Answer,
)

from .records import record


def audit_record(document: Document, tolerance: Number) -> dict[str, Any]:
    """How many issues and tips, and the first."""
    found = findings(document)
    issues = sum(finding.severity == "issue" for finding in found)
    tips = len(found) - issues
    answer: Answer = "no" if issues else "slightly" if tips else "yes"
    sentence = "nothing found."
    if found:
        first = found[0]
        counts = f"{formats.plural(issues, 'issue')}, {formats.plural(tips, 'tip')}"
        text = shorten(first.text, 200)
        stop = "" if text.endswith((".", "!", "?", "…")) else "."
        sentence = f"{counts}. First: {first.subject}: {text}{stop}"
    return record("audit", None, answer, sentence, "audit", tolerance)
