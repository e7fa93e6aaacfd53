"""Would a second-order step help the network? Probed once for all methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Array

from ntkuq.data import Split
from ntkuq.models import BNN
from ntkuq.optimization.probe import STEPS, AbstractStep, probe
from ntkuq.posteriors import AbstractPosterior, Predictive

from .base import AbstractExtra


class SecondOrder(AbstractExtra):
    """Tries one step of each kind from the trained network.

    Args:
        steps: what is tried; the first is what the others are held against.
        batch: rows of a batch; `None` for up to 256.
        batches: pairs of batches.

    Raises:
        ValueError: for fewer than 2 batches.

    >>> SecondOrder(batches=4).name
    'probe'
    """

    name: ClassVar[str] = "probe"
    entry: ClassVar[str] = "probe"
    steps: Sequence[AbstractStep] = STEPS
    batch: int | None = None
    batches: int = 8

    def __check_init__(self):
        if self.batches < 2:
            raise ValueError(f"SecondOrder: expected batches >= 2, got {self.batches}")

    def of_run(
        self, bnn: BNN, data: Split, *, checkpoint: Path | None, key: Array
    ) -> tuple[dict[str, Any], Any]:
        found = probe(
            bnn,
            data,
            steps=self.steps,
            batch=self.batch,
            batches=self.batches,
            key=key,
        )
        return {"probe": found.to_dict()}, None

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
