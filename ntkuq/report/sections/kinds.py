"""What kind of uncertainty? The share that more data could remove."""

from ntkuq.report import formats
from ntkuq.report.document import Document
from ntkuq.report.methods import distinct_labels, is_regression, score_of

from .blocks import Block, Figure, Missing, Row, Section, Table
from .words import score_cell, sentences


def kinds_section(document: Document) -> Section:
    """Epistemic and aleatoric uncertainty of every method."""
    return Section(
        "kinds",
        "What kind of uncertainty?",
        "More data or better sensors?",
        (_block(document),),
    )


def with_kinds(document: Document) -> tuple[int, ...]:
    """Places of the finished methods that split their uncertainty."""
    return tuple(
        i
        for i, method in enumerate(document["methods"])
        if method["status"] == "done"
        and all(
            score_of(method, name).get("value") is not None
            for name in ("epistemic", "aleatoric")
        )
    )


def epistemic_share(document: Document, index: int) -> float:
    """Epistemic uncertainty as a share of both."""
    method = document["methods"][index]
    parts = [score_of(method, name)["value"] for name in ("epistemic", "aleatoric")]
    total = sum(parts)
    return parts[0] / total if total > 0 else 0.0


def _block(document: Document) -> Block:
    title = "Epistemic and aleatoric uncertainty"
    shown = with_kinds(document)
    if not shown:
        why = "no finished method tells the two kinds apart."
        return Missing("split", title, why)
    labels = distinct_labels(document)
    regression = is_regression(document)
    units = document["problem"]["data"].get("units") if regression else None
    unit = (f"squared {units}" if units else "squared units") if regression else "nats"
    what = (
        ("Variance of the function", "Variance of the noise")
        if regression
        else ("Mutual information", "Expected entropy")
    )
    rows, lines = [], []
    for i in shown:
        share = formats.percent(epistemic_share(document, i))
        scores = [
            score_of(document["methods"][i], name)
            for name in ("epistemic", "aleatoric")
        ]
        cells = (score_cell(score, percentage=False) for score in scores)
        rows.append(Row(labels[i], (*cells, f"{share} %")))
        lines.append(f"{labels[i]}: {share} % epistemic")
    return Figure(
        "split",
        title,
        "The dark part of a bar is epistemic: uncertainty about the function, which"
        " more data would lower. The light part is aleatoric: noise that stays.",
        f"{title}. {sentences(lines)}",
        Table(
            f"Means over the test points, in {unit}, and the epistemic share.",
            ("Method", *what, "Epistemic share"),
            tuple(rows),
        ),
    )
