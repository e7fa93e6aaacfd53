"""`ntkuq cite`: what to cite for a run."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import tyro

from ntkuq.cli.commands.base import AbstractCommand
from ntkuq.cli.commands.report import run_document


@dataclasses.dataclass(frozen=True)
class Cite(AbstractCommand):
    """Print BibTeX entries of the methods that a run used."""

    run: Annotated[str, tyro.conf.Positional]
    """The directory of a run, or its run.json."""

    def execute(self) -> int:
        file = run_document(self.run)

        from ntkuq.report import load
        from ntkuq.report.citations import bibtex

        print(bibtex(load(file)))
        return 0
