"""Which points are independent of each other, and the errors that follow."""

import abc
import functools as ft
from dataclasses import dataclass, field

import numpy as np

from .bootstrap import SEED, cell_counts
from .coverage import coverage
from .means import mean_score, root_of, student, without_error
from .records import Score


class AbstractSampling(abc.ABC):
    """How test points came about: what standard errors and intervals count."""

    n: int

    @property
    @abc.abstractmethod
    def effective(self) -> int:
        """How many independent points the set is worth at least; bands use it."""

    @abc.abstractmethod
    def mean(self, values: np.ndarray, level: float | None = None) -> Score:
        """The mean of values (n,) with standard error and 95 % interval."""

    @abc.abstractmethod
    def share(self, inside: np.ndarray, level: float) -> Score:
        """The share of what is inside, (n,) or (n, C) booleans."""

    @abc.abstractmethod
    def covariance(
        self, cells: np.ndarray, values: np.ndarray, size: int
    ) -> np.ndarray:
        r"""The covariance of sums by cell, $\sum_{i: c_i = k} v_i$, (size, size).

        Args:
            cells: cell of each point or of each output, (n,) or (n, C).
            values: of the same shape.
            size: number of cells.
        """

    @abc.abstractmethod
    def shares(self, counts: np.ndarray, cells: "Cells") -> np.ndarray:
        """Resampled shares of the cells, (draws, size); the same on every run.

        Args:
            counts: points (or outputs) in each cell, (size,).
            cells: finds the cell of each, (n,) or (n, C), where that is needed.
        """

    def root_mean_square(self, squares: np.ndarray) -> Score:
        """The root of the mean of squares (n,), by the delta method."""
        return root_of(self.mean(squares))


class Cells:
    """The cell of each output, found only when asked for."""

    def __init__(self, edges: np.ndarray, values: np.ndarray):
        self._edges, self._values = edges, values

    @ft.cached_property
    def index(self) -> np.ndarray:
        """Cells (a, b], the first closed, in the shape of the values."""
        index = np.searchsorted(self._edges, self._values, side="left") - 1
        return np.clip(index, 0, self._edges.size - 2)


@dataclass(frozen=True)
class Points(AbstractSampling):
    """Points that are independent of each other; outputs of one point are not.

    Args:
        n: number of points.
        draws: resamples of the distances from perfection.

    >>> import numpy as np
    >>> print(Points(4).mean(np.array([1.0, 2.0, 3.0, 4.0])).value)
    2.5
    """

    n: int
    draws: int = 500

    @property
    def effective(self) -> int:
        return self.n

    def mean(self, values: np.ndarray, level: float | None = None) -> Score:
        return mean_score(values, level)

    def share(self, inside: np.ndarray, level: float) -> Score:
        return coverage(inside, level)

    def covariance(
        self, cells: np.ndarray, values: np.ndarray, size: int
    ) -> np.ndarray:
        if values.ndim > 1:
            return self._rows.covariance(cells, values, size)
        mean = np.bincount(cells, values, minlength=size) / self.n
        squares = np.bincount(cells, values**2, minlength=size)
        return np.diag(squares) - self.n * np.outer(mean, mean)

    def shares(self, counts: np.ndarray, cells: Cells) -> np.ndarray:
        if counts.sum() != self.n:
            return self._rows.shares(counts, cells)
        return cell_counts(counts, self.draws) / self.n

    @property
    def _rows(self) -> "Groups":
        return Groups(np.arange(self.n))


