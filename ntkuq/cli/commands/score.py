"""`ntkuq score`: predictions made elsewhere, no model."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import tyro

from ntkuq.cli.commands.base import Common
from ntkuq.cli.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Score(Common):
    """Score predictions that were made elsewhere: a file with outcomes and predictions.

    Means and standard deviations: --mean mu --std sigma. Class probabilities:
    --prob p0,p1,p2 (or a common prefix). Samples: --samples s (a prefix).
    """

    predictions: Annotated[str, tyro.conf.Positional]
    """A .csv file."""
    y: str = "y"
    """The column of outcomes."""
    mean: str | None = None
    """The column of predicted means."""
    std: str | None = None
    """The column of standard deviations of a new observation, noise included."""
    samples: str | None = None
    """Prefix, or comma-separated names, of columns with samples of new observations."""
    prob: str | None = None
    """Prefix, or comma-separated names, of columns with class probabilities."""
    json: bool = False
    """Print scores and verdict as JSON."""

    def execute(self) -> int:
        import json

        from rich.console import Console

        from ntkuq.calibration import score
        from ntkuq.data import read_predictions
        from ntkuq.posteriors import Predictive
        from ntkuq.report.single import single

        ways = [self.mean is not None or self.std is not None]
        ways += [self.samples is not None, self.prob is not None]
        if sum(ways) != 1:
            raise UsageError(
                "expected one kind of prediction: --mean with --std, or --samples, or "
                "--prob"
            )
        if (self.mean is None) != (self.std is None):
            missing = "--std" if self.std is None else "--mean"
            raise UsageError(f"--mean and --std go together; {missing} is missing")
        found = read_predictions(
            self.predictions,
            y=self.y,
            mean=self.mean,
            std=self.std,
            samples=_columns(self.samples),
            prob=_columns(self.prob),
        )
        if "prob" in found:
            predictive = Predictive.probabilities(found["prob"])
        elif "samples" in found:
            predictive = Predictive.samples(found["samples"])
        else:
            predictive = Predictive.normal(found["mean"], found["std"])
        scores = score(predictive, found["y"])
        records = single(scores, label=self.predictions)
        if self.json:
            print(json.dumps({**scores.to_dict(), "verdict": records}, allow_nan=False))
            return 0
        console = Console(soft_wrap=True, highlight=False)
        console.print(str(scores), markup=False)
        console.print()
        for record in records:
            console.print(f"{record['answer']:<12}{record['sentence']}", markup=False)
        return 0


def _columns(text: str | None) -> str | list[str] | None:
    if text is None or "," not in text:
        return text
    return [name.strip() for name in text.split(",")]
