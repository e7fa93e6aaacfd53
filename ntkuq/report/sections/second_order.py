"""Would a second-order step help the network?"""

from collections.abc import Mapping
from typing import Any

from ntkuq.report import formats
from ntkuq.report.document import Document
from ntkuq.report.escape import plain
from ntkuq.report.methods import why_omitted

from .blocks import Block, Missing, Row, Section, Table, Text
from .words import score_cell


#: Columns of the table: heading and name of the number.
COLUMNS = {
    "Predicted": "predicted",
    "Realized": "realized",
    "On another batch": "elsewhere",
    "Seconds": "seconds",
    "Predicted per second": "predicted_per_second",
    "Realized per second": "realized_per_second",
    "On another batch per second": "per_second",
}


def second_order_section(document: Document) -> Section:
    """Whether a second-order step would help."""
    return Section(
        "second-order",
        "Would second order help?",
        "Should I change the optimizer?",
        _blocks(document),
    )


def _blocks(document: Document) -> tuple[Block, ...]:
    found = document.get("probe")
    if not found:
        why = "it was not asked for: SecondOrder() or --with probe."
        why = why_omitted(document, "probe", why)
        return (Missing("steps", "Decrease per step and per second", why),)
    count = _pairs(found)
    rows = tuple(
        Row(
            plain(row["name"]),
            tuple(_cell(row["scores"].get(name)) for name in COLUMNS.values()),
        )
        for row in found["rows"]
    )
    steps = Table(
        "What one step lowers minus the log posterior by, in nats an example, with 95 %"
        f" intervals over {count}. The step is made from one batch and judged on"
        " another.",
        ("Step", *COLUMNS),
        rows,
    )
    details = [
        Row(plain(row["name"]), (_how(row), _damping(row), _remarks(row)))
        for row in found["rows"]
    ]
    return (
        Text(plain(found["verdict"])),
        steps,
        *_against(found),
        Table(
            "How the steps are made.",
            ("Step", "Directions", "Damping", "Remarks"),
            tuple(details),
            folded=True,
        ),
        *_setting(found.get("setting") or {}),
    )


def _against(found: Mapping[str, Any]) -> tuple[Block, ...]:
    """The steps against the first one."""
    if not found["against"]:
        return ()
    first = plain(found["rows"][0]["name"])
    rows = tuple(
        Row(
            plain(one["name"]),
            (
                plain(one["word"]),
                _cell(one["per_second"]),
                _ratio(one.get("times")),
                _ratio(one.get("times_per_second")),
            ),
        )
        for one in found["against"]
    )
    caption = (
        f"Against a {first} step on the same batches; intervals that hold together."
    )
    columns = (
        "Step",
        "Decision",
        "Difference per second",
        "Times as much a step",
        "Times as much a second",
    )
    return (Table(caption, columns, rows),)


def _pairs(found: Mapping[str, Any]) -> str:
    counts = {row["scores"]["elsewhere"].get("n") for row in found["rows"]} - {None}
    if not counts:
        return "pairs of batches"
    return f"{formats.plural(min(counts), 'pair')} of batches"


def _cell(score: Mapping[str, Any] | None) -> str:
    return score_cell(score, percentage=False)


def _ratio(score: Mapping[str, Any] | None) -> str:
    """A ratio over its interval, which is not symmetric; or why there is none."""
    if score is None or score.get("value") is None:
        return "too uncertain for a ratio"
    return f"{formats.number(score['value'])}\n{formats.interval(score)}"


def _how(row: Mapping[str, Any]) -> str:
    return plain(row.get("how") or "") or "the gradient"


def _damping(row: Mapping[str, Any]) -> str:
    return formats.number(row.get("damping"))


def _remarks(row: Mapping[str, Any]) -> str:
    return plain("; ".join(row.get("remarks") or ()))


def _setting(setting: Mapping[str, str]) -> tuple[Block, ...]:
    """What the numbers depend on."""
    rows = tuple(Row(plain(name), (plain(text),)) for name, text in setting.items())
    return (Table("What this depends on.", ("Setting", "Value"), rows),) if rows else ()
