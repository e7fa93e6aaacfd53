"""How near is every method to the exact posterior? By Markov chains, run once."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Array

from ntkuq.calibration import distance
from ntkuq.data import Split
from ntkuq.models import BNN, constructor
from ntkuq.posteriors import NUTS, AbstractPosterior, Predictive
from ntkuq.posteriors.mcmc.mixing import NotMixed

from .base import AbstractExtra


class Reference(AbstractExtra):
    """Markov chains on the problem, and every method's distance to them.

    The chains have the prior precision and the noise that the shared network was
    fitted with. Where they do not mix there are no distances, and the report says so.

    Args:
        method: the chains.
        points: most test points at which predictions are compared.

    >>> Reference(NUTS(chains=2)).name
    'reference'
    """

    name: ClassVar[str] = "reference"
    entry: ClassVar[str] = "distance"
    method: NUTS = NUTS()
    points: int = 1000

    def of_run(
        self, bnn: BNN, data: Split, *, checkpoint: Path | None, key: Array
    ) -> tuple[dict[str, Any], Any]:
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            posterior = self.method.fit(bnn, data.train, checkpoint=checkpoint, key=key)
        for one in caught:
            if not issubclass(one.category, NotMixed):
                warnings.warn_explicit(
                    one.message, one.category, one.filename, one.lineno
                )
        reasons = [
            str(one.message) for one in caught if issubclass(one.category, NotMixed)
        ]
        entry = {
            "text": constructor(self.method),
            "reason": " ".join(reasons[0].split()) if reasons else None,
            "seconds": time.perf_counter() - start,
            "diagnostics": {
                name: value
                for name, value in posterior.diagnostics.items()
                if isinstance(value, bool | int | float | str)
            },
        }
        return {"reference": entry}, None if reasons else posterior

    def of_method(
        self,
        state: Any,
        posterior: AbstractPosterior,
        p: Predictive,
        data: Split,
        *,
        key: Array,
    ) -> dict[str, Any]:
        if state is None:
            return {}
        x = data.test.take(range(min(len(data.test), self.points))).x
        found = distance(posterior.predict(x), state, x)
        return {
            "distance": {
                "n": found.n,
                "scores": {k: v.to_dict() for k, v in found.values.items()},
                "floor": {k: v.to_dict() for k, v in found.floor.items()},
            }
        }
