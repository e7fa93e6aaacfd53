"""Writing a view of a run document to a file: the suffix picks the view."""

import os
import secrets
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path

from . import html, markdown, tables
from .document import Document, dumps, validate


def write(
    document: Document,
    path: str | PathLike[str],
    baseline: Document | None = None,
) -> Path:
    """Write a view of a run document.

    The file appears whole or not at all: it is written beside its place and renamed.

    Args:
        document: a run document; checked first.
        path: where to; `.html`, `.md`, `.csv`, `.tex` or `.json`.
        baseline: another run, to tell what changed since; .html and .md only.

    Returns:
        The path.

    Raises:
        ValueError: another suffix, or a baseline for a view that cannot show it.
        IsADirectoryError: the path is a directory.
        DocumentError: the document is not usable.
    """
    file = Path(path)
    if file.is_dir() or str(path).endswith(("/", os.sep)):
        raise IsADirectoryError(
            f"{file} is a directory: expected a file, such as {file / 'report.html'}"
        )
    view = _VIEWS.get(file.suffix.lower())
    if view is None:
        known = ", ".join(_VIEWS)
        raise ValueError(f"{file.name}: expected one of {known}, got {file.suffix!r}")
    validate(document)
    if baseline is None:
        text = view(document)
    elif file.suffix.lower() in _COMPARED:
        text = _COMPARED[file.suffix.lower()](document, baseline)
    else:
        raise ValueError(
            f"{file.name}: expected .html or .md with a baseline, got {file.suffix!r}"
        )
    _replace(file, text.encode("utf-8"))
    return file


def _replace(file: Path, content: bytes) -> None:
    # Not the tempfile module: its files are readable by their owner alone.
    beside = file.with_name(f".{file.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        with beside.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)


_VIEWS: Mapping[str, Callable[[Document], str]] = {
    ".html": html.page,
    ".md": markdown.page,
    ".csv": tables.csv,
    ".tex": tables.latex,
    ".json": dumps,
}
#: Views that tell what changed.
_COMPARED: Mapping[str, Callable[[Document, Document], str]] = {
    ".html": html.page,
    ".md": markdown.page,
}
