"""Set-up: what exactly was compared."""

from collections.abc import Mapping, Sequence
from typing import Any

from ntkuq.report import formats
from ntkuq.report.document import Document
from ntkuq.report.escape import plain
from ntkuq.report.methods import distinct_labels

from .blocks import Row, Section, Table
from .words import shown_text


def setup_section(document: Document) -> Section:
    """The problem and the methods as constructor text."""
    problem, provenance = document["problem"], document["provenance"]
    data, network = problem["data"], problem.get("network") or {}
    sizes = ", ".join(
        f"{formats.count(data[key])} {word}"
        for key, word in (
            ("n_train", "to train"),
            ("n_calibrate", "to calibrate"),
            ("n_test", "to test"),
        )
        if data.get(key) is not None
    )
    facts = (
        ("Task", problem["task"]),
        ("Data", data["name"]),
        ("Points", sizes),
        ("Target", _with_unit(data)),
        ("Features", _listed(data.get("features"))),
        ("Classes", _listed(data.get("classes"))),
        ("Network", network.get("text")),
        ("Parameters", _maybe_count(network.get("parameters"))),
        ("Weights", network.get("weights")),
        ("Likelihood", problem.get("likelihood")),
        ("Prior", problem.get("prior")),
        ("Scaling", problem.get("scaling")),
        ("Precision", provenance.get("dtype")),
        ("Device", provenance.get("device")),
    )
    rows = tuple(
        Row(name, (shown_text(value),))
        for name, value in facts
        if not (name == "Classes" and problem["task"] == "regression")
    )
    labels = distinct_labels(document)
    methods = tuple(
        Row(label, (plain(m["text"]), shown_text(m.get("seed")), m["status"]))
        for label, m in zip(labels, document["methods"], strict=True)
    )
    return Section(
        "setup",
        "Set-up",
        "What exactly was compared?",
        (
            Table("The problem.", ("Part", "Value"), rows),
            Table(
                "Methods, as they are written in Python.",
                ("Method", "Constructor", "Seed", "Status"),
                methods,
            ),
        ),
    )


def _with_unit(data: Mapping[str, Any]) -> str | None:
    target, units = data.get("target"), data.get("units")
    if target is None:
        return None
    return f"{target} ({units})" if units else str(target)


def _listed(names: Sequence[str] | None) -> str | None:
    if not names:
        return None
    some = [plain(name) for name in names[:20]]
    rest = len(names) - len(some)
    return ", ".join(some) + (f" and {formats.count(rest)} more" if rest else "")


def _maybe_count(n: int | None) -> str | None:
    return None if n is None else formats.count(n)
