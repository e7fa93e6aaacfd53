"""What sections are made of: text, tables, listings, figures, and gaps."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A row of a table: its header, its cells, or one note over all cells."""

    header: str
    cells: tuple[str, ...] = ()
    note: str | None = None


@dataclass(frozen=True)
class Table:
    """A table; the first column holds the row headers. A long one may be folded."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    folded: bool = False


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Listing:
    """Text to be copied as it is."""

    title: str
    text: str


@dataclass(frozen=True)
class Figure:
    """A drawing, what it shows in words, and the numbers behind it."""

    key: str
    title: str
    how: str  # how to read it
    description: str  # what it shows here, for those who do not see it
    numbers: Table


@dataclass(frozen=True)
class Missing:
    """What could not be computed, and why."""

    key: str
    title: str
    reason: str


type Block = Table | Text | Listing | Figure | Missing


@dataclass(frozen=True)
class Section:
    """A part of the report that answers one question."""

    key: str
    title: str
    question: str
    blocks: tuple[Block, ...]
