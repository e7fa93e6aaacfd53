"""Was the surrogate honest at the points that it chose?"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats


LEVELS = (0.5, 0.8, 0.95)


@dataclasses.dataclass(frozen=True)
class ChosenCalibration:
    """Coverage and standardized residuals of predictions made before observing.

    Args:
        z: (n,) residuals over predicted standard deviations, in the order of asking.
        blocks: (B, 4) rows of count, mean of z, root mean square of z and coverage of
            the 0.8 interval, for consecutive parts of the search.

    For an honest surrogate z has mean 0 and root mean square 1. At points chosen for
    a large value the mean tends to be off even then: winners are chosen too.
    """

    z: Float[np.ndarray, " n"]
    blocks: Float[np.ndarray, "B 4"]

    def coverage(self, level: float) -> float:
        """The share of observations in the central interval of this probability."""
        if not self.z.size:
            return float("nan")
        return float(np.mean(np.abs(self.z) <= stats.norm.ppf(0.5 + level / 2)))

    def to_dict(self) -> dict[str, Any]:
        """All numbers, for JSON."""
        some = self.z.size > 0
        return {
            "count": int(self.z.size),
            "mean_z": float(self.z.mean()) if some else None,
            "rms_z": float(np.sqrt(np.mean(self.z**2))) if some else None,
            "coverage": {str(level): self.coverage(level) for level in LEVELS},
            "blocks": [
                dict(zip(("count", "mean_z", "rms_z", "coverage_80"), row, strict=True))
                for row in self.blocks.tolist()
            ],
        }


def calibration(
    y: Float[np.ndarray, " N"],
    mean: Float[np.ndarray, " N"],
    std: Float[np.ndarray, " N"],
    *,
    blocks: int = 3,
) -> ChosenCalibration:
    """Residuals of the observations that were predicted; others are NaN in `mean`.

    >>> one = np.ones(4)
    >>> calibration(one, 0 * one, one).coverage(0.5)
    0.0
    """
    told = np.isfinite(y) & np.isfinite(mean) & (std > 0)
    z = (y[told] - mean[told]) / std[told]
    width = stats.norm.ppf(0.9)
    rows = [
        [part.size, part.mean(), np.sqrt(np.mean(part**2)), np.mean(abs(part) <= width)]
        for part in np.array_split(z, blocks)
        if part.size
    ]
    return ChosenCalibration(z, np.reshape(np.asarray(rows, np.float64), (-1, 4)))
