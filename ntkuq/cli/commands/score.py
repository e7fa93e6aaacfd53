"""`ntkuq score`: predictions made elsewhere, no model."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import tyro

from ntkuq.cli.commands.base import AbstractCommand, typed
from ntkuq.cli.errors import UsageError
from ntkuq.cli.gates import check_names, met, read_gates


@dataclasses.dataclass(frozen=True)
class Score(AbstractCommand):
    """Score predictions that were made elsewhere: a file with outcomes and predictions.

    Means and standard deviations: --mean mu --std sigma. Class probabilities: --prob
    p0,p1,p2 (or a common prefix). Samples: --samples s (a prefix). Quantiles:
    --quantiles q (a prefix; the names end in the level, such as q0.05). Several files
    with the same outcomes are compared in pairs.
    """

    predictions: Annotated[tuple[str, ...], tyro.conf.Positional]
    """A .csv, .parquet or .npz file, or several. An .npz file holds y and mean and std,
    or samples (S, N), or quantiles (Q, N) and levels, or probabilities (N, C)."""
    y: str = "y"
    """The column of outcomes."""
    mean: str | None = None
    """The column of predicted means."""
    std: str | None = None
    """The column of standard deviations of a new observation, noise included."""
    samples: str | None = None
    """Prefix, or comma-separated names, of columns with samples of new observations."""
    quantiles: str | None = None
    """Prefix, or comma-separated names, of columns with quantiles; each name ends in
    its level, such as q0.05."""
    prob: str | None = None
    """Prefix, or comma-separated names, of columns with class probabilities."""
    group: str | None = None
    """A column whose rows with equal values depend on each other."""
    level: Annotated[tuple[float, ...], tyro.conf.UseAppendAction] = ()
    """The share of observations that an interval is to hold, such as 0.8; repeat for
    more. 0.5, 0.9 and 0.95 unless given."""
    out: str | None = None
    """Write a report: .html, .md, .csv, .tex, or .json for `ntkuq report`."""
    fail_on: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Exit with 1 if the audit finds an issue (issue), or even a tip (tip), or if a
    score is on this side of a number ('coverage<0.88'); repeat for more."""
    quiet: bool = False
    """Print what is needed only."""
    json: bool = False
    """Print the run document, with scores and verdict, on stdout."""

    def execute(self) -> int:
        gates = read_gates(self.fail_on)
        if not self.predictions:
            raise UsageError("expected a file of predictions, got none")

        from rich.console import Console

        from ntkuq.calibration import score
        from ntkuq.cli import alone
        from ntkuq.cli.predictions import read_made
        from ntkuq.report import terminal, write

        made = {
            label: read_made(path, self)
            for label, path in zip(_labels(self.predictions), self.predictions)
        }
        alone.need_same_outcomes(made)
        levels = self.level or (0.5, 0.9, 0.95)
        scores = {}
        for label, one in made.items():
            grouped = {} if one.group is None else {"group": one.group}
            scores[label] = score(one.predictive, one.y, levels=levels, **grouped)
        names = {n: 0 for s in scores.values() for n in (*s.values, *s.omitted)}
        check_names(gates, list(names))
        command = typed(self, positional="predictions")
        document = alone.document(made, scores, target=self.y, command=command)
        written = None if self.out is None else write(document, self.out)
        console = Console(
            stderr=self.json, quiet=self.quiet, soft_wrap=True, highlight=False
        )
        if len(made) == 1:
            (only,) = scores.values()
            console.print(str(only), markup=False)
            console.print()
            for record in document["verdict"]:
                if record["code"] not in ("method", "audit"):
                    text = f"{record['answer']:<12}{record['sentence']}"
                    console.print(text, markup=False)
        else:
            terminal.render(document, console)
        if self.json:
            print(json.dumps(document, allow_nan=False))
        elif written is not None:
            print(written if self.quiet else f"\nreport {written}")
        failed = met(gates, document)
        for line in failed:
            print(line, file=sys.stderr)
        return 1 if failed else 0


def _labels(paths: tuple[str, ...]) -> list[str]:
    """The files by their names; by their paths where names are shared."""
    stems = [Path(path).stem for path in paths]
    labels = stems if len(set(stems)) == len(stems) else list(paths)
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise UsageError(f"expected different files, got {twice[0]} more than once")
    return labels
