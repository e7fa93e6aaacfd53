"""How do scores change when the inputs are shifted?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array

from ntkuq.calibration.severity import severity_curve
from ntkuq.data import Split
from ntkuq.data.shifts import AbstractShift
from ntkuq.models import BNN
from ntkuq.posteriors import AbstractPosterior, Predictive

from .base import AbstractExtra
from .defaults import default_shifts


class Shifts(AbstractExtra):
    """Scores on the test part with its inputs shifted, at every severity.

    Args:
        shifts: name -> shift; `None` for three that fit the inputs (tables or images).
        severities: 0 is the test part as it is.
        points: most test points, the first ones.

    Raises:
        ValueError: without a shift or a severity.

    >>> Shifts(severities=(0, 3)).name
    'shift'
    """

    name: ClassVar[str] = "shift"
    entry: ClassVar[str] = "severity"
    shifts: Mapping[str, AbstractShift] | None = None
    severities: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    points: int = 2000

    def __check_init__(self):
        if not self.severities or (self.shifts is not None and not self.shifts):
            raise ValueError("Shifts: expected at least one shift and one severity")

    def of_run(
        self, bnn: BNN, data: Split, *, checkpoint: Path | None, key: Array
    ) -> tuple[dict[str, Any], Any]:
        return {}, None

    def of_method(
        self,
        state: Any,
        posterior: AbstractPosterior,
        p: Predictive,
        data: Split,
        *,
        key: Array,
    ) -> dict[str, Any]:
        shifts = default_shifts(data) if self.shifts is None else self.shifts
        part = data.test.take(range(min(len(data.test), self.points)))
        table = severity_curve(
            posterior.predict,
            part,
            shifts,
            self.severities,
            reference=np.asarray(data.train.x),
            key=key,
        )
        rows = [
            {
                "shift": shift,
                "severity": int(severity),
                "scores": {k: v.to_dict() for k, v in table[shift, severity].items()},
            }
            for shift in (*table.shifts, "mean")
            for severity in table.severities
        ]
        return {"severity": rows}
