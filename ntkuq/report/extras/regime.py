"""Does NTK theory apply to the network? Measured once for all methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Array

from ntkuq.data import Split
from ntkuq.models import BNN, Train
from ntkuq.optimization import regime
from ntkuq.optimization.measure import TRAIN
from ntkuq.posteriors import AbstractPosterior, Predictive

from .base import AbstractExtra


class KernelRegime(AbstractExtra):
    """Trains the network anew for each seed and measures how far it is from its kernel.

    Args:
        train: how the network is trained.
        seeds: trainings.

    Raises:
        ValueError: for fewer than 2 seeds.

    >>> KernelRegime(seeds=3).name
    'regime'
    """

    name: ClassVar[str] = "regime"
    entry: ClassVar[str] = "regime"
    train: Train = TRAIN
    seeds: int = 3

    def __check_init__(self):
        if self.seeds < 2:
            raise ValueError(f"KernelRegime: expected seeds >= 2, got {self.seeds}")

    def of_run(
        self, bnn: BNN, data: Split, *, checkpoint: Path | None, key: Array
    ) -> tuple[dict[str, Any], Any]:
        found = regime(bnn, data, train=self.train, seeds=self.seeds, key=key)
        names = (
            "linearization_error",
            "relative_error",
            "kernel_change",
            "alignment",
            "initial_alignment",
        )
        entry = {
            "over": found.over,
            "verdict": found.verdict,
            "scores": {name: getattr(found, name).to_dict() for name in names},
            "claims": [
                {
                    "statement": claim.statement,
                    "word": claim.word,
                    "confirm": claim.confirm,
                    "refute": claim.refute,
                }
                for claim in found.claims
            ],
        }
        return {"regime": entry}, None

    def of_method(
        self,
        state: Any,
        posterior: AbstractPosterior,
        p: Predictive,
        data: Split,
        *,
        key: Array,
    ) -> dict[str, Any]:
        return {}