@dataclass(frozen=True)
class Groups(AbstractSampling):
    r"""Points of one group may depend on each other; groups are independent.

    With $S_g$ the sum and $n_g$ the number of values in group g, of G groups,
    $\mathrm{se}^2 = \frac{G}{G - 1} \sum_g (S_g - n_g \bar v)^2 / n^2$: the variance of
    the mean when whole groups are resampled. Intervals are Student's with G - 1
    degrees of freedom; a share has no exact binomial interval here. Distances from
    perfection are resampled from the Normal with that covariance.

    Args:
        group: the group of each point, (n,), labels of any kind.
        draws: resamples of the distances from perfection.

    >>> import numpy as np
    >>> twice = np.repeat([1.0, 2.0, 3.0, 4.0], 2)
    >>> a, b = Groups(twice).mean(twice), Points(4).mean(twice[::2])
    >>> print(abs(a.se - b.se) < 1e-12)
    True

    References:
        Liang and Zeger, 1986, Biometrika 73, 13-22. Cameron and Miller, 2015, Journal
        of Human Resources 50, 317-372.
    """

    group: np.ndarray = field(repr=False)
    draws: int = 2000

    @property
    def n(self) -> int:
        """Number of points."""
        return len(self.group)

    @ft.cached_property
    def code(self) -> np.ndarray:
        """Groups numbered from 0, (n,)."""
        return np.unique(self.group, return_inverse=True)[1].reshape(-1)

    @ft.cached_property
    def sizes(self) -> np.ndarray:
        """Number of points in each group, (G,)."""
        return np.bincount(self.code)

    @property
    def effective(self) -> int:
        """Kish's number: what is left when the points of a group are all alike."""
        return max(1, int(self.n**2 / np.sum(self.sizes.astype(float) ** 2)))

    def mean(self, values: np.ndarray, level: float | None = None) -> Score:
        total = self.sizes.size
        if not np.isfinite(values).all() or total < 2:
            return without_error(values, level)
        value = float(np.mean(values))
        deviation = np.bincount(self.code, values - value)
        variance = total / (total - 1) * np.sum(deviation**2) / self.n**2
        # Rounding must not give equal values a spread.
        same = np.ptp(values) <= 1e-12 * abs(value)
        se = 0.0 if same else float(np.sqrt(variance))
        half = student(total) * se
        return Score(value, se, self.n, (value - half, value + half), level=level)

    def share(self, inside: np.ndarray, level: float) -> Score:
        rows = inside.reshape(self.n, -1).mean(axis=1)
        mean = self.mean(rows, level)
        if mean.interval is None:
            return mean
        low, high = max(mean.interval[0], 0.0), min(mean.interval[1], 1.0)
        return Score(mean.value, mean.se, self.n, (low, high), level=level)

    def covariance(
        self, cells: np.ndarray, values: np.ndarray, size: int
    ) -> np.ndarray:
        from scipy import sparse

        total = self.sizes.size
        outputs = values.size // self.n
        code = np.repeat(self.code, outputs)
        sums = sparse.csr_matrix(
            (values.reshape(-1), (code, cells.reshape(-1))), shape=(total, size)
        )
        mean = np.asarray(sums.sum(axis=0)).reshape(-1) / self.n
        cross = np.outer(sums.T @ self.sizes, mean)
        weight = float(np.sum(self.sizes.astype(float) ** 2))
        centered = (sums.T @ sums).toarray() - cross - cross.T
        centered += weight * np.outer(mean, mean)
        return centered * (total / max(total - 1, 1))

    def shares(self, counts: np.ndarray, cells: Cells) -> np.ndarray:
        where = cells.index
        each = np.full(where.shape, 1 / where.size)
        covariance = self.covariance(where, each, counts.size)
        mean = counts / counts.sum()
        return mean + normals(covariance, self.draws)


def normals(covariance: np.ndarray, draws: int) -> np.ndarray:
    """Draws (draws, K) of the Normal with mean 0 and this covariance (K, K)."""
    value, vector = np.linalg.eigh(covariance)
    noise = np.random.default_rng(SEED).standard_normal((draws, value.size))
    return (noise * np.sqrt(np.maximum(value, 0.0))) @ vector.T


def sampling(n: int, group: np.ndarray | None) -> AbstractSampling:
    """Independent points, or groups of them, with checked labels (n,)."""
    return Points(n) if group is None else Groups(group)
