"""The flags that name a problem: network, data, likelihood, prior."""

from __future__ import annotations

import abc
import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ntkuq.cli.commands.base import AbstractCommand


#: Endings of the files that `--data`, `--train`, `--calibrate` and `--test` take.
FILES = (".csv", ".npz", ".parquet")


@dataclasses.dataclass(frozen=True)
class AbstractProblem(AbstractCommand, abc.ABC):
    """Flags of every command that takes a network and data."""

    model: Annotated[str | None, tyro.conf.Positional] = None
    """Your network as module:function (key -> eqx.Module), such as nets:build; an MLP
    of two hidden layers unless given. Or a .toml file whose keys are flags (and
    model); flags on the command line win over it."""
    data: str | None = None
    """A data set by name (concrete, the default; `ntkuq data` lists all), or a .csv,
    .parquet or .npz file, which --split divides."""
    train: str | None = None
    """Instead of --data: the file of training rows; with --test."""
    calibrate: str | None = None
    """The file of calibration rows, beside --train."""
    test: str | None = None
    """The file of test rows, beside --train."""
    target: str | None = None
    """The target column of a table."""
    features: str | None = None
    """The feature columns of a table, separated by commas; all others unless given."""
    group: str | None = None
    """A column of a table whose rows with equal values depend on each other."""
    split: str = "0"
    """Number of a standard split; for a file the shares of training and test rows,
    such as 0.8,0.2 (the default), or of training, calibration and test rows, such as
    0.7,0.15,0.15."""
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
    seed: int = 0
    """Seed of everything random."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where to compute; what JAX finds unless given."""
    x64: bool = False
    """Networks in float64 (linear algebra always is)."""
    max_memory: float | None = None
    """The most GB that a method may need by its estimate; four fifths of the free
    memory unless given."""
    max_time: float = 1800.0
    """The most seconds that a fit may take by its estimate."""
    no_progress: bool = False
    """Lines instead of a progress bar."""
    quiet: bool = False
    """Print what is needed only."""
    json: bool = False
    """One JSON document on stdout, everything else on stderr."""

    def source(self) -> str:
        """The data set by name, or the file that holds (the training part of) it."""
        return self.train or self.data or "concrete"

    def stem(self) -> str:
        """A name for the problem, for files and directories."""
        source = self.source()
        is_file = Path(source).suffix.lower() in FILES
        stem = Path(source).stem if is_file else source
        if self.model is not None:
            stem = f"{stem}-{self.model.replace(':', '-').replace('.', '-')}"
        if self.split != "0":
            stem = f"{stem}-split-{self.split.replace(',', '-')}"
        return stem
