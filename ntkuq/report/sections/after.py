"""Before and after: what recalibration and conformal prediction change."""

from collections.abc import Mapping
from typing import Any

from ntkuq.report import formats
from ntkuq.report.document import Document
from ntkuq.report.escape import plain, shorten
from ntkuq.report.methods import distinct_labels, is_regression, why_omitted, with_entry

from .blocks import Block, Figure, Missing, Row, Section, Table
from .words import score_cell, sentences


#: Score, heading, shown as percentage.
REGRESSION = (
    ("coverage_90", "Coverage of 90 % intervals, %", True),
    ("width_90", "Width of 90 % intervals", False),
    ("nll", "Negative log-likelihood", False),
    ("crps", "CRPS", False),
)
CLASSIFICATION = (
    ("ece", "Calibration error, points", True),
    ("nll", "Negative log-likelihood", False),
    ("brier", "Brier score", False),
    ("accuracy", "Accuracy, %", True),
    ("coverage_90", "Coverage of 90 % sets, %", True),
    ("size_90", "Classes in a set", False),
)


def after_section(document: Document) -> Section:
    """What each repair, fitted on the calibrate part, changes on the test part."""
    return Section(
        "after",
        "Before and after",
        "Does recalibration or conformal prediction fix it, and at what width?",
        _blocks(document),
    )


def repair_names(document: Document) -> tuple[str, ...]:
    """The repairs that were tried, in their order."""
    names: dict[str, None] = {}
    for i in with_entry(document, "after"):
        names |= dict.fromkeys(one["name"] for one in document["methods"][i]["after"])
    return tuple(names)


def repaired(method: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """The scores of a method after one repair."""
    for one in method.get("after") or ():
        if one["name"] == name:
            return one.get("scores") or None
    return None


def _blocks(document: Document) -> tuple[Block, ...]:
    shown = with_entry(document, "after")
    if not shown:
        why = why_omitted(
            document,
            "after",
            "the run has no calibrate part: set points aside, data.split(train=0.7,"
            " calibrate=0.15, test=0.15, key=key) or --split 0.7,0.15,0.15.",
        )
        return (Missing("repairs", "Recalibration and conformal prediction", why),)
    columns = REGRESSION if is_regression(document) else CLASSIFICATION
    labels = distinct_labels(document)
    rows, lines = [], []
    for i in shown:
        method = document["methods"][i]
        rows.append(_row(f"{labels[i]}: as fitted", method.get("scores"), columns))
        for one in method["after"]:
            head = f"{labels[i]}: {plain(one['name'])}"
            if one.get("reason"):
                rows.append(Row(head, note=shorten(plain(one["reason"]), 300)))
            else:
                rows.append(_row(head, one.get("scores"), columns))
                lines.append(_line(head, one.get("scores") or {}, columns[0][0]))
    n = document["problem"]["data"].get("n_calibrate")
    size = formats.plural(n, "calibrate point") if n else "the calibrate points"
    table = Table(
        f"Scores on the test set, before and after a repair fitted on {size}.",
        ("Method and repair", *(heading for _, heading, _ in columns)),
        tuple(rows),
    )
    return (_figure(document, lines, table),)


def _figure(document: Document, lines: list[str], table: Table) -> Figure:
    if is_regression(document):
        title = "Coverage of 90 % intervals and their width, before and after"
        how = (
            "Each panel is one repair. A hollow mark is the method as fitted, a filled"
            " one the same method repaired; zero is an interval that holds 90 %. To"
            " the right: wider intervals. Bars are 95 % intervals, the gray band is"
            " the tolerance of the verdict."
        )
    else:
        title = "Calibration error before and after"
        how = (
            "Each panel is one repair. Hollow: as fitted. Filled: repaired. Lower is"
            " better; bars are 95 % intervals."
        )
    return Figure("repairs", title, how, f"{title}. {sentences(lines)}", table)


def _row(header: str, scores: Mapping[str, Any] | None, columns: tuple) -> Row:
    found = scores or {}
    cells = (
        score_cell(found[name], percentage) if name in found else formats.MISSING
        for name, _, percentage in columns
    )
    return Row(header, tuple(cells))


def _line(header: str, scores: Mapping[str, Any], name: str) -> str:
    score = scores.get(name) or scores.get("coverage_90")
    if not score or score.get("value") is None:
        return f"{header}: not judged"
    ends = [end for end in score.get("interval") or () if end is not None]
    bracket = f" {formats.percents(ends)}" if len(ends) == 2 else ""
    what = "off by" if name == "ece" and name in scores else "coverage"
    return f"{header}: {what} {formats.percent(score['value'])} %{bracket}"
