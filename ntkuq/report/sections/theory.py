"""Kernel regime, and the distance to the exact posterior."""

from typing import Any

from ntkuq.report import formats
from ntkuq.report.document import Document
from ntkuq.report.escape import plain, shorten
from ntkuq.report.methods import distinct_labels, why_omitted, with_entry

from .blocks import Block, Missing, Row, Section, Table, Text
from .words import score_cell


#: Numbers of the regime in words.
REGIME = {
    "linearization_error": "Linearization error, in posterior standard deviations",
    "relative_error": "Linearization error, as a share of what training changed",
    "kernel_change": "Change of the tangent kernel, as a share of its norm",
    "kernel_angle": "Cosine distance of the tangent kernels before and after",
    "alignment": "Alignment of the kernel with the targets, trained",
    "initial_alignment": "Alignment of the kernel with the targets, at initialization",
}


def regime_section(document: Document) -> Section:
    """Whether NTK theory applies."""
    return Section(
        "regime",
        "Kernel regime?",
        "Does NTK theory apply to my network?",
        _regime_blocks(document),
    )


def _regime_blocks(document: Document) -> tuple[Block, ...]:
    found = document.get("regime")
    if not found:
        why = "it was not asked for: KernelRegime() or --with regime."
        why = why_omitted(document, "regime", why)
        return (Missing("kernel", "Kernel and linearization", why),)
    rows = tuple(
        Row(
            REGIME.get(name, plain(name)),
            (
                score_cell({**score, "se": score.get("se")}, percentage=False),
                formats.count(score.get("n")),
            ),
        )
        for name, score in found["scores"].items()
    )
    listed = sorted(found["claims"], key=lambda claim: claim.get("number") or 0)
    claims = tuple(map(_claim, listed))
    setting = found.get("setting") or {}
    follows = tuple(Text(plain(one)) for one in found.get("consequences") or ())
    return (
        Text(plain(found["verdict"])),
        *follows,
        Table(
            f"Measured at test inputs; 95 % intervals over {plain(found['over'])}.",
            ("Quantity", "Value ± SE, interval", f"Number of {plain(found['over'])}"),
            rows,
        ),
        Table(
            "Claims of the theory, decided by the whole interval.",
            ("Claim", "Decision", "Value, interval", "Confirmed", "Refuted", "How"),
            claims,
        ),
        *_setting(setting),
    )


def _claim(claim: dict[str, Any]) -> Row:
    statistic = claim.get("statistic")
    value = "" if statistic is None else score_cell(statistic, percentage=False)
    if claim.get("worst") is not None:
        value += f"\nmost extreme: {formats.number(claim['worst'])}"
    cells = (
        plain(claim["word"]),
        value,
        _threshold(claim["confirm"], "below"),
        _threshold(claim["refute"], "above"),
        plain(claim.get("reason") or claim.get("note") or ""),
    )
    number = f"{claim['number']}. " if claim.get("number") else ""
    return Row(number + plain(claim["statement"]), cells)


def _threshold(rule: object, side: str) -> str:
    """A rule in words; earlier versions wrote its number alone."""
    if isinstance(rule, int | float):
        return f"{side} {formats.number(rule)}"
    return plain(rule)


def _setting(setting: dict[str, str]) -> tuple[Block, ...]:
    """What the statements depend on."""
    if not setting:
        return ()
    rows = tuple(Row(plain(name), (plain(text),)) for name, text in setting.items())
    return (Table("The setting of every statement.", ("Setting", "Value"), rows),)


def reference_section(document: Document) -> Section:
    """How near to the exact posterior."""
    return Section(
        "reference",
        "How near to exact?",
        "Is the approximation or the model at fault?",
        _reference_blocks(document),
    )


def _reference_blocks(document: Document) -> tuple[Block, ...]:
    title = "Distance of the predictions to Markov chains on the same posterior"
    reference = document.get("reference")
    if not reference:
        why = "no reference was asked for: Reference() or --with reference."
        why = why_omitted(document, "distance", why)
        return (Missing("distance", title, why),)
    if reference.get("reason"):
        why = (
            f"the chains are no reference: {shorten(plain(reference['reason']), 400)}."
        )
        return (Missing("distance", title, why),)
    shown = with_entry(document, "distance")
    if not shown:
        why = "no finished method could be compared."
        return (Missing("distance", title, why_omitted(document, "distance", why)),)
    labels = distinct_labels(document)
    names = list(document["methods"][shown[0]]["distance"]["scores"])
    rows = []
    for i in shown:
        found = document["methods"][i]["distance"]
        cells = [score_cell(found["scores"].get(n), percentage=False) for n in names]
        rows.append(Row(labels[i], tuple(cells)))
    floor = document["methods"][shown[0]]["distance"]["floor"]
    if floor:
        cells = [score_cell(floor.get(n), percentage=False) for n in names]
        rows.append(Row("two halves of the chains (floor)", tuple(cells)))
    table = Table(
        f"{title}: {shorten(plain(reference['text']), 200)}.",
        ("Method", *(plain(name).replace("_", " ") for name in names)),
        tuple(rows),
    )
    facts = tuple(
        Row(plain(name), (_value(value),))
        for name, value in (reference.get("diagnostics") or {}).items()
    )
    return (table, Table("The chains.", ("Diagnostic", "Value"), facts))


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return formats.count(value)
    return formats.number(value) if isinstance(value, float) else plain(value)
