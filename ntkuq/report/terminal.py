"""The comparison and the verdict on a terminal; plain text when piped."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import formats
from .document import Document
from .escape import plain
from .formats import Number
from .methods import best_index, differences, distinct_labels, short_label
from .sections import CODE_WORDS
from .sections.method import score_columns
from .sections.seeds import sentence as seeds_sentence
from .sections.words import as_percentage


if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_STYLES = {"yes": "green", "slightly": "yellow", "no": "red", "cannot tell": "cyan"}
_HEADINGS = {
    "nll": "NLL ± SE",
    "rmse": "RMSE ± SE",
    "crps": "CRPS ± SE",
    "brier": "Brier ± SE",
    "accuracy": "accuracy %",
    "ece": "cal. error %",
    "coverage_90": "cover 90 %",
    "width_90": "width 90 %",
}


def render(document: Document, console: "Console") -> None:
    """Print the table of methods and the verdict.

    Args:
        document: a valid run document.
        console: where to print. On a terminal the text is wrapped and colored; when
            piped, every line is whole and without codes.

    >>> from rich.console import Console
    >>> render(document, Console())  # doctest: +SKIP
    """
    from rich.text import Text

    headings, rows = cells(document)
    if console.is_terminal:
        console.print(_table(headings, rows))
    else:
        for line in _aligned([headings, *rows]):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print()
    for line in verdict_lines(document):
        console.print(line, highlight=False, soft_wrap=not console.is_terminal)
    if document.get("seeds"):
        line = Text(f"over seeds  {seeds_sentence(document)}")
        console.print(line, highlight=False, soft_wrap=not console.is_terminal)


def cells(document: Document) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the comparison as text; a short row did not finish."""
    columns = [c for c in score_columns(document) if c[0] in _HEADINGS]
    ranking = (document["comparison"] or {}).get("score")
    headings = ["method"]
    for name, *_ in columns:
        headings += [_HEADINGS[name], *(["Δ to best"] if name == ranking else [])]
    paired, best = differences(document), best_index(document)
    rows = []
    for index, label in enumerate(distinct_labels(document)):
        method = document["methods"][index]
        if method["status"] != "done":
            rows.append([label, method["status"]])
            continue
        row = [label]
        for name, _, percentage, _ in columns:
            row.append(_cell((method.get("scores") or {}).get(name), percentage))
            if name == ranking:
                row.append("best" if index == best else _difference(paired[index]))
        cost = method.get("cost") or {}
        rows.append([*row, _time(cost.get("fit_seconds")), _predict(cost)])
    return [*headings, "fit", "predict"], rows


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(Text(heading), overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows as lines with columns two spaces apart, as wide as they need."""
    from rich.cells import cell_len

    widths = [0] * max(len(row) for row in rows)
    for row in rows:
        for place, text in enumerate(row):
            widths[place] = max(widths[place], cell_len(text))
    for row in rows:
        padded = (t + " " * (widths[i] - cell_len(t)) for i, t in enumerate(row))
        yield "  ".join(padded).rstrip()


def verdict_lines(document: Document) -> "list[Text]":
    """The verdict and the reasons of unfinished methods as rich texts, one a line."""
    from rich.text import Text

    lines = []
    for method, label in zip(
        document["methods"], distinct_labels(document), strict=True
    ):
        if method["status"] != "done":
            reason = plain(method.get("reason") or "no reason recorded")
            lines.append(Text(f"{label} {method['status']}: {reason}"))
    for record in document["verdict"]:
        about = CODE_WORDS.get(record["code"], plain(record["code"]))
        if record.get("label") and record["code"] != "method":
            about = f"{about}, {short_label(record)}"
        answer = plain(record["answer"])
        line = Text.assemble(
            (f"{answer:<12}", _STYLES.get(answer, "")),
            f"{about}: {plain(record['sentence'])}",
        )
        lines.append(line)
    return lines


def _cell(score: Mapping[str, Any] | None, percentage: bool) -> str:
    if score is None or score.get("value") is None:
        return formats.MISSING
    shown = as_percentage(score) if percentage else score
    if percentage:
        return f"{formats.number(shown['value'], 1.0)} {_interval(shown)}".strip()
    if shown.get("se") is None:
        return formats.number(shown["value"])
    return formats.estimate(shown)


def _interval(score: Mapping[str, Any]) -> str:
    ends = score.get("interval") or ()
    complete = len(ends) == 2 and None not in ends
    return formats.bracket(ends, 1.0) if complete else ""


def _difference(difference: Mapping[str, Any] | None) -> str:
    if difference is None or difference["value"] is None:
        return formats.MISSING
    value = formats.number(difference["value"], difference.get("se"))
    sign = "" if value.startswith((formats.MINUS, "0 ")) else "+"
    return f"{sign}{value} {formats.interval(difference)}".strip()


def _time(duration: Number | None) -> str:
    return formats.MISSING if duration is None else formats.seconds(duration)


def _predict(cost: Mapping[str, Any]) -> str:
    relative = cost.get("relative_forward")
    if relative is not None:
        return f"{formats.number(relative)}×"
    return _time(cost.get("predict_seconds"))
