"""Cells and phrases that several sections share."""

from collections.abc import Mapping, Sequence
from typing import Any

from ntkuq.report import formats
from ntkuq.report.document import Document
from ntkuq.report.escape import plain, shorten
from ntkuq.report.formats import Number
from ntkuq.report.methods import short_label

from .blocks import Missing


def score_cell(score: Mapping[str, Any] | None, percentage: bool) -> str:
    """Value ± standard error over its interval; the reason when there is none."""
    if score is None:
        return f"{formats.MISSING} (not computed)"
    if score.get("value") is None:
        return f"{formats.MISSING} (not finite)"
    if percentage:
        return _percentage_cell(as_percentage(score))
    ends = formats.interval(score)
    return formats.estimate(score) + (f"\n{ends}" if ends else "")


def _percentage_cell(score: Mapping[str, Any]) -> str:
    """One decimal place, or more where the standard error asks for it."""
    se = score.get("se")
    if se is None:
        return formats.estimate(score)
    spread = se if 0 < se < 0.1 else 1.0
    value, error = formats.number(score["value"], spread), formats.number(se, spread)
    text = f"{value}{formats.PLUS_MINUS}{error}"
    ends = score.get("interval") or ()
    complete = len(ends) == 2 and None not in ends
    return text + (f"\n{formats.bracket(ends, spread)}" if complete else "")


def as_percentage(score: Mapping[str, Any]) -> dict[str, Any]:
    """The score with value, standard error and interval times 100."""

    def times(x: Number | None) -> Number | None:
        return None if x is None else 100 * x

    ends = score.get("interval")
    return {
        **score,
        "value": times(score.get("value")),
        "se": times(score.get("se")),
        "interval": [times(end) for end in ends] if ends else None,
    }


def fit_time(method: Mapping[str, Any]) -> str:
    """The time to fit, or that it was not measured."""
    duration = (method.get("cost") or {}).get("fit_seconds")
    if duration is None:
        return f"{formats.MISSING} (not measured)"
    return formats.seconds(duration)


def status_note(method: Mapping[str, Any]) -> str:
    """Why a method has no numbers."""
    reason = plain(method.get("reason") or "no reason recorded")
    return f"{method['status']}: {shorten(reason, 300)}"


def shown_text(value: object) -> str:
    """Text from the document, or that it was not recorded."""
    if value is None or value == "":
        return f"{formats.MISSING} (not recorded)"
    return shorten(plain(value), 400)


def lacking(document: Document, name: str, title: str, why: str) -> Missing:
    """The place of a figure that no method has the numbers for."""
    done = any(method["status"] == "done" for method in document["methods"])
    return Missing(name, title, why if done else "no method finished.")


def said(document: Document, section: str) -> str:
    """The verdict's sentences on a figure, so that text and picture agree."""
    return " ".join(
        f"{short_label(record)}: {plain(record['sentence'])}"
        for record in document["verdict"]
        if record["section"] == section and record.get("label")
    )


def sentences(lines: Sequence[str]) -> str:
    """Lines as one sentence."""
    return "; ".join(lines) + "."
