"""`ntkuq fit`: one method, its posterior in a file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from ntkuq.cli.commands.problem import AbstractProblem
from ntkuq.cli.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Fit(AbstractProblem):
    """Fit one method to the training rows and save its posterior.

    It is the posterior that `compare` fits with the same flags. `--split 1` uses all
    rows of a file for training.
    """

    method: str | None = None
    """The method as in Python, such as 'Laplace(structure=KFAC())'."""
    out: str | None = None
    """The file of the posterior; <data>-<method>.eqx unless given."""
    force: bool = False
    """Write over a file that exists."""

    def execute(self) -> int:
        if self.method is None:
            raise UsageError(
                "expected --method, such as --method 'Laplace(structure=KFAC())'"
            )

        # imported here, so that --help answers at once
        from ntkuq.cli.device import choose_device
        from ntkuq.cli.problem import load_method
        from ntkuq.cli.setting import console_of, limits_of

        limits = limits_of(self)
        method = load_method(self.method)
        target = self._target()
        choose_device(self)

        from ntkuq.cli import fitting
        from ntkuq.posteriors import save

        console = console_of(self)
        problem = fitting.load_training(self, method)
        for note in problem.notes:
            console.print(f"note   {note}", markup=False)
        fitting.need(problem, method, limits)
        found = fitting.fit(
            problem, method, console, bar=not self.no_progress, seed=self.seed
        )
        if isinstance(found, str):
            raise_failed = f"failed {self.method}: {found}"
            console.print(raise_failed, markup=False)
            if self.json:
                print(json.dumps({"method": self.method, "failed": found}))
            elif self.quiet:
                print(raise_failed)
            return 3
        save(target, found.posterior, data=problem.train)
        record = found.record() | {"posterior": str(target)}
        fitting.show(record, console)
        if self.json:
            print(json.dumps(record, allow_nan=False))
        elif self.quiet:
            print(target)
        else:
            console.print(
                f"\nsaved  {target}   (ntkuq.load({str(target)!r}, network) reads it)",
                markup=False,
            )
        return 0

    def _target(self) -> Path:
        """Where to save, checked before anything is fitted."""
        if self.out is None:
            from ntkuq.report.catalog import slug

            target = Path(f"{self.stem()}-{slug(self.method or '')[:60]}.eqx")
        else:
            target = Path(self.out)
        if target.is_dir() or not target.parent.is_dir():
            what = "a directory" if target.is_dir() else "no directory for it"
            raise UsageError(
                f"--out: expected a file to write, got {target}: {what}; name a file "
                "in a directory that exists"
            )
        if target.exists() and not self.force:
            raise UsageError(
                f"--out: {target} exists; --force writes over it, or name another file"
            )
        return target
