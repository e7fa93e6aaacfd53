"""The numbers of a run: tidy CSV with full precision, and a LaTeX table for a paper."""

import csv as _csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

from . import formats
from .document import Document, validate
from .escape import cell, latex as quote
from .methods import distinct_labels
from .sections.method import score_columns
from .sections.words import as_percentage, score_cell


FIELDS: tuple[str, ...] = (
    "label", "method", "seed", "status", "reason", "quantity", "value", "se", "lower",
    "upper", "n",
)  # fmt: skip


def rows(document: Document) -> list[dict[str, Any]]:
    """One row for every number: method, quantity, value, standard error, interval, n.

    Args:
        document: a run document.

    Returns:
        Rows with the keys `FIELDS`, values unrounded, None where there is none. A
        method that failed or was skipped has one row, its reason and no quantity.
    """
    return [row for method in document["methods"] for row in _method_rows(method)]


def _method_rows(method: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    own = dict.fromkeys(FIELDS) | {
        "label": method["label"],
        "method": method["text"],
        "seed": method.get("seed"),
        "status": method["status"],
        "reason": method.get("reason"),
    }
    quantities = list(_quantities(method))
    if not quantities:
        yield own
    for name, score in quantities:
        lower, upper = score.get("interval") or (None, None)
        yield own | {
            "quantity": name,
            "value": score.get("value"),
            "se": score.get("se"),
            "lower": lower,
            "upper": upper,
            "n": score.get("n"),
        }


def _quantities(method: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield from (method.get("scores") or {}).items()
    for fitted in method.get("hyperparameters") or ():
        yield fitted["name"], fitted
    evidence = method.get("log_marginal_likelihood")
    if evidence is not None:
        yield "log_marginal_likelihood", {"value": evidence}
    for name, value in (method.get("cost") or {}).items():
        if value is not None:
            yield name, {"value": value}


def csv(document: Document) -> str:
    """`rows` as CSV text with a header; missing values are empty cells.

    Raises:
        DocumentError: the document is not usable.
    """
    validate(document)
    file = io.StringIO()
    writer = _csv.DictWriter(file, FIELDS, lineterminator="\n")
    writer.writeheader()
    for row in rows(document):
        writer.writerow(
            {k: cell(v) if isinstance(v, str) else v for k, v in row.items()}
        )
    return file.getvalue()


def latex(document: Document) -> str:
    r"""The comparison as a LaTeX tabular for the booktabs package.

    Numbers are rounded from their standard errors; what is not available is a dash,
    explained under the table. The text needs `\usepackage{booktabs}`.

    Raises:
        DocumentError: the document is not usable.
    """
    validate(document)
    shown = score_columns(document)
    width = len(shown) + 2
    headings = ["Method", *(quote(heading) for _, heading, _, _ in shown), "Fit"]
    lines = [
        "% needs \\usepackage{booktabs}; value $\\pm$ standard error on the test set",
        "\\begin{tabular}{l" + "r" * (width - 1) + "}",
        "\\toprule",
        " & ".join(headings) + r" \\",
        "\\midrule",
    ]
    notes = []
    for label, method in zip(
        distinct_labels(document), document["methods"], strict=True
    ):
        if method["status"] != "done":
            cells = ["--"] * (width - 1)
            reason = quote(method.get("reason") or "no reason recorded")
            notes.append(f"% {quote(label)}: {method['status']}: {reason}")
        else:
            scores = method.get("scores") or {}
            cells = [_latex_cell(scores.get(name), pct) for name, _, pct, _ in shown]
            duration = (method.get("cost") or {}).get("fit_seconds")
            cells.append("--" if duration is None else quote(formats.seconds(duration)))
        lines.append(" & ".join([quote(label), *cells]) + r" \\")
    lines += ["\\bottomrule", "\\end{tabular}", *notes, "% --: not available"]
    return "\n".join(lines) + "\n"


def _latex_cell(score: Mapping[str, Any] | None, percentage: bool) -> str:
    if score is None or score.get("value") is None:
        return "--"
    if score.get("se") is None:
        shown = as_percentage(score) if percentage else score
        return quote(formats.number(shown["value"]))
    return quote(score_cell(score, percentage).partition("\n")[0])
