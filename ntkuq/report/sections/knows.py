"""Does it know what it does not know? Rejection, other data, and shifts."""

from ntkuq.report import formats
from ntkuq.report.document import Document
from ntkuq.report.escape import plain
from ntkuq.report.methods import (
    distinct_labels,
    is_regression,
    score_of,
    why_omitted,
    with_curve,
    with_entry,
)

from .blocks import Block, Figure, Missing, Row, Section, Table
from .words import score_cell, sentences


#: Score, heading, shown as percentage.
DETECTION = (
    ("auroc", "AUROC, %", True),
    ("aupr", "AUPR (outside), %", True),
    ("fpr95", "FPR at 95 % TPR, %", True),
)
#: Name of the average over the kinds of shift.
MEAN = "mean"
SEVERITY = {
    True: (
        ("nll", "Negative log-likelihood", False),
        ("rmse", "RMSE", False),
        ("coverage_90", "Coverage of 90 % intervals, %", True),
    ),
    False: (
        ("nll", "Negative log-likelihood", False),
        ("accuracy", "Accuracy, %", True),
        ("ece", "Calibration error, points", True),
    ),
}


def knows_section(document: Document) -> Section:
    """Risk by coverage, detection of outside data, and calibration under shifts."""
    return Section(
        "knows",
        "Does it know what it does not know?",
        "Can I reject or defer? What about other data?",
        (_selective(document), _detection(document), _severity(document)),
    )


def _selective(document: Document) -> Block:
    title = "Error of what is kept, when the most uncertain predictions are rejected"
    shown = with_curve(document, "selective")
    if not shown:
        why = "no finished method orders its predictions by uncertainty."
        return Missing("selective", title, why_omitted(document, "selective", why))
    labels = distinct_labels(document)
    percentage = not is_regression(document)
    names = (("aurc", "AURC"), ("excess_aurc", "Excess AURC"), ("augrc", "AUGRC"))
    rows, lines = [], []
    for i in shown:
        scores = [score_of(document["methods"][i], name) for name, _ in names]
        cells = (score_cell(s, percentage) if s else formats.MISSING for s in scores)
        rows.append(Row(labels[i], tuple(cells)))
        value = scores[0].get("value")
        lines.append(f"{labels[i]}: AURC {formats.number(value)}")
    loss = "squared error" if is_regression(document) else "share of errors, in %"
    return Figure(
        "selective",
        title,
        "A curve that falls to the left: the method knows where it errs. Flat: its"
        " uncertainty says nothing about its errors. The gray band is the 95 %"
        " interval of the method with the lowest curve.",
        f"{title}. {sentences(lines)}",
        Table(
            f"Area under the curve of risk by coverage (mean {loss}); excess: over an"
            " order by the errors themselves. AUGRC: the same with the errors counted"
            " among all points. Lower is better.",
            ("Method", *(heading for _, heading in names)),
            tuple(rows),
        ),
    )


def _detection(document: Document) -> Block:
    title = "Telling outside data from test data"
    shown = with_entry(document, "detection")
    if not shown:
        why = "no outside data was given: OutsideSets(…) or --with outside."
        return Missing("detection", title, why_omitted(document, "detection", why))
    labels = distinct_labels(document)
    rows = tuple(
        Row(
            f"{labels[i]}: {plain(one['name'])}",
            (
                plain(one["uncertainty"]),
                *(
                    score_cell(one["scores"].get(name), percentage)
                    for name, _, percentage in DETECTION
                ),
            ),
        )
        for i in shown
        for one in document["methods"][i]["detection"]
    )
    return Table(
        f"{title} by the uncertainty of the prediction. AUROC: 50 % is guessing; the"
        " outside set is the positive class; the false positives are test points.",
        ("Method and outside set", "By", *(heading for _, heading, _ in DETECTION)),
        rows,
    )


def _severity(document: Document) -> Block:
    title = "Under shifts of the inputs, by severity"
    shown = with_entry(document, "severity")
    if not shown:
        why = "no shifts were asked for: Shifts(…) or --with shift."
        return Missing("severity", title, why_omitted(document, "severity", why))
    labels = distinct_labels(document)
    columns = SEVERITY[is_regression(document)]
    rows = tuple(
        Row(
            f"{labels[i]}: {plain(one['shift'])}, {one['severity']}",
            tuple(
                score_cell(one["scores"].get(name), percentage)
                for name, _, percentage in columns
            ),
        )
        for i in shown
        for one in document["methods"][i]["severity"]
    )
    kinds = {
        one["shift"] for i in shown for one in document["methods"][i]["severity"]
    } - {MEAN}
    return Figure(
        "severity",
        title,
        "Scores on the test points with their inputs shifted, averaged over the kinds"
        " of shift; severity 0 is the test set as it is. A method that knows what it"
        " does not know keeps its coverage, or its calibration error, while its"
        " accuracy falls. Bars are 95 % intervals over test points.",
        f"{title}: {formats.plural(len(kinds), 'kind')} of shift.",
        Table(
            "Scores by shift and severity.",
            ("Method, shift, severity", *(heading for _, heading, _ in columns)),
            rows,
        ),
    )
