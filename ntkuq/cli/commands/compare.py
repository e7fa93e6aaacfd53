"""`ntkuq compare`: methods on one problem, one report."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from ntkuq.cli.commands.base import typed
from ntkuq.cli.commands.problem import AbstractProblem
from ntkuq.cli.errors import UsageError
from ntkuq.cli.gates import check_names, met, read_gates, score_names
from ntkuq.cli.wanted import read_extras


@dataclasses.dataclass(frozen=True)
class Compare(AbstractProblem):
    """Fit several uncertainty methods to one network and data set, and compare them.

    Without arguments: UCI concrete (shipped with the package) and an MLP 8-50-50-1.
    Run the same command again to resume or extend a run.
    """

    method: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A method as in Python, such as 'Laplace(structure=KFAC())'; repeat for more.
    Eight methods unless given."""
    level: Annotated[tuple[float, ...], tyro.conf.UseAppendAction] = ()
    """The share of observations that an interval is to hold, such as 0.8; repeat for
    more. 0.5, 0.9 and 0.95 unless given."""
    with_: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="with")
    ] = ()
    """More to find out, separated by commas: regime (does NTK theory apply), probe
    (would a second-order step help), reference (distance to Markov chains), shift
    (shifted inputs), outside (outside data)."""
    fail_on: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Exit with 1 if the audit finds an issue (issue), or even a tip (tip), or if a
    score of any method is on this side of a number ('coverage<0.88'); repeat for
    more."""
    seeds: int = 1
    """Do all of it so many times: the first with --seed, the others with seeds drawn
    from it; the report then says whether the choice hangs on the seed."""
    out: str | None = None
    """Directory of the run; runs/<data> unless given."""
    dry_run: bool = False
    """Print the plan and stop."""
    fresh: bool = False
    """Fit again what is stored already."""

    def folder(self) -> Path:
        """The directory of the run."""
        return Path("runs") / self.stem() if self.out is None else Path(self.out)

    def interrupted(self) -> str:
        if self.dry_run:
            return "interrupted"
        return (
            f"interrupted; finished methods are kept in {self.folder()}. Run the same "
            "command again to go on."
        )

    def execute(self) -> int:
        gates = read_gates(self.fail_on)
        wanted = read_extras(self.with_)
        if self.seeds < 1:
            raise UsageError(f"--seeds: expected 1 or more, got {self.seeds}")

        # imported here, so that --help answers at once
        from ntkuq.cli.device import choose_device
        from ntkuq.cli.setting import console_of, limits_of, load_problem

        limits = limits_of(self)
        choose_device(self)
        console = console_of(self)
        bnn, methods, data, notes = load_problem(self, self.method)
        if any(gate.sign is not None for gate in gates):
            task = "classification" if bnn.likelihood.classes else "regression"
            check_names(gates, score_names(task, self.level or (0.5, 0.9, 0.95)))

        import jax

        from ntkuq.cli.progress import Printed
        from ntkuq.report import compare, terminal
        from ntkuq.report.run import show_plan

        progress = Printed(console, bar=not self.no_progress, dry_run=self.dry_run)
        # the usual levels are those of the scores
        levels: dict[str, Any] = {"levels": self.level} if self.level else {}
        from ntkuq.cli.extras import EXTRAS

        with progress:
            result = None
            if self.dry_run:
                show_plan(bnn, methods, data, limits, progress, notes)
                if self.seeds > 1:
                    progress.note(f"all of it {self.seeds} times, see --seeds")
            else:
                result = compare(
                    bnn,
                    methods,
                    data,
                    out=self.folder(),
                    limits=limits,
                    progress=progress,
                    warnings=notes,
                    command=typed(self, positional="model"),
                    fresh=self.fresh,
                    seeds=self.seeds,
                    extras=tuple(EXTRAS[name]() for name in wanted),
                    **levels,
                    key=jax.random.key(self.seed),
                )
        if result is None:
            return 0
        console.print()
        terminal.render(result.document, console)
        report = result.report(self.folder() / "report.html")
        if self.json:
            print(json.dumps(result.document, allow_nan=False, default=_plain))
        elif self.quiet:
            print(report)
        else:
            console.print(
                f"\nreport {report}   (run the same command again to resume or extend)",
                markup=False,
            )
        failed = met(gates, result.document)
        for line in failed:
            print(line, file=sys.stderr)
        statuses = [method["status"] for method in result.document["methods"]]
        later = (result.document.get("seeds") or {}).get("missing", ())
        statuses += [one["status"] for one in later if one["status"] == "failed"]
        if failed:
            return 1
        return 3 if "failed" in statuses or "done" not in statuses else 0


def _plain(value: Any) -> Any:
    return value.item()
