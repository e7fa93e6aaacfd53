"""Values that are not there: single entries or whole features, filled in."""

import abc
import dataclasses
from typing import final

import numpy as np

from ntkuq.data.shifts.features import first_of
from ntkuq.data.shifts.tables import AbstractTableShift, floats, needed


class AbstractFill(abc.ABC):
    """What stands in the place of a value that is missing."""

    @abc.abstractmethod
    def values(
        self, rows: int, reference: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Values for every entry, (rows, D) or (1, D), from the reference (M, D)."""


@final
@dataclasses.dataclass(frozen=True)
class MeanFill(AbstractFill):
    """The mean of the feature in the reference."""

    def values(
        self, rows: int, reference: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        return reference.mean(axis=0, dtype=np.float64)[None]


@final
@dataclasses.dataclass(frozen=True)
class DrawFill(AbstractFill):
    """The value of the feature in a random row of the reference, for each entry anew.

    Every feature keeps its distribution; what it says about the row is lost.
    """

    def values(
        self, rows: int, reference: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        picked = rng.integers(0, len(reference), size=(rows, reference.shape[1]))
        return np.take_along_axis(reference, picked, axis=0)


@final
@dataclasses.dataclass(frozen=True)
class FeatureDropout(AbstractTableShift):
    """A share of all entries is missing and filled in.

    Entries hit at one severity are hit in the same way at every higher one.

    Args:
        levels: shares of the entries.
        fill: what stands in their place, `MeanFill()` or `DrawFill()`.

    >>> import jax
    >>> x, reference = np.zeros((1000, 2)), np.array([[1.0, 2.0], [3.0, 2.0]])
    >>> drop = FeatureDropout()
    >>> new = drop(x, severity=5, reference=reference, key=jax.random.key(0))
    >>> np.unique(new).tolist(), bool(0.45 < (new > 0).mean() < 0.55)
    ([0.0, 2.0], True)
    """

    levels: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5)
    fill: AbstractFill = MeanFill()

    def apply(
        self,
        x: np.ndarray,
        level: float,
        reference: np.ndarray | None,
        rng: np.random.Generator,
    ) -> np.ndarray:
        known, exact = needed(self, reference), floats(self, x)
        hit = rng.random(x.shape) < level
        return np.where(hit, self.fill.values(len(x), known, rng), exact)


@final
@dataclasses.dataclass(frozen=True)
class MissingFeatures(AbstractTableShift):
    """Whole features are missing in all rows, as when a sensor fails, and filled in.

    A share of the features, rounded up, is chosen at random; those missing at one
    severity are missing at every higher one. With few features two severities may
    hit the same ones.

    Args:
        levels: shares of the features.
        fill: what stands in their place, `MeanFill()` or `DrawFill()`.
    """

    levels: tuple[float, ...] = (0.1, 0.2, 0.35, 0.5, 0.75)
    fill: AbstractFill = MeanFill()

    def apply(
        self,
        x: np.ndarray,
        level: float,
        reference: np.ndarray | None,
        rng: np.random.Generator,
    ) -> np.ndarray:
        known, exact = needed(self, reference), floats(self, x)
        hit = first_of(x.shape[1], level, rng)
        return np.where(hit, self.fill.values(len(x), known, rng), exact)
