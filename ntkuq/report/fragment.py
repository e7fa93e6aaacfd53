"""Verdict and table of a run for a notebook: no page, no drawings."""

from .document import Document
from .escape import markdown as quote, plain
from .methods import short_label
from .sections import CODE_WORDS, title
from .sections.blocks import Row
from .sections.method import comparison_table


def html(document: Document) -> str:
    """A `<div>` with the verdict as a list and the scores as a table, escaped."""
    from markupsafe import escape

    def cell(text: str) -> str:
        return str(escape(text)).replace("\n", "<br>")

    lines = "".join(
        f"<li><b>{escape(plain(record['answer']))}</b> {escape(_about(record))}: "
        f"{escape(plain(record['sentence']))}</li>"
        for record in document["verdict"]
    )
    table = comparison_table(document)
    head = "".join(f'<th scope="col">{cell(name)}</th>' for name in table.columns)
    body = "".join(_row(row, len(table.columns) - 1, cell) for row in table.rows)
    return (
        f"<div><p><b>{escape(title(document))}</b></p><ul>{lines}</ul>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def markdown(document: Document) -> str:
    """The verdict as a Markdown list, and the scores as a table."""
    lines = [
        f"- **{quote(record['answer'])}** {quote(_about(record))}: "
        f"{quote(record['sentence'])}"
        for record in document["verdict"]
    ]
    table = comparison_table(document)
    width = len(table.columns)
    rows = [list(table.columns), ["---"] * width]
    for row in table.rows:
        cells = row.cells if row.note is None else (row.note,)
        rows.append([row.header, *cells, *[""] * (width - 1 - len(cells))])
    shown = [
        "| " + " | ".join(text if text == "---" else quote(text) for text in row) + " |"
        for row in rows
    ]
    return "\n".join([f"**{quote(title(document))}**", "", *lines, "", *shown])


def _about(record) -> str:
    about = CODE_WORDS.get(record["code"], plain(record["code"]))
    if record.get("label") and record["code"] != "method":
        about = f"{about}, {short_label(record)}"
    return about


def _row(row: Row, width: int, cell) -> str:
    if row.note is not None:
        cells = f'<td colspan="{width}">{cell(row.note)}</td>'
    else:
        cells = "".join(f"<td>{cell(text)}</td>" for text in row.cells)
    return f'<tr><th scope="row">{cell(row.header)}</th>{cells}</tr>'
