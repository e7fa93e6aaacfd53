"""Where does it fail? Groups, the worst slab, and the most confident errors."""

from collections.abc import Mapping, Sequence
from typing import Any

from ntkuq.report import formats
from ntkuq.report.document import Document
from ntkuq.report.escape import plain, shorten
from ntkuq.report.methods import distinct_labels, is_regression, why_omitted, with_entry

from .blocks import Block, Figure, Missing, Row, Section, Table
from .words import as_percentage, score_cell, sentences


def failures_section(document: Document) -> Section:
    """Coverage by group, on the worst slab, and single errors."""
    return Section(
        "failures",
        "Where does it fail?",
        "Which groups and inputs?",
        (_groups_block(document), _slab_block(document), _errors_block(document)),
    )


def groupings(document: Document) -> tuple[str, ...]:
    """What the points were grouped by, in order."""
    names: dict[str, None] = {}
    for i in with_entry(document, "groups"):
        names |= dict.fromkeys(one["by"] for one in document["methods"][i]["groups"])
    return tuple(names)


def grouped(method: Mapping[str, Any], by: str) -> Sequence[Mapping[str, Any]]:
    """The rows of one grouping of a method."""
    for one in method.get("groups") or ():
        if one["by"] == by:
            return one["rows"]
    return ()


def main_score(document: Document) -> str:
    """The score that says whether a group fails: coverage, or the gap of classes."""
    return "coverage" if is_regression(document) else "gap"


def _groups_block(document: Document) -> Block:
    shown = with_entry(document, "groups")
    regression = is_regression(document)
    title = "Coverage by group" if regression else "Accuracy minus confidence by group"
    if not shown:
        why = "no finished method has predictions that can be grouped."
        return Missing("groups", title, why_omitted(document, "groups", why))
    labels = distinct_labels(document)
    rows, lines = [], []
    for by in groupings(document):
        for i in shown:
            found = grouped(document["methods"][i], by)
            rows += [_group_row(labels[i], by, row, regression) for row in found]
        lines.append(plain(by))
    others = (
        ("Negative log-likelihood", "Width")
        if regression
        else ("Accuracy, %", "Mean confidence, %")
    )
    no_groups = not any(by.startswith("group") for by in groupings(document))
    note = (
        " No column of groups was given: group=… of the Dataset or --group adds it."
        if no_groups
        else ""
    )
    return Figure(
        "groups",
        title,
        "Each mark is a group of test points; the bar spans where it lies with 95 %"
        " confidence for all groups of the panel together. Zero is calibrated. Hollow:"
        " fewer than 30 points." + note,
        f"{title}: by {sentences(lines)}",
        Table(
            f"{title}, with 95 % intervals that hold for all groups of a grouping"
            " together.",
            (
                "Method and group",
                "n",
                "Coverage, %" if regression else "Accuracy − confidence, points",
                "For all groups together",
                *others,
            ),
            tuple(rows),
        ),
    )


def _group_row(label: str, by: str, row: Mapping[str, Any], regression: bool) -> Row:
    scores = row["scores"]
    main = scores.get("coverage" if regression else "gap")
    ends = [end for end in row.get("simultaneous") or () if end is not None]
    together = formats.percents(ends) if len(ends) == 2 else formats.MISSING
    other = ("nll", "width") if regression else ("accuracy", "confidence")
    name = f"{label}: {plain(by)} = {shorten(plain(row['name']), 60)}"
    if row.get("range"):
        name += f" ({plain(row['range'])})"
    return Row(
        name,
        (
            formats.count(row["n"]) + (" (few)" if row.get("small") else ""),
            score_cell(main, percentage=True),
            together,
            *(score_cell(scores.get(one), not regression) for one in other),
        ),
    )


def _slab_block(document: Document) -> Block:
    shown = [
        i
        for i in with_entry(document, "slab")
        if document["methods"][i]["slab"].get("value") is not None
    ]
    title = "The worst slab of inputs"
    if not shown:
        why = "no finished method has intervals and inputs in columns."
        return Missing("slab", title, why_omitted(document, "slab", why))
    labels = distinct_labels(document)
    share = document["methods"][shown[0]]["slab"].get("share")
    size = (
        f" that holds {formats.level(share)} % of the points or more" if share else ""
    )
    rows = []
    for i in shown:
        slab = document["methods"][i]["slab"]
        shown_as = as_percentage(slab)
        ends = formats.interval(shown_as) or formats.MISSING
        rows.append(
            Row(labels[i], (formats.estimate(shown_as), ends, formats.count(slab["n"])))
        )
    return Table(
        f"{title}: coverage in % of 90 % intervals between two parallel planes{size}."
        " The planes are found on one half of the test points, the coverage is that on"
        " the other half.",
        ("Method", "Coverage ± SE", "95 % interval", "n"),
        tuple(rows),
    )


def _errors_block(document: Document) -> Block:
    shown = with_entry(document, "errors")
    title = "The most confident errors"
    if not shown:
        why = "no finished method made an error that could be ranked."
        return Missing("errors", title, why_omitted(document, "errors", why))
    labels = distinct_labels(document)
    regression = is_regression(document)
    rows = [
        Row(
            f"{labels[i]}, row {formats.count(one['row'])}",
            (
                _shown(one["observed"]),
                _shown(one["predicted"]),
                formats.number(one["certainty"])
                if regression
                else formats.percent(one["certainty"] or 0.0),
            ),
        )
        for i in shown
        for one in document["methods"][i]["errors"][:3]
    ]
    certainty = "Distance, in predicted standard deviations"
    return Table(
        f"{title} of each method on the test set, rows counted from 0.",
        (
            "Method and test row",
            "Observed",
            "Predicted",
            certainty if regression else "Confidence, %",
        ),
        tuple(rows),
        folded=True,
    )


def _shown(value: object) -> str:
    if isinstance(value, float):
        return formats.number(value)
    return shorten(plain(value), 60)
