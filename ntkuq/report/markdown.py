"""The report as GitHub-flavored Markdown, for pull requests and model cards."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .document import Document, validate
from .escape import fence, markdown
from .methods import short_label
from .page import Page
from .sections import CODE_WORDS, sections, subtitle, title
from .sections.blocks import (
    Block,
    Figure,
    Listing,
    Missing,
    Row,
    Section,
    Table,
    Text,
)


def page(document: Document, baseline: Document | None = None) -> str:
    """The whole report, with the numbers of each figure in place of the drawing.

    Args:
        document: a run document; checked first.
        baseline: another run, to tell what changed since; checked too.

    Returns:
        Markdown text. Everything from the document is escaped.

    Raises:
        DocumentError: the document is not usable.
    """
    validate(document)
    if baseline is not None:
        validate(baseline)
    lines = _lines(
        title(document),
        subtitle(document),
        document["verdict"],
        sections(document, baseline),
        CODE_WORDS,
    )
    return "\n".join(lines) + "\n"


def render(page: Page) -> str:
    """A page of any kind of document, as `ntkuq.report.html.render` draws it.

    Args:
        page: what is shown; nothing is drawn.

    Returns:
        Markdown text. Everything in it is escaped.
    """
    words = {**CODE_WORDS, **page.words}
    lines = _lines(page.title, page.subtitle, page.verdict, page.sections, words)
    last = f"ntkuq {page.version} · {page.created} · {page.schema}"
    return "\n".join([*lines, "", markdown(last)]) + "\n"


def _lines(
    heading: str,
    under: str,
    verdict: Sequence[Mapping[str, Any]],
    parts: Sequence[Section],
    words: Mapping[str, str],
) -> Iterator[str]:
    yield f"# {markdown(heading)}"
    yield ""
    yield markdown(under)
    yield ""
    yield "## Verdict"
    yield ""
    for record in verdict:
        yield _verdict_line(record, words)
    if not verdict:
        yield "The run has no verdict."
    yield ""
    for section in parts:
        yield f"## {markdown(section.title)}"
        yield ""
        yield f"*{markdown(section.question)}*"
        yield ""
        for block in section.blocks:
            yield from _block(block)
            yield ""
    yield "## Rules of the verdict"
    yield ""
    for rule, code in {r["rule"]: r["code"] for r in verdict}.items():
        yield f"- **{markdown(words.get(code, code))}**: {markdown(rule)}"


def _verdict_line(record: Mapping[str, Any], words: Mapping[str, str]) -> str:
    about = words.get(record["code"], record["code"])
    if record.get("label") and record["code"] != "method":
        about = f"{about}, {short_label(record)}"
    answer, sentence = markdown(record["answer"]), markdown(record["sentence"])
    return f"- **{answer}** · {markdown(about)}: {sentence}"


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Table):
        yield from _table(block)
    elif isinstance(block, Figure):
        yield f"### {markdown(block.title)}"
        yield ""
        yield from _table(block.numbers)
    elif isinstance(block, Missing):
        yield f"### {markdown(block.title)}"
        yield ""
        yield f"Not available: {markdown(block.reason)}"
    elif isinstance(block, Listing):
        yield f"### {markdown(block.title)}"
        yield ""
        yield fence(block.text)
        yield block.text
        yield fence(block.text)
    elif isinstance(block, Text):
        yield markdown(block.text)


def _table(table: Table) -> Iterator[str]:
    yield markdown(table.caption)
    yield ""
    yield _table_line(table.columns)
    yield "|" + " --- |" * len(table.columns)
    for row in table.rows:
        yield _table_line(_cells(row, len(table.columns) - 1))


def _cells(row: Row, width: int) -> list[str]:
    cells = row.cells if row.note is None else (row.note,)
    return [row.header, *cells, *[""] * (width - len(cells))]


def _table_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(markdown(cell) for cell in cells) + " |"
