"""Does NTK theory apply to the network? Measured once for all methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Array

from ntkuq.data import Split
from ntkuq.models import BNN, Train
from ntkuq.optimization import Regime, regime
from ntkuq.optimization.kernel_regime.measure import TRAIN
from ntkuq.optimization.kernel_regime.method import STUDIES
from ntkuq.optimization.kernel_regime.study import AbstractStudy
from ntkuq.posteriors import AbstractPosterior, Predictive

from .base import AbstractExtra


class KernelRegime(AbstractExtra):
    """Trains the network anew for each seed and measures how far it is from its kernel.

    Args:
        train: how the network is trained.
        seeds: trainings.
        studies: what else is decided, see `ntkuq.regime`; `()` for the linearization
            and the kernel's change alone.

    Raises:
        ValueError: for fewer than 2 seeds.

    >>> KernelRegime(seeds=3).name
    'regime'
    """

    name: ClassVar[str] = "regime"
    entry: ClassVar[str] = "regime"
    train: Train = TRAIN
    seeds: int = 3
    studies: tuple[AbstractStudy, ...] = STUDIES

    def __check_init__(self):
        if self.seeds < 2:
            raise ValueError(f"KernelRegime: expected seeds >= 2, got {self.seeds}")

    def of_run(
        self, bnn: BNN, data: Split, *, checkpoint: Path | None, key: Array
    ) -> tuple[dict[str, Any], Any]:
        found = regime(
            bnn,
            data,
            train=self.train,
            seeds=self.seeds,
            studies=self.studies,
            key=key,
        )
        return {"regime": regime_entry(found)}, None

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


def regime_entry(found: Regime) -> dict[str, Any]:
    """What a document holds of it, plain numbers and text."""
    names = [
        "linearization_error",
        "relative_error",
        "kernel_change",
        "alignment",
        "initial_alignment",
    ]
    if found.kernel_angle is not None:
        names.append("kernel_angle")
    return {
        "over": found.over,
        "verdict": found.verdict,
        "consequences": list(found.consequences),
        "scores": {name: getattr(found, name).to_dict() for name in names},
        "claims": [claim.to_dict() for claim in found.claims],
        "setting": dict(found.setting),
    }
