"""Resampling of many points at the price of a few hundred, the same on every run."""

import functools as ft
from dataclasses import dataclass, field

import numpy as np

from .bootstrap import SEED, distance_score
from .records import Score
from .sampling import Groups, Points


MOST = 500  # blocks; a standard error from as many is off by 1 / sqrt(2 * 500) = 3 %

DRAWS = 500


@dataclass(frozen=True)
class Blocks:
    """Points dealt into blocks that are drawn with repeats as a whole.

    Independent points are dealt at random into at most 500 blocks of equal size: sums
    over blocks have the covariance of sums over points, so that any statistic of sums
    can be resampled without going back to the points. Points of one group stay
    together, and groups are dealt out likewise.

    Args:
        code: the block of each point, (n,).
        count: number of blocks.
        sizes: points of each block, (count,).
        grouped: whether points of a block may depend on each other.
    """

    code: np.ndarray = field(repr=False)
    count: int
    sizes: np.ndarray = field(repr=False)
    grouped: bool

    @property
    def n(self) -> int:
        """Number of points."""
        return self.code.size

    def sums(self, cells: np.ndarray, cells_n: int, values: np.ndarray) -> np.ndarray:
        """Sums of values by block and cell, (count, cells_n).

        Args:
            cells: the cell of each point, (n,).
            cells_n: number of cells.
            values: the value of each point, (n,).
        """
        key = self.code * cells_n + cells
        sums = np.bincount(key, values, minlength=self.count * cells_n)
        return sums.reshape(self.count, cells_n)

    def again(self, sums: np.ndarray, draws: int = DRAWS) -> np.ndarray:
        """Sums over resampled blocks, scaled to n points, (draws, ...).

        Args:
            sums: sums by block, (count, ...).
            draws: at most 500.
        """
        often = _often(self.count)[:draws]
        scale = self.n / (often @ self.sizes)
        flat = (often @ sums.reshape(self.count, -1)) * scale[:, None]
        return flat.reshape(draws, *sums.shape[1:])

    def noise(self, sums: np.ndarray, draws: int = DRAWS) -> np.ndarray:
        """How sums vary about their expectation, (draws, ...).

        Args:
            sums: sums by block, (count, ...).
            draws: at most 500.
        """
        often = _often(self.count)[:draws] - 1.0
        # Resampling m blocks has a variance smaller by (m - 1) / m.
        inflate = np.sqrt(self.count / max(self.count - 1, 1))
        flat = inflate * (often @ sums.reshape(self.count, -1))
        return flat.reshape(draws, *sums.shape[1:])

    def distance(
        self, value: float, replicates: np.ndarray, p: float | None = None
    ) -> Score:
        """A distance from perfection with its resamples as a score.

        Args:
            value: the distance.
            replicates: the distance on each resample, (draws,).
            p: kept along in the record.
        """
        if self.count < 2:
            return Score(value, None, self.n, None, p=p)
        return distance_score(value, replicates, self.n, p)


def blocks(n: int, group: np.ndarray | None = None) -> Blocks:
    """Deal n points into blocks.

    Args:
        n: number of points.
        group: points with the same value depend on each other, (n,).

    Raises:
        ValueError: when group has another shape.

    >>> import numpy as np
    >>> blocks(3, np.array(["a", "b", "a"])).sizes.tolist()
    [2.0, 1.0]
    """
    if group is None:
        code, units = np.arange(n), n
    else:
        group = np.asarray(group)
        if group.shape != (n,):
            raise ValueError(
                f"expected group of shape ({n},), one label a point, got {group.shape}"
            )
        names, code = np.unique(group, return_inverse=True)
        units = len(names)
    count = min(units, MOST)
    if units > count:
        # At random, since points often come sorted by class or by time.
        code = (np.random.default_rng(SEED).permutation(units) % count)[code]
    sizes = np.bincount(code, minlength=count).astype(float)
    return Blocks(code, count, sizes, group is not None)


def means(
    columns: dict[str, np.ndarray], group: np.ndarray | None = None
) -> dict[str, Score]:
    """The mean of each column with its standard error and 95 % interval.

    Args:
        columns: one value a point by name, (n,).
        group: points with the same value depend on each other, (n,): standard errors
            are then those of resampled whole groups, see `Groups`.
    """
    n = next(iter(columns.values())).size
    sampling = Points(n) if group is None else Groups(group)
    return {name: sampling.mean(column) for name, column in columns.items()}


def hits_by_chance(count: np.ndarray, mean: np.ndarray, draws: int) -> np.ndarray:
    """Outcomes by cell that a calibrated model would show, (draws, cells).

    Binomial, or rounded normal where the variance is at least 9: what is made of them
    adds up many cells.

    Args:
        count: points of each cell, (cells,), integers.
        mean: mean probability of each cell, (cells,), from 0 to 1.
        draws: how many.
    """
    rng = np.random.default_rng(SEED)
    hits = np.empty((draws, count.size))
    spread = np.sqrt(count * mean * (1 - mean))
    wide = spread >= 3
    normal = rng.standard_normal((draws, int(wide.sum())))
    near = np.rint(count[wide] * mean[wide] + spread[wide] * normal)
    hits[:, wide] = np.clip(near, 0, count[wide])
    few = count[~wide]
    hits[:, ~wide] = rng.binomial(few, mean[~wide], (draws, few.size))
    return hits


@ft.lru_cache(maxsize=4)
def _often(count: int) -> np.ndarray:
    """How often each block is drawn, (DRAWS, count)."""
    rng = np.random.default_rng(SEED)
    index = rng.integers(0, count, size=(DRAWS, count))
    key = index + count * np.arange(DRAWS)[:, None]
    often = np.bincount(key.reshape(-1), minlength=DRAWS * count).astype(float)
    often = often.reshape(DRAWS, count)
    often.setflags(write=False)
    return often
