"""What does it cost? Time, and the trade against the score."""

from collections.abc import Mapping
from typing import Any

from ntkuq.report import formats
from ntkuq.report.document import Document
from ntkuq.report.methods import cost_points, distinct_labels, score_name

from .blocks import Block, Figure, Row, Section, Table
from .words import fit_time, lacking, sentences, status_note


def cost_section(document: Document) -> Section:
    """Time, as a table and against the score."""
    labels = distinct_labels(document)
    rows = tuple(
        _cost_row(label, method)
        for label, method in zip(labels, document["methods"], strict=True)
    )
    table = Table(
        "Time on the device of this run. Where the network was trained in this run, the"
        " time to fit includes training it for every method that uses its weights, or"
        " the prior precision and noise that the training fitted.",
        (
            "Method",
            "Time to fit",
            "of it after training",
            "Time to predict",
            "Per point",
            "Multiple of one network",
        ),
        rows,
    )
    return Section(
        "cost",
        "What does it cost?",
        "How much time does each method take?",
        (table, _cost_block(document)),
    )


def _cost_row(label: str, method: Mapping[str, Any]) -> Row:
    if method["status"] != "done":
        return Row(label, note=status_note(method))
    cost = method.get("cost") or {}
    unmeasured = f"{formats.MISSING} (not measured)"
    predict, points = cost.get("predict_seconds"), cost.get("predict_points")
    each = formats.seconds(predict / points) if predict and points else unmeasured
    relative, own = cost.get("relative_forward"), cost.get("after_training_seconds")
    total = unmeasured
    if predict is not None:
        total = formats.seconds(predict)
        total += f" ({formats.plural(round(points), 'point')})" if points else ""
    return Row(
        label,
        (
            fit_time(method),
            "all" if own is None else formats.seconds(own),
            total,
            each,
            unmeasured if relative is None else f"{formats.number(relative)} ×",
        ),
    )


def _cost_block(document: Document) -> Block:
    name = score_name((document["comparison"] or {}).get("score", "nll"))
    heading = f"Time to fit against {name}"
    points = cost_points(document)
    if not points:
        why = "no finished method has both a time to fit and this score."
        return lacking(document, "price", heading, why)
    labels = distinct_labels(document)
    lines = [
        f"{labels[i]}: {formats.seconds(duration)}, {formats.estimate(score)}"
        for i, duration, score in points
    ]
    rows = tuple(
        Row(
            labels[i],
            (
                formats.seconds(duration),
                formats.estimate(score),
                formats.interval(score) or formats.MISSING,
            ),
        )
        for i, duration, score in points
    )
    return Figure(
        "price",
        heading,
        "Down and to the left is better. Bars are 95 % intervals of each mean score;"
        " methods share the test points, so compare them by the differences above, not"
        " by whether these bars overlap.",
        f"Time to fit and {name}. " + sentences(lines),
        Table(
            f"Time to fit and {name}.",
            ("Method", "Time to fit", "Score ± SE", "95 % interval"),
            rows,
        ),
    )
