"""What changed since another run: scores, answers, and what was compared."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ntkuq.report import formats
from ntkuq.report.document import Document
from ntkuq.report.escape import plain, shorten
from ntkuq.report.methods import distinct_labels

from .blocks import Block, Missing, Row, Section, Table, Text
from .method import COLUMNS
from .words import shown_text


#: Parts of the problem whose change is told.
PARTS = (
    ("Data", ("data", "sha256")),
    ("Test points", ("data", "n_test")),
    ("Network", ("network", "text")),
    ("Weights", ("network", "weights")),
    ("Likelihood", ("likelihood",)),
    ("Prior", ("prior",)),
    ("Scaling", ("scaling",)),
)


def changes_section(document: Document, baseline: Document) -> Section:
    """The run beside an earlier one."""
    return Section(
        "changes",
        "What changed",
        "Is it better than the run before?",
        (
            _problem(document, baseline),
            _scores(document, baseline),
            _answers(document, baseline),
        ),
    )


def _problem(document: Document, baseline: Document) -> Block:
    rows = []
    for name, path in PARTS:
        new, old = _at(document["problem"], path), _at(baseline["problem"], path)
        if new != old:
            rows.append(Row(name, (shown_text(old), shown_text(new))))
    for name in ("ntkuq", "seed", "dtype"):
        new, old = document["provenance"].get(name), baseline["provenance"].get(name)
        if new != old:
            rows.append(Row(name, (shown_text(old), shown_text(new))))
    if not rows:
        return Text("Both runs are about the same problem, with the same version.")
    return Table(
        "What differs between the runs.", ("Part", "Before", "Now"), tuple(rows)
    )


def _scores(document: Document, baseline: Document) -> Block:
    title = "Scores before and now"
    old = dict(zip(distinct_labels(baseline), baseline["methods"], strict=True))
    rows: list[Row] = []
    for label, method in zip(
        distinct_labels(document), document["methods"], strict=True
    ):
        if label not in old:
            rows.append(Row(label, note="was not in the run before"))
            continue
        rows += list(_compared(label, old[label], method))
    now = set(distinct_labels(document))
    rows += [Row(name, note="is not in this run") for name in old if name not in now]
    if not rows:
        return Missing("changed-scores", title, "neither run has a method.")
    same = document["problem"]["data"].get("sha256") == baseline["problem"]["data"].get(
        "sha256"
    )
    note = (
        " The runs share their test points, so the standard error of a change, for"
        " which they are taken to be independent, is too large."
        if same
        else " The runs have different data."
    )
    return Table(
        f"{title}, with 95 % intervals of the change.{note}",
        ("Method and score", "Before", "Now", "Change", "Told apart"),
        tuple(rows),
    )


def _compared(
    label: str, old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[Row]:
    if old["status"] != new["status"]:
        yield Row(label, note=f"was {old['status']}, is {new['status']}")
    before, now = old.get("scores") or {}, new.get("scores") or {}
    for name, heading, percentage, _ in COLUMNS:
        a, b = before.get(name), now.get(name)
        if a is None or b is None or a.get("value") is None or b.get("value") is None:
            continue
        factor = 100 if percentage else 1
        change = factor * (b["value"] - a["value"])
        spread = None
        if a.get("se") is not None and b.get("se") is not None:
            spread = factor * float(np.hypot(a["se"], b["se"]))
        ends = (
            None if spread is None else (change - 1.96 * spread, change + 1.96 * spread)
        )
        told = "–" if ends is None else "yes" if ends[0] > 0 or ends[1] < 0 else "no"
        yield Row(
            f"{label}: {heading}",
            (
                formats.number(factor * a["value"], spread),
                formats.number(factor * b["value"], spread),
                formats.number(change, spread)
                + ("" if ends is None else f"\n{formats.bracket(ends, spread)}"),
                told,
            ),
        )


def _answers(document: Document, baseline: Document) -> Block:
    old = {_key(record): record for record in baseline["verdict"]}
    rows = []
    for record in document["verdict"]:
        before = old.get(_key(record))
        if before is not None and before["answer"] != record["answer"]:
            about = plain(record.get("label") or record["code"])
            rows.append(
                Row(
                    shorten(f"{about} ({plain(record['code'])})", 80),
                    (plain(before["answer"]), plain(record["answer"])),
                )
            )
    if not rows:
        return Text("No answer of the verdict changed.")
    return Table("Answers that changed.", ("Line", "Before", "Now"), tuple(rows))


def _key(record: Mapping[str, Any]) -> tuple[str, Any]:
    return record["code"], None if record["code"] == "method" else record.get("label")


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = (tree or {}).get(name)
    return tree
