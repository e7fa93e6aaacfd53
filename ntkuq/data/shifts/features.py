"""Shifts of features: noise, drift, wrong units, flipped categories."""

import dataclasses
from typing import final

import numpy as np

from ntkuq.data.errors import DataError
from ntkuq.data.shifts.tables import AbstractTableShift, floats, needed, spread


@final
@dataclasses.dataclass(frozen=True)
class FeatureNoise(AbstractTableShift):
    r"""$x_j + c\,\sigma_j z$ with standard normal $z$ for every entry.

    $\sigma_j$ is the standard deviation of feature j in the reference; a feature that
    is constant there stays as it is.

    Args:
        levels: c, in standard deviations of the reference.

    >>> import jax
    >>> x = np.zeros((4, 2))
    >>> reference = np.array([[-1.0, 5.0], [1.0, 5.0]])
    >>> noisy = FeatureNoise()(
    ...     x, severity=5, reference=reference, key=jax.random.key(0)
    ... )
    >>> bool((noisy[:, 0] != 0).all()), noisy[:, 1].tolist()
    (True, [0.0, 0.0, 0.0, 0.0])
    """

    levels: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0, 2.0)

    def apply(
        self,
        x: np.ndarray,
        level: float,
        reference: np.ndarray | None,
        rng: np.random.Generator,
    ) -> np.ndarray:
        scale = spread(needed(self, reference))
        return floats(self, x) + level * scale * rng.standard_normal(x.shape)


@final
@dataclasses.dataclass(frozen=True)
class MeanShift(AbstractTableShift):
    r"""$x_j \pm c\,\sigma_j$: every feature drifts, all rows alike.

    The sign of each feature is random, $\sigma_j$ is its standard deviation in the
    reference.

    Args:
        levels: c, in standard deviations of the reference.
    """

    levels: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0, 2.0)

    def apply(
        self,
        x: np.ndarray,
        level: float,
        reference: np.ndarray | None,
        rng: np.random.Generator,
    ) -> np.ndarray:
        side = rng.choice([-1.0, 1.0], size=x.shape[1])
        return floats(self, x) + level * side * spread(needed(self, reference))


@final
@dataclasses.dataclass(frozen=True)
class ScaleShift(AbstractTableShift):
    """A wrong unit: all values of some features are multiplied by c.

    Args:
        levels: c. Yards for meters are 1.09, US gallons for liters 0.26, inches for
            centimeters 0.39, centimeters for millimeters 0.1: unit errors come at
            every size.
        share: share of the features, chosen at random, rounded up.
    """

    levels: tuple[float, ...] = (1.1, 1.25, 1.5, 2.0, 10.0)
    share: float = 0.5

    def __post_init__(self):
        if not 0 < self.share <= 1:
            raise DataError(
                f"ScaleShift: expected a share of features in (0, 1], came {self.share}"
            )

    def apply(
        self,
        x: np.ndarray,
        level: float,
        reference: np.ndarray | None,
        rng: np.random.Generator,
    ) -> np.ndarray:
        chosen = first_of(x.shape[1], self.share, rng)
        return np.where(chosen, level, 1.0) * floats(self, x)


@final
@dataclasses.dataclass(frozen=True)
class CategoryFlip(AbstractTableShift):
    """A share of the entries of some columns gets another category.

    The new one is drawn evenly from the other values that the column takes in the
    reference. Entries hit at one severity are hit in the same way at every higher one.

    Args:
        columns: numbers of the columns with categories.
        levels: shares of the entries of these columns.

    >>> import jax
    >>> x = np.zeros((1000, 2), int)
    >>> flip = CategoryFlip(columns=(1,))
    >>> new = flip(x, severity=4, reference=[[0, 0], [1, 1]], key=jax.random.key(0))
    >>> new[:, 0].sum().item(), bool(150 < new[:, 1].sum() < 250)
    (0, True)
    """

    columns: tuple[int, ...]
    levels: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.4)

    def apply(
        self,
        x: np.ndarray,
        level: float,
        reference: np.ndarray | None,
        rng: np.random.Generator,
    ) -> np.ndarray:
        known, out = needed(self, reference), x.copy()
        for column in self.columns:
            if not 0 <= column < x.shape[1]:
                raise DataError(
                    f"CategoryFlip: expected columns from 0 to {x.shape[1] - 1}, came "
                    f"{column}"
                )
            out[:, column] = _flipped(x[:, column], known[:, column], level, rng)
        return out


def _flipped(
    x: np.ndarray, reference: np.ndarray, share: float, rng: np.random.Generator
) -> np.ndarray:
    """The column with a share of its entries moved to another value."""
    values = np.unique(reference)
    code = np.minimum(np.searchsorted(values, x), len(values) - 1)
    hit, step = rng.random(len(x)) < share, rng.random(len(x))
    known = values[code] == x
    # From a known value to one of the others; from an unknown one to any.
    others = np.where(known, len(values) - 1, len(values))
    move = known + np.floor(step * others).astype(np.intp)
    return np.where(hit, values[(code + move) % len(values)].astype(x.dtype), x)


def first_of(size: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """A random choice of a share of `size` things, rounded up, as a mask.

    The same draws with a larger share keep all that were chosen.

    >>> first_of(8, 0.5, np.random.default_rng(0)).sum().item()
    4
    """
    mask = np.zeros(size, dtype=bool)
    mask[rng.permutation(size)[: int(np.ceil(share * size - 1e-9))]] = True
    return mask
