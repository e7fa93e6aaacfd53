"""Do the intervals hold in every group? Of the recommended method."""

from collections.abc import Mapping
from typing import Any

from ntkuq.report import formats
from ntkuq.report.document import Document
from ntkuq.report.escape import plain, shorten
from ntkuq.report.formats import Number
from ntkuq.report.methods import is_regression
from ntkuq.report.rules import (
    ALPHA,
    LEVEL,
    SMALLEST_GROUP,
    Answer,
    binomial_interval,
    group_answer,
)

from .records import record, record_label


def group_record(
    document: Document, index: int, tolerance: Number
) -> dict[str, Any] | None:
    """The weakest group of a method; None where there are no groups to judge."""
    if not is_regression(document):
        return None
    rows = judged_groups(document["methods"][index])
    if not rows:
        return None
    # all groups of all groupings together
    confidence = 1 - ALPHA / len(rows)
    ends = [binomial_interval(row["hits"], row["n"], confidence) for row in rows]
    answer, weakest = group_answer(ends, LEVEL, tolerance)
    row, (low, high) = rows[weakest], ends[weakest]
    sentence = _sentence(row, low, high, answer, len(rows), tolerance)
    label = record_label(document, index)
    return record("group", label, answer, sentence, "groups", tolerance)


def judged_groups(method: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Groups that are large enough, with their hits at the level of the verdict."""
    found = []
    for grouping in method.get("groups") or ():
        level = grouping.get("level")
        if level is None or abs(level - LEVEL) > 1e-9:
            continue
        for row in grouping["rows"]:
            score = row["scores"].get("coverage") or {}
            if score.get("hits") is not None and row["n"] >= SMALLEST_GROUP:
                name = shorten(plain(row.get("range") or row["name"]), 60)
                name = f"{plain(grouping['by'])} = {name}"
                found.append({"name": name, "n": row["n"], "hits": score["hits"]})
    return found


def _sentence(
    row: Mapping[str, Any],
    low: float,
    high: float,
    answer: Answer,
    count: int,
    tolerance: Number,
) -> str:
    share = formats.percent(row["hits"] / row["n"])
    fact = (
        f"{row['name']}: {formats.level(LEVEL)}\u00a0% intervals hold {share}\u00a0%"
        f" {formats.percents((low, high))} of {formats.plural(row['n'], 'test point')}"
    )
    of = f"the weakest of {formats.plural(count, 'group')}"
    if answer == "no":
        return (
            f"{fact}, {of}, is shown to fail. To do: recalibrate by group, or collect"
            " data there."
        )
    limit = formats.level(tolerance)
    if answer == "yes":
        return f"{fact}, {of}: none falls short by {limit} points or more."
    # a group fails when its upper end is below the limit
    gap = formats.percent(max(high - row["hits"] / row["n"], 0.0) + float(tolerance))
    return (
        f"no group is shown to fail. Lowest: {fact}; a group of its size must be off"
        f" by about {gap} points to be seen."
    )
