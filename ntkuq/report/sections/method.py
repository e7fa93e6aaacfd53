"""Which method? The comparison and the paired differences to the best."""

from collections.abc import Sequence

from ntkuq.report import formats
from ntkuq.report.document import Document
from ntkuq.report.escape import plain
from ntkuq.report.methods import best_index, differences, distinct_labels, score_name

from .blocks import Block, Figure, Missing, Row, Section, Table
from .words import fit_time, score_cell, sentences, status_note


# Columns of the comparison table: score, heading, shown as percentage, has data units.
COLUMNS = (
    ("nll", "Negative log-likelihood", False, False),
    ("crps", "CRPS", False, True),
    ("rmse", "RMSE", False, True),
    ("brier", "Brier score", False, False),
    ("miscalibration", "Miscalibration, part of the Brier score", False, False),
    ("discrimination", "Discrimination, part of the Brier score", False, False),
    ("accuracy", "Accuracy, %", True, False),
    ("ece", "Calibration error, points", True, False),
    ("coverage_90", "Coverage of 90 % intervals, %", True, False),
    ("width_90", "Width of 90 % intervals", False, True),
)


def method_section(document: Document) -> Section:
    """The comparison table and the differences to the best method."""
    blocks: list[Block] = [comparison_table(document)]
    reason = _no_comparison(document)
    blocks.append(
        Missing("differences", "Differences to the best method", reason)
        if reason
        else _differences_figure(document)
    )
    return Section(
        "method", "Which method?", "Which should I use for this network?", tuple(blocks)
    )


def comparison_table(document: Document) -> Table:
    """Scores ± standard error with intervals, one row a method."""
    shown = score_columns(document)
    headings = tuple(heading for _, heading, _, _ in shown)
    units = plain(document["problem"]["data"].get("units") or "")
    if units:
        headings = tuple(
            f"{heading}, {units}" if has_units else heading
            for (_, heading, _, has_units) in shown
        )
    rows = tuple(
        _comparison_row(document, i, shown) for i in range(len(document["methods"]))
    )
    return Table(
        "Scores on the test set: value ± standard error, and 95 % interval."
        " Lower is better, except for accuracy; coverage should be at its level.",
        ("Method", *headings, "Time to fit"),
        rows,
    )


def score_columns(document: Document) -> tuple[tuple[str, str, bool, bool], ...]:
    """The columns that at least one method has a score for."""
    present = {name for m in document["methods"] for name in m.get("scores") or {}}
    return tuple(column for column in COLUMNS if column[0] in present)


def _comparison_row(document: Document, index: int, shown: Sequence) -> Row:
    method = document["methods"][index]
    header = method_header(document, index)
    if method["status"] != "done":
        return Row(header, note=status_note(method))
    cells = tuple(
        score_cell((method.get("scores") or {}).get(name), percentage)
        for name, _, percentage, _ in shown
    )
    return Row(header, (*cells, fit_time(method)))


def method_header(document: Document, index: int) -> str:
    """A method's label, with its seed where labels collide, and a mark for the best."""
    method = document["methods"][index]
    header = distinct_labels(document)[index]
    if method["status"] == "done" and index == best_index(document):
        header += " (best score)"
    return header


def _no_comparison(document: Document) -> str:
    """Why there are no differences to draw, or nothing."""
    done = sum(method["status"] == "done" for method in document["methods"])
    if done < 2:
        return f"{formats.plural(done, 'method')} finished; two are needed to compare."
    if not any(d and d["value"] is not None for d in differences(document)):
        return "the run has no paired differences."
    return ""


def _differences_figure(document: Document) -> Figure:
    labels = distinct_labels(document)
    paired = differences(document)
    name = score_name(document["comparison"]["score"])
    best = best_index(document)
    reference = labels[best] if best is not None else "the best"
    rows, lines = [], []
    for label, difference in zip(labels, paired, strict=True):
        if difference is None:
            continue
        told = difference.get("distinguishable")
        state = "worse" if told else "cannot be told from the best"
        value = formats.number(difference["value"], difference.get("se"))
        ends = formats.interval(difference)
        lines.append(f"{label}: {value} {ends}, {state}")
        rows.append(
            Row(
                label,
                (
                    formats.estimate(difference),
                    ends or formats.MISSING,
                    formats.p_value(difference.get("p")),
                    formats.count(difference.get("n")),
                    state,
                    plain(difference.get("caution") or "none"),
                ),
            )
        )
    return Figure(
        "differences",
        f"Difference in {name} to {reference}, the best",
        "Each line is a 95 % interval of the mean difference over the same test points,"
        " adjusted for several comparisons. Filled: told from the best. Hollow: the"
        " data cannot tell it from the best.",
        f"Paired difference in {name} to {reference}. " + sentences(lines),
        Table(
            f"Paired differences in {name} to {reference}; positive is worse.",
            (
                "Method",
                "Difference ± SE",
                "95 % interval",
                "p",
                "n",
                "Result",
                "Caution",
            ),
            tuple(rows),
        ),
    )
