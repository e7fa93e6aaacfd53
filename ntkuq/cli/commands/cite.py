"""`ntkuq cite`: what to cite for a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from ntkuq.cli.commands.base import Common
from ntkuq.cli.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Cite(Common):
    """Print BibTeX entries of the methods that a run used."""

    run: Annotated[str, tyro.conf.Positional]
    """The directory of a run, or its run.json."""

    def execute(self) -> int:
        from ntkuq.report import load
        from ntkuq.report.citations import bibtex

        source = Path(self.run)
        file = source / "run.json" if source.is_dir() else source
        if not file.is_file():
            raise UsageError(f"there is no run document {file}")
        print(bibtex(load(file)))
        return 0
