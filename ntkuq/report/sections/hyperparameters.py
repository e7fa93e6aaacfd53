"""Prior, noise and other hyper-parameters as fitted."""

from collections.abc import Mapping
from typing import Any

from ntkuq.report import formats
from ntkuq.report.document import Document
from ntkuq.report.escape import plain
from ntkuq.report.methods import distinct_labels

from .blocks import Block, Missing, Row, Section, Table
from .words import status_note


def hyperparameter_section(document: Document) -> Section:
    """Fitted values ± standard error, and whether they are at a bound."""
    labels = distinct_labels(document)
    rows = []
    for label, method in zip(labels, document["methods"], strict=True):
        rows += _hyperparameter_rows(label, method)
    block: Block = Table(
        "Prior, noise and other hyper-parameters as fitted.",
        ("Method", "Hyper-parameter", "Value ± SE", "At the bound of its search"),
        tuple(rows),
    )
    if not any(row.cells for row in rows):
        block = Missing(
            "fitted",
            "Fitted values",
            "no finished method reports fitted hyper-parameters.",
        )
    return Section(
        "hyperparameters",
        "Prior, noise, hyper-parameters",
        "Were they fitted sensibly?",
        (block,),
    )


def _hyperparameter_rows(label: str, method: Mapping[str, Any]) -> list[Row]:
    if method["status"] != "done":
        return [Row(label, note=status_note(method))]
    rows = []
    for fitted in method.get("hyperparameters") or ():
        value, unit = formats.estimate(fitted), plain(fitted.get("unit") or "")
        bound = {True: "yes: see the audit", False: "no"}.get(
            fitted.get("at_bound"), formats.MISSING
        )
        first, aside, rest = value.partition(" (")
        text = f"{first} {unit}".strip() + aside + rest
        rows.append(Row(label, (plain(fitted["name"]), text, bound)))
    evidence = method.get("log_marginal_likelihood")
    if evidence is not None:
        value = formats.number(evidence, 1.0 if abs(evidence) >= 100 else None)
        name = "log marginal likelihood at the fit"
        rows.append(Row(label, (name, value, "does not apply")))
    return rows or [Row(label, note="none fitted")]
