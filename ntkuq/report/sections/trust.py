"""Can I trust it? Coverage and quantiles, or the reliability of probabilities."""

from collections.abc import Iterable, Sequence

from ntkuq.report import formats
from ntkuq.report.document import Document
from ntkuq.report.escape import plain, shorten
from ntkuq.report.formats import Number
from ntkuq.report.methods import (
    curve_rows,
    distinct_labels,
    thin,
    with_curve,
    with_entry,
)

from .blocks import Block, Figure, Row, Section, Table
from .words import as_percentage, lacking, said, score_cell, sentences


def trust_section(document: Document) -> Section:
    """Coverage and quantiles for regression, reliability for classes."""
    if document["problem"]["task"] == "regression":
        question = "Do 90 % intervals contain 90 %, everywhere in the distribution?"
        blocks: tuple[Block, ...] = (
            _coverage_block(document),
            _shape_block(document),
            _spread_block(document),
            _width_block(document),
        )
    else:
        question = "When it says 80 %, is it right 80 % of the time?"
        blocks = (_reliability_block(document), _classes_block(document))
    return Section("trust", "Can I trust it?", question, blocks)


def _coverage_block(document: Document) -> Block:
    heading = "Coverage of intervals, minus their level"
    shown = with_curve(document, "coverage")
    if not shown:
        why = "the run has no coverage curves: no finished method gave intervals."
        return lacking(document, "coverage", heading, why)
    labels = distinct_labels(document)
    levels = _shown_levels(document, shown)
    rows = tuple(Row(labels[i], _coverage_cells(document, i, levels)) for i in shown)
    return Figure(
        "coverage",
        heading,
        "Zero is a calibrated method: its intervals hold as many points as they claim."
        " Below zero: too narrow. The gray band is where a calibrated method would be"
        " at this number of points, 95 times in 100, at each level.",
        "Observed minus nominal coverage by level. " + said(document, "coverage"),
        Table(
            "Observed coverage in %, by nominal level; in brackets where a calibrated"
            " method would be, 95 times in 100.",
            ("Method", *(f"{formats.level(level)} %" for level in levels)),
            rows,
        ),
    )


def _shown_levels(document: Document, shown: Iterable[int]) -> tuple[Number, ...]:
    """Up to nine levels of the first curve that the table under the figure lists."""
    first = next(iter(shown))
    rows = curve_rows(document["methods"][first], "coverage")
    available = [round(row[0], 4) for row in rows]
    wanted = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
    near = {min(available, key=lambda a, w=w: abs(a - w)) for w in wanted}
    return tuple(sorted(near))


def _coverage_cells(
    document: Document, index: int, levels: Sequence[Number]
) -> tuple[str, ...]:
    by_level = {
        round(row[0], 4): row
        for row in curve_rows(document["methods"][index], "coverage")
    }
    cells = []
    for level in levels:
        if level in by_level:
            _, observed, lower, upper = by_level[level]
            band = formats.percents((lower, upper))
            cells.append(f"{formats.percent(observed)}\n{band}")
        else:
            cells.append(f"{formats.MISSING} (not in the curve)")
    return tuple(cells)


def _shape_block(document: Document) -> Block:
    heading = "Are all predicted quantiles right?"
    shown = with_curve(document, "pit")
    if not shown:
        why = (
            "the run has no curves of the probability integral transform: no finished"
            " method gave a whole predictive distribution."
        )
        return lacking(document, "shape", heading, why)
    labels = distinct_labels(document)
    lines, rows = [], []
    for i in shown:
        score = (document["methods"][i].get("scores") or {}).get("pit_ks") or {}
        points = curve_rows(document["methods"][i], "pit")
        outside = sum(not low <= value <= high for _, value, low, high in points)
        share = formats.percent(outside / len(points), 0)
        gap = as_percentage(score)
        p = formats.p_value(score.get("p"))
        lines.append(
            f"{labels[i]}: {share} % of the curve leaves the band, p-value {p}"
        )
        largest = max(points, key=lambda row: abs(row[1] - row[0]))
        rows.append(
            Row(
                labels[i],
                (
                    formats.estimate(gap) if score else formats.MISSING,
                    formats.interval(gap) or formats.MISSING,
                    p,
                    _quantile_gap(*largest[:2]),
                    f"{share} %",
                ),
            )
        )
    return Figure(
        "shape",
        heading,
        "For every quantile, the share of test points below it, minus the share that"
        " should be there. Above zero on the left and below on the right: too narrow."
        " Above zero throughout: predictions too high. A calibrated method stays inside"
        " the gray band throughout, 95 times in 100.",
        "Share of points below each predicted quantile, minus the quantile. "
        + sentences(lines),
        Table(
            "Largest gap between observed and predicted quantiles, in points"
            " (Kolmogorov–Smirnov distance), and the test of uniformity.",
            (
                "Method",
                "Largest gap ± SE",
                "95 % interval",
                "p",
                "Where",
                "Outside the band",
            ),
            tuple(rows),
        ),
    )


