"""Samples as laws on the host."""

import functools as ft
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from .interval_score import QUANTILES
from .laws import AbstractLaw, uniform
from .proper import crps_sorted


BLOCK = 2_000_000  # numbers held at once besides the samples


@dataclass(frozen=True)
class SampleLaw(AbstractLaw):
    """Draws of which each has the same probability.

    Args:
        values: (..., S), in any order.
    """

    values: np.ndarray = field(repr=False)

    @ft.cached_property
    def ordered(self) -> np.ndarray:
        """The draws of each point and output in increasing order, (..., S)."""
        return np.sort(self.values, axis=-1)

    @property
    def mean(self) -> np.ndarray:
        return self.values.mean(axis=-1)

    @property
    def variance(self) -> np.ndarray:
        out = np.empty(self.values.shape[:-1])
        for rows in self._blocks():
            out[rows] = self.values[rows].var(axis=-1)
        return out

    @property
    def reach(self) -> float:
        return 1.0

    def nll(self, y: np.ndarray) -> np.ndarray:
        raise NotImplementedError(
            "A prediction known only through samples has no density; give a Normal or "
            "a mixture of Normals to get a log density."
        )

    def crps(self, y: np.ndarray) -> np.ndarray:
        out = np.empty(y.shape)
        for rows in self._blocks():
            out[rows] = crps_sorted(self.ordered[rows], y[rows])
        return out

    def quantiles(self, q: np.ndarray) -> np.ndarray:
        return np.moveaxis(self.ordered @ self._weights(q), -1, 0)

    def pinball(self, y: np.ndarray) -> np.ndarray:
        weights, out = self._weights(QUANTILES), np.empty(y.shape)
        for rows in self._blocks(QUANTILES.size):
            gap = y[rows][..., None] - self.ordered[rows] @ weights
            # q d for d > 0 and (q - 1) d for d < 0, in one product
            out[rows] = (gap @ QUANTILES - np.minimum(gap, 0.0).sum(axis=-1)) / (
                QUANTILES.size
            )
        return out

    def pit(self, y: np.ndarray) -> np.ndarray:
        size, u = self.values.shape[-1], uniform(y.shape)
        out = np.empty(y.shape)
        for rows in self._blocks():
            values, at = self.ordered[rows], y[rows][..., None]
            less = np.count_nonzero(values < at, axis=-1)
            equal = np.count_nonzero(values <= at, axis=-1) - less
            out[rows] = (less + u[rows] * (equal + 1)) / (size + 1)
        return out

    def _weights(self, q: np.ndarray) -> np.ndarray:
        """The matrix (S, Q) that interpolates between order statistics."""
        last = self.values.shape[-1] - 1
        place = q * last
        left = np.clip(np.floor(place).astype(int), 0, last)
        right = np.minimum(left + 1, last)
        weights = np.zeros((last + 1, q.size))
        each = np.arange(q.size)
        np.add.at(weights, (left, each), 1 - (place - left))
        np.add.at(weights, (right, each), place - left)
        return weights

    def _blocks(self, size: int = 0) -> Iterator[slice]:
        """Slices of points that fit the memory."""
        shape = self.values.shape
        each = max(int(np.prod(shape[1:-1])) * max(shape[-1], size), 1)
        step = max(BLOCK // each, 1)
        for start in range(0, shape[0], step):
            yield slice(start, start + step)
