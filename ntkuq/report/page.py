"""What a page shows, before it becomes HTML or Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .sections.blocks import Section


@dataclass(frozen=True)
class Page:
    """A page of any kind of document: verdict, sections, drawings.

    Args:
        title, subtitle: the heading, and one line under it.
        verdict: records with `code`, `answer`, `sentence`, `section` and `rule`.
        sections: in reading order.
        draw: key of a figure -> Matplotlib figure.
        version, created, schema: of the document, for the last line.
        words: verdict codes in words, beside those of a comparison.
    """

    title: str
    subtitle: str
    verdict: tuple[Mapping[str, Any], ...]
    sections: tuple[Section, ...]
    draw: Callable[[str], Any]
    version: str
    created: str
    schema: str
    words: Mapping[str, str] = field(default_factory=dict)