def _quantile_gap(grid: Number, observed: Number) -> str:
    return f"{formats.percent(grid)} % quantile holds {formats.percent(observed)} %"


def _reliability_block(document: Document) -> Block:
    heading = "Accuracy minus stated confidence"
    shown = with_curve(document, "reliability")
    if not shown:
        why = "the run has no reliability curves."
        return lacking(document, "reliability", heading, why)
    labels = distinct_labels(document)
    rows = []
    for i in shown:
        for confidence, accuracy, count, lower, upper in thin(
            curve_rows(document["methods"][i], "reliability"), 20
        ):
            band = formats.percents((lower, upper))
            rows.append(
                Row(
                    labels[i],
                    (
                        formats.percent(confidence),
                        formats.percent(accuracy),
                        band,
                        formats.count(count),
                    ),
                )
            )
    return Figure(
        "reliability",
        heading,
        "Zero is a calibrated method. Below zero: too sure. The line is the isotonic"
        " estimate, which needs no bins; marks are bins, larger and darker for more"
        " test points, as are the bars at the bottom. The gray band is where a"
        " calibrated method with these confidences would be, 95 times in 100.",
        "Accuracy minus stated confidence by confidence. "
        + said(document, "reliability"),
        Table(
            "Accuracy by stated confidence, in %, with the range in which a calibrated"
            " method would be, 95 times in 100.",
            ("Method", "Confidence", "Accuracy", "Consistency band", "n"),
            tuple(rows),
        ),
    )


def _spread_block(document: Document) -> Block:
    heading = "Are errors larger where the predicted spread is larger?"
    shown = with_curve(document, "spread")
    if not shown:
        why = "the run has no curves of errors by predicted spread."
        return lacking(document, "spread", heading, why)
    labels = distinct_labels(document)
    rows, lines = [], []
    for i in shown:
        points = curve_rows(document["methods"][i], "spread")
        outside = sum(not low <= ratio <= high for _, ratio, _, low, high in points)
        lines.append(f"{labels[i]}: {outside} of {len(points)} bins outside the band")
        for std, ratio, count, low, high in thin(points, 10):
            rows.append(
                Row(
                    labels[i],
                    (
                        formats.number(std),
                        formats.number(ratio),
                        formats.bracket((low, high)),
                        formats.count(count),
                    ),
                )
            )
    return Figure(
        "spread",
        heading,
        "The points are sorted by their predicted standard deviation. One: errors as"
        " large as predicted. Above: too narrow there. A curve over one place only:"
        " the method predicts nearly the same spread everywhere. The gray band is where"
        " a calibrated method would be, 95 times in 100, in each bin.",
        f"{heading} {sentences(lines)}",
        Table(
            "Root mean squared error over predicted standard deviation, by the latter.",
            ("Method", "Predicted", "Error ÷ predicted", "Consistency band", "n"),
            tuple(rows),
        ),
    )


def _width_block(document: Document) -> Block:
    heading = "How much do the widths of the intervals vary?"
    shown = with_curve(document, "widths")
    if not shown:
        why = "the run has no quantiles of widths."
        return lacking(document, "widths", heading, why)
    labels = distinct_labels(document)
    wanted = (0.05, 0.25, 0.5, 0.75, 0.95)
    rows = []
    for i in shown:
        points = curve_rows(document["methods"][i], "widths")
        near = [min(points, key=lambda row, w=w: abs(row[0] - w)) for w in wanted]
        rows.append(Row(labels[i], tuple(formats.number(row[1]) for row in near)))
    return Table(
        f"{heading} Quantiles over the test points of the width of 90 % intervals.",
        ("Method", *(f"{formats.level(w)} %" for w in wanted)),
        tuple(rows),
    )


def _classes_block(document: Document) -> Block:
    heading = "Each class against the rest"
    shown = with_entry(document, "classes")
    if not shown:
        why = "the run has no numbers by class."
        return lacking(document, "classes", heading, why)
    labels = distinct_labels(document)
    rows = tuple(
        Row(
            f"{labels[i]}: {shorten(plain(one['name']), 60)}",
            (
                formats.count(one["n"]),
                *(
                    score_cell(one["scores"].get(name), percentage=True)
                    for name in ("mean_probability", "share", "difference")
                ),
            ),
        )
        for i in shown
        for one in document["methods"][i]["classes"]
    )
    return Table(
        f"{heading}: mean predicted probability minus share of the test points, in %;"
        " zero for a calibrated method.",
        ("Method and class", "n", "Mean probability", "Share", "Difference"),
        rows,
        folded=True,
    )
