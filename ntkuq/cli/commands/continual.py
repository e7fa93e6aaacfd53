"""`ntkuq continual`: tasks one after another, and what is forgotten."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Literal

from ntkuq.cli.commands.base import AbstractCommand, typed
from ntkuq.cli.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Continual(AbstractCommand):
    """Learn the tasks of a stream in turn, and see what is forgotten.

    After each task the network is tested on all of them: accuracy, calibration and
    uncertainty over time, with intervals over seeds.
    """

    stream: Literal[
        "permuted-digits",
        "rotated-digits",
        "split-digits",
        "permuted-mnist",
        "rotated-mnist",
        "split-mnist",
        "permuted-fashion_mnist",
        "rotated-fashion_mnist",
        "split-fashion_mnist",
        "split-cifar10",
        "drifting",
    ] = "permuted-digits"
    """What changes, and the data: permuted or rotated inputs, or classes that come two
    at a time (split, with --heads). digits is shipped; the others are read from the
    directory in NTKUQ_DATA. drifting is a regression."""
    strategy: str = "OnlineLaplace(structure=KFAC())"
    """What is done against forgetting, as in Python: FineTuning(), Joint(), Replay(),
    EWC(strength=1000.0), SynapticIntelligence(), LwF(), VCL(), FROMP(), OGD(), AGEM(),
    DarkReplay(), OnlineLaplace(...)."""
    training: str = "Train(0.001, epochs=10, batch=128)"
    """How to train on each task, where the strategy does not say it."""
    tasks: int | None = None
    """How many tasks; 5 unless given, of split as many as there are."""
    heads: Literal["one", "each"] = "one"
    """Of split: one head for all classes, or each task a head of its own."""
    rows: int | None = None
    """Training rows of a task at most; all unless given."""
    width: int = 100
    """Units of each of the two hidden layers."""
    seeds: int = 3
    """How often it is done, for the intervals."""
    seed: int = 0
    """Seed of everything random."""
    out: str | None = None
    """A directory for states, continual.json, report.html and report.md; a rerun goes
    on from the task that was reached."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where to compute; what JAX finds unless given."""
    x64: bool = False
    """Networks in float64."""
    quiet: bool = False
    """Print what is needed only."""
    json: bool = False
    """One JSON document on stdout, everything else on stderr."""

    def execute(self) -> int:
        for name in ("tasks", "rows", "width", "seeds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name}: expected 1 or more, got {value}")
        if self.heads == "each" and not self.stream.startswith("split"):
            raise UsageError(
                f"--heads each: expected a split stream, got {self.stream}: its tasks "
                "have the same classes"
            )
        target = None if self.out is None else Path(self.out)
        if target is not None and target.is_file():
            raise UsageError(f"--out: expected a directory, got the file {target}")

        # imported here, so that --help answers at once
        from rich.console import Console

        from ntkuq.cli.device import choose_device

        choose_device(self)

        from ntkuq.cli import continual as work

        console = Console(
            stderr=self.json, quiet=self.quiet, soft_wrap=True, highlight=False
        )

        def say(line: str) -> None:
            console.print(line, markup=False)

        try:
            document = work.execute(
                self, target, say, typed(self, positional="strategy_")
            )
        except FloatingPointError as error:
            say(f"failed {error}")
            if self.json:
                print(json.dumps({"failed": str(error)}))
            return 3
        if self.json:
            print(json.dumps(document, allow_nan=False, indent=1))
        elif self.quiet:
            print(document["verdict"][0]["sentence"] if target is None else target)
        return 0

    def interrupted(self) -> str:
        if self.out is None:
            return "interrupted; with --out the next run goes on from the last task"
        return f"interrupted; the same command goes on from the last task in {self.out}"
