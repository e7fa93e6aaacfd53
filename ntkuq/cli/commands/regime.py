"""`ntkuq regime`: is the network lazy, and what follows?"""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Annotated

import tyro

from ntkuq.cli.commands.base import typed
from ntkuq.cli.commands.problem import AbstractProblem
from ntkuq.cli.errors import UsageError
from ntkuq.cli.studies import not_asked, read_studies


@dataclasses.dataclass(frozen=True)
class Regime(AbstractProblem):
    """Test the claims of kernel theory on a network and data.

    The network is trained from several initializations. Each claim is confirmed,
    refuted or undecided by the interval of one number, or not tested for a reason.
    """

    seeds: int = 5
    """How often the network is trained, 2 or more."""
    study: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """What to decide, separated by commas: conditions, rate, layers, settling, phase,
    limit (these unless given), width (with --width), uncertainty (costly); or none."""
    width: Annotated[tuple[int, ...], tyro.conf.UseAppendAction] = ()
    """A width to train as well, for the law over widths; repeat for 3 or more. MODEL
    has to take it, as in build(key, width=50)."""
    points: int | None = None
    """Training inputs of a kernel, 2 or more; as many as have 64 outputs together, but
    16 at least, unless given. Fewer for networks of many outputs. The study
    uncertainty has its own."""
    training: str = "Train()"
    """How to train, as in Python: 'Train(0.01, steps=3000, batch=64)'."""
    out: str | None = None
    """Write regime.json into this directory, or this .json file."""

    def execute(self) -> int:
        if self.seeds < 2:
            raise UsageError(
                f"--seeds: expected 2 or more for an interval, got {self.seeds}"
            )
        if self.points is not None and self.points < 2:
            raise UsageError(f"--points: expected 2 or more, got {self.points}")
        names = read_studies(self.study, widths=self.width)
        target = self._target()

        # imported here, so that --help answers at once
        from ntkuq.cli.device import choose_device
        from ntkuq.cli.setting import console_of, limits_of, load_problem

        limits = limits_of(self)
        choose_device(self)

        import jax

        from ntkuq.cli import regime as work
        from ntkuq.optimization import regime
        from ntkuq.report.extras.regime import regime_entry
        from ntkuq.report.provenance import provenance

        train = work.load_training(self.training)
        console = console_of(self)
        bnn, _, data, notes = load_problem(self, ())
        if self.weights is not None:
            notes.append(
                f"the weights in {self.weights} are not used: the network is trained "
                "from the start, since the claims are about where training begins"
            )
        networks = work.builders(self, bnn, data.train, self.width)
        work.need(bnn, data.train, train, self.seeds, limits)
        for line in work.announce_problem(bnn, data, train, names, self.seeds):
            console.print(line, markup=False)

        def say(line: str) -> None:
            console.print(line, markup=False)

        chosen = work.studies(names, networks, seeds=self.seeds, points=self.points)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                found = regime(
                    bnn,
                    data,
                    train=train,
                    seeds=self.seeds,
                    studies=[work.Announced(study, say) for study in chosen],
                    key=jax.random.key(self.seed),
                )
            except FloatingPointError as error:
                return self._failed(f"failed {error}", say)
            except MemoryError as error:
                raise UsageError(str(error)) from error
        notes += dict.fromkeys(str(w.message) for w in caught)
        left = not_asked(names)
        if left is not None:
            notes.append(left)
        for note in notes:
            console.print(f"note   {note}", markup=False)
        entry = regime_entry(found)
        work.show(entry, console)
        made = provenance(
            command=typed(self, positional="model"),
            seed=self.seed,
            dtype="float64" if self.x64 else "float32",
        )
        document = {
            "schema": "ntkuq/regime/1",
            "provenance": made,
            "data": self.source(),
            "training": self.training,
            "notes": notes,
            **entry,
        }
        text = json.dumps(document, allow_nan=False, indent=1) + "\n"
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        if self.json:
            print(text, end="")
        elif self.quiet:
            print(found.verdict if target is None else target)
        elif target is not None:
            console.print(f"\nwritten {target}", markup=False)
        return 0

    def _failed(self, text: str, say) -> int:
        say(text)
        if self.json:
            print(json.dumps({"failed": text}))
        elif self.quiet:
            print(text)
        return 3

    def _target(self) -> Path | None:
        """The file to write."""
        if self.out is None:
            return None
        path = Path(self.out)
        if path.suffix == ".json":
            if path.is_dir():
                raise UsageError(f"--out: expected a file, got the directory {path}")
            return path
        if path.is_file():
            raise UsageError(
                f"--out: expected a directory or a .json file, got the file {path}"
            )
        return path / "regime.json"
