"""Mixtures of Normals as laws on the host."""

from dataclasses import dataclass, field

import numpy as np

from .interval_score import QUANTILES, pinball
from .laws import AbstractLaw, summed
from .mixture_quantiles import Rows
from .proper import crps_mixture


@dataclass(frozen=True)
class MixtureLaw(AbstractLaw):
    """Mixtures of M Normals.

    Args:
        weights: (..., M), summing to one.
        loc: means, (..., M).
        scale: standard deviations, (..., M).
    """

    weights: np.ndarray = field(repr=False)
    loc: np.ndarray = field(repr=False)
    scale: np.ndarray = field(repr=False)

    @property
    def mean(self) -> np.ndarray:
        return np.sum(self.weights * self.loc, axis=-1)

    @property
    def variance(self) -> np.ndarray:
        spread = (self.loc - self.mean[..., None]) ** 2
        return np.sum(self.weights * (self.scale**2 + spread), axis=-1)

    @property
    def reach(self) -> float:
        return 1.0

    def nll(self, y: np.ndarray) -> np.ndarray:
        from scipy import special

        z = (y[..., None] - self.loc) / self.scale
        each = -0.5 * z**2 - np.log(self.scale) - 0.5 * np.log(2 * np.pi)
        return summed(-special.logsumexp(each, b=self.weights, axis=-1))

    def crps(self, y: np.ndarray) -> np.ndarray:
        return crps_mixture(self.weights, self.loc, self.scale, y)

    def quantiles(self, q: np.ndarray) -> np.ndarray:
        flat = self._flat()
        out = np.empty((q.size, flat.loc.shape[0]))
        for rows in flat.blocks():
            out[:, rows] = flat.part(rows).quantiles(q)
        return out.reshape(q.size, *self.loc.shape[:-1])

    def pinball(self, y: np.ndarray) -> np.ndarray:
        flat, at = self._flat(), y.reshape(-1)
        out = np.empty(at.size)
        for rows in flat.blocks():
            quantiles = flat.part(rows).quantiles(QUANTILES)
            out[rows] = pinball(quantiles, at[rows], QUANTILES)
        return out.reshape(y.shape)

    def pit(self, y: np.ndarray) -> np.ndarray:
        return self.cdf(y)

    def cdf(self, y: np.ndarray) -> np.ndarray:
        """The distribution function at y, shape of y."""
        from scipy import special

        z = (y[..., None] - self.loc) / self.scale
        return np.sum(self.weights * special.ndtr(z), axis=-1)

    def _flat(self) -> Rows:
        size = self.loc.shape[-1]
        arrays = (self.weights, self.loc, self.scale)
        return Rows(*(a.reshape(-1, size) for a in arrays))
