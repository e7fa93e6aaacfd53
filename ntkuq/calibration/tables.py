"""Quantile tables as laws on the host."""

from dataclasses import dataclass, field

import numpy as np

from .interval_score import pinball
from .laws import AbstractLaw, uniform
from .proper import crps_quantiles


@dataclass(frozen=True)
class TableLaw(AbstractLaw):
    """Quantiles joined linearly; the mass beyond sits on the outermost ones.

    Args:
        levels: increasing, (Q,) or the same in each row of (..., Q).
        values: quantiles, (..., Q).
    """

    levels: np.ndarray = field(repr=False)
    values: np.ndarray = field(repr=False)

    @property
    def _levels(self) -> np.ndarray:
        return self.levels.reshape(-1, self.levels.shape[-1])[0]

    @property
    def mean(self) -> np.ndarray:
        q, v = self._levels, self.values
        middle = (v[..., 1:] + v[..., :-1]) / 2 @ np.diff(q)
        return middle + q[0] * v[..., 0] + (1 - q[-1]) * v[..., -1]

    @property
    def variance(self) -> np.ndarray:
        q, v = self._levels, self.values - self.mean[..., None]
        low, high = v[..., :-1], v[..., 1:]
        inner = (low**2 + low * high + high**2) / 3 @ np.diff(q)
        return inner + q[0] * v[..., 0] ** 2 + (1 - q[-1]) * v[..., -1] ** 2

    @property
    def reach(self) -> float:
        # Levels may have been rounded to float32.
        q = self._levels
        return float(1 - 2 * max(q[0], 1 - q[-1])) + 1e-6

    def nll(self, y: np.ndarray) -> np.ndarray:
        raise NotImplementedError(
            "A prediction known only through quantiles has no density; give a Normal "
            "or a mixture of Normals to get a log density."
        )

    def crps(self, y: np.ndarray) -> np.ndarray:
        return crps_quantiles(self._levels, self.values, y)

    def quantiles(self, q: np.ndarray) -> np.ndarray:
        levels, last = self._levels, self._levels.size - 1
        if not (levels[0] - 1e-6 <= q.min() and q.max() <= levels[-1] + 1e-6):
            raise NotImplementedError(
                f"The quantile table has levels from {levels[0]:.4g} to "
                f"{levels[-1]:.4g} only."
            )
        right = np.clip(np.searchsorted(levels, q, side="left"), 1, last)
        width = levels[right] - levels[right - 1]
        share = np.clip((q - levels[right - 1]) / width, 0.0, 1.0)
        low, high = self.values[..., right - 1], self.values[..., right]
        return np.moveaxis(low + share * (high - low), -1, 0)

    def pinball(self, y: np.ndarray) -> np.ndarray:
        return pinball(np.moveaxis(self.values, -1, 0), y, self._levels)

    def pit(self, y: np.ndarray) -> np.ndarray:
        q, v, at = self._levels, self.values, y[..., None]
        # Where quantiles equal y, F jumps from the level of the first of them to that
        # of the last; the mass beyond the table is spread over its levels.
        less, most = (v < at).sum(axis=-1), (v <= at).sum(axis=-1)
        last = q.size - 1
        right = np.clip(most, 1, last)
        v0, v1 = _take(v, right - 1), _take(v, right)
        share = (y - v0) / np.where(v1 > v0, v1 - v0, 1.0)
        between = q[right - 1] + (q[right] - q[right - 1]) * share
        low = np.where(less == 0, 0.0, q[np.minimum(less, last)])
        high = np.where(most == q.size, 1.0, q[np.maximum(most - 1, 0)])
        jump = (most > less) | (most == 0) | (less == q.size)
        return np.where(jump, low + uniform(y.shape) * (high - low), between)


def _take(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, index[..., None], axis=-1)[..., 0]
