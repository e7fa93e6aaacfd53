"""`ntkuq report`: another view of a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from ntkuq.cli.commands.base import Common
from ntkuq.cli.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Report(Common):
    """Write a run as .html, .md, .csv, .tex or .json; nothing is computed again."""

    run: Annotated[str, tyro.conf.Positional]
    """The directory of a run, or its run.json."""
    to: str | None = None
    """The file; its suffix picks the view. report.html in the run's directory unless
    given."""

    def execute(self) -> int:
        from ntkuq.report import load, write

        source = Path(self.run)
        file = source / "run.json" if source.is_dir() else source
        if not file.is_file():
            raise UsageError(
                f"there is no run document {file}: expected the directory that "
                "`ntkuq compare` wrote, or its run.json"
            )
        target = file.with_name("report.html") if self.to is None else Path(self.to)
        print(write(load(file), target))
        return 0
