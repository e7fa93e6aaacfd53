"""`ntkuq report`: another view of a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from ntkuq.cli.commands.base import AbstractCommand
from ntkuq.cli.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Report(AbstractCommand):
    """Write a run as .html, .md, .csv, .tex or .json; nothing is computed again."""

    run: Annotated[str, tyro.conf.Positional]
    """The directory of a run, or its run.json."""
    to: str | None = None
    """The file; its suffix picks the view. report.html in the run's directory unless
    given."""
    baseline: str | None = None
    """Another run, to show what changed since."""

    def execute(self) -> int:
        file = run_document(self.run)
        other = None if self.baseline is None else run_document(self.baseline)

        from ntkuq.report import load, write

        target = file.with_name("report.html") if self.to is None else Path(self.to)
        if other is None:
            print(write(load(file), target))
        else:
            print(write(load(file), target, baseline=load(other)))
        return 0


def run_document(text: str) -> Path:
    """The run document of a directory, or the document itself.

    Raises:
        UsageError: where there is none.
    """
    source = Path(text)
    file = source / "run.json" if source.is_dir() else source
    if not file.is_file():
        raise UsageError(
            f"there is no run document {file}: expected the directory that "
            "`ntkuq compare` wrote, or its run.json"
        )
    return file
