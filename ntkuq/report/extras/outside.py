"""Can the uncertainty tell outside data from the test data?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import jax
from jaxtyping import Array, PyTree

from ntkuq.calibration.ood import detection
from ntkuq.data import Split
from ntkuq.models import BNN
from ntkuq.posteriors import AbstractPosterior, Predictive

from .base import AbstractExtra
from .defaults import default_outside


#: Name in the run document -> attribute of the record.
_NUMBERS = {"auroc": "auroc", "aupr": "aupr_outside", "fpr95": "fpr95"}


class OutsideSets(AbstractExtra):
    """Detection of inputs that are not of the test data's kind.

    Args:
        sets: name -> inputs, (M, …) like those of the test data; `None` for uniform
            noise and permuted features, and for images the sets that are usual.
        points: most points of each set, the first ones.

    >>> OutsideSets().name
    'outside'
    """

    name: ClassVar[str] = "outside"
    entry: ClassVar[str] = "detection"
    sets: Mapping[str, PyTree] | None = None
    points: int = 2000

    def of_run(
        self, bnn: BNN, data: Split, *, checkpoint: Path | None, key: Array
    ) -> tuple[dict[str, Any], Any]:
        sets = default_outside(data, key=key) if self.sets is None else self.sets
        if not sets:
            raise ValueError("OutsideSets: expected at least one set, got none")
        first = {
            name: jax.tree.map(lambda leaf: leaf[: self.points], x)
            for name, x in sets.items()
        }
        return {}, first

    def of_method(
        self,
        state: Any,
        posterior: AbstractPosterior,
        p: Predictive,
        data: Split,
        *,
        key: Array,
    ) -> dict[str, Any]:
        rows = []
        for name, x in state.items():
            found = detection(p, posterior.predict(x))
            rows.append(
                {
                    "name": name,
                    "uncertainty": found.score,
                    "scores": {
                        name: getattr(found, attribute).to_dict()
                        for name, attribute in _NUMBERS.items()
                    },
                }
            )
        return {"detection": rows}
