"""The audit: what could be wrong with the inputs and fits of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from . import formats
from .document import Document
from .escape import plain
from .methods import differences, distinct_labels


@dataclass(frozen=True)
class Finding:
    """One line of the audit."""

    severity: Literal["issue", "tip"]
    subject: str
    text: str


def findings(document: Document) -> tuple[Finding, ...]:
    """What the audit found, issues first."""
    warnings = document["problem"]["data"].get("warnings") or ()
    found = [Finding("tip", "data", plain(text)) for text in warnings]
    labels = distinct_labels(document)
    for label, method in zip(labels, document["methods"], strict=True):
        reason = plain(method.get("reason") or "no reason recorded")
        if method["status"] == "failed":
            found.append(Finding("issue", label, f"failed: {reason}"))
        elif method["status"] == "skipped":
            found.append(Finding("tip", label, f"skipped: {reason}"))
        found += _hyperparameter_findings(method, label)
        found += [
            Finding("issue", label, f"score {plain(name)} is not finite")
            for name, score in (method.get("scores") or {}).items()
            if score["value"] is None
        ]
        jitter = (method.get("diagnostics") or {}).get("jitter")
        if isinstance(jitter, int | float) and jitter > 0:
            text = f"jitter {formats.number(jitter)} was added to a factorization"
            found.append(Finding("tip", label, text))
    for label, difference in zip(labels, differences(document), strict=True):
        if difference and difference.get("caution"):
            found.append(Finding("tip", label, plain(difference["caution"])))
    return tuple(sorted(found, key=lambda finding: finding.severity != "issue"))


def _hyperparameter_findings(
    method: Mapping[str, Any], label: str
) -> tuple[Finding, ...]:
    return tuple(
        Finding(
            "tip",
            label,
            f"{plain(h['name'])} stopped at its search bound,"
            f" {formats.number(h['value'])}: widen the search or check the prior",
        )
        for h in method.get("hyperparameters") or ()
        if h.get("at_bound")
    )
