"""`ntkuq compare`: methods on one problem, one report."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ntkuq.cli.commands.base import Common
from ntkuq.cli.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Compare(Common):
    """Fit several uncertainty methods to one network and data set, and compare them.

    Without arguments: UCI concrete (shipped with the package) and an MLP 8-50-50-1.
    Run the same command again to resume or extend a run.
    """

    model: Annotated[str | None, tyro.conf.Positional] = None
    """Your network as module:function (key -> eqx.Module), such as nets:build; an MLP
    of two hidden layers unless given."""
    data: str = "concrete"
    """A data set by name (concrete, digits; `ntkuq data` lists all), or a .csv or .npz
    file."""
    target: str | None = None
    """The target column of a .csv file."""
    features: str | None = None
    """The feature columns of a .csv file, separated by commas; all others unless
    given."""
    group: str | None = None
    """A column of a .csv file whose rows with equal values depend on each other."""
    split: str = "0"
    """Number of a standard split; for a file the shares of training and test rows,
    such as 0.8,0.2 (the default)."""
    likelihood: str | None = None
    """Gaussian(), HeteroscedasticGaussian(), Categorical(), Bernoulli() or Poisson();
    by the target unless given."""
    prior: str = "NormalPrior(precision=1.0)"
    """Prior of the parameters; its precision is fitted unless a method says Fixed()."""
    weights: str | None = None
    """Trained weights (eqx.tree_serialise_leaves) of MODEL; trained here unless
    given."""
    scaling: Literal["auto", "none", "standardize"] = "auto"
    """standardize or none. auto: standardize, but keep features that come in one unit
    (digits); with --weights whichever fits the weights to the training data better."""
    method: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A method as in Python, such as 'Laplace(structure=KFAC())'; repeat for more.
    Eight methods unless given."""
    out: str | None = None
    """Directory of the run; runs/<data> unless given."""
    seed: int = 0
    """Seed of everything random."""
    max_memory: float | None = None
    """Skip methods that need more GB than this; four fifths of the free memory unless
    given."""
    max_time: float = 1800.0
    """Skip methods whose fit is estimated to take more seconds than this."""
    x64: bool = False
    """Networks in float64 (linear algebra always is)."""
    dry_run: bool = False
    """Print the plan and stop."""
    fresh: bool = False
    """Fit again what is stored already."""
    no_progress: bool = False
    """One line a method instead of a progress bar."""
    quiet: bool = False
    """Print the path of the report only."""
    json: bool = False
    """Print the run document on stdout, everything else on stderr."""

    def folder(self) -> Path:
        """The directory of the run."""
        if self.out is not None:
            return Path(self.out)
        stem = Path(self.data).stem if self._is_file() else self.data
        if self.model is not None:
            stem = f"{stem}-{self.model.replace(':', '-').replace('.', '-')}"
        if self.split != "0":
            stem = f"{stem}-split-{self.split.replace(',', '-')}"
        return Path("runs") / stem

    def interrupted(self) -> str:
        if self.dry_run:
            return "interrupted"
        return (
            f"interrupted; finished methods are kept in {self.folder()}. Run the same "
            "command again to go on."
        )

    def _is_file(self) -> bool:
        return Path(self.data).suffix.lower() in {".csv", ".npz"}

    def execute(self) -> int:
        import jax

        jax.config.update("jax_enable_x64", self.x64)
        # imported here, so that --help answers at once
        from rich.console import Console

        from ntkuq.cli import problem
        from ntkuq.cli.progress import Printed
        from ntkuq.report import Limits, compare, terminal
        from ntkuq.report.run import show_plan

        memory = 1.0 if self.max_memory is None else self.max_memory
        if not (self.max_time > 0 and memory > 0):
            raise UsageError(
                f"expected --max-time and --max-memory > 0, got {self.max_time} and "
                f"{self.max_memory}"
            )
        console = Console(
            stderr=self.json, quiet=self.quiet, soft_wrap=True, highlight=False
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            data = problem.load_data(self)
        notes = [str(w.message) for w in caught]
        methods = problem.load_methods(self)
        bnn, remarks = problem.load_bnn(self, data, methods)
        notes += remarks
        limits = Limits(
            self.max_time, None if self.max_memory is None else 1e9 * self.max_memory
        )
        progress = Printed(console, bar=not self.no_progress, dry_run=self.dry_run)
        with progress:
            result = None
            if self.dry_run:
                show_plan(bnn, methods, data, limits, progress, notes)
            else:
                result = compare(
                    bnn,
                    methods,
                    data,
                    out=self.folder(),
                    limits=limits,
                    progress=progress,
                    warnings=notes,
                    command=_command(),
                    fresh=self.fresh,
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
        statuses = [method["status"] for method in result.document["methods"]]
        return 3 if "failed" in statuses or "done" not in statuses else 0


def _plain(value: Any) -> Any:
    return value.item()


def _command() -> str:
    """What was typed, with the program's name instead of its path."""
    return shlex.join(["ntkuq", *sys.argv[1:]])
