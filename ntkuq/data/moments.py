"""Mean and variance of an array that is seen a few rows at a time."""

import dataclasses

import numpy as np


#: Entries converted to float64 at a time (8 MiB), so that they stay in the cache.
_ENTRIES = 2**20


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    r"""Mean, variance and size of the rows of an array, in float64.

    Two parts of one array merge exactly (Chan, Golub, LeVeque 1983): with
    $d = m_2 - m_1$ and $n = n_1 + n_2$,
    $m = m_1 + d\, n_2 / n$ and $n v = n_1 v_1 + n_2 v_2 + d^2 n_1 n_2 / n$.

    Args:
        count: number of rows.
        mean, variance: over the rows (divided by `count`), the shape of one row.
        size: largest absolute value over the rows, the shape of one row.
        dtype: type of the array.

    >>> x = np.arange(6.0).reshape(3, 2)
    >>> Moments.of(x[:1]).merge(Moments.of(x[1:])).mean.tolist()
    [2.0, 3.0]
    """

    count: int
    mean: np.ndarray
    variance: np.ndarray
    size: np.ndarray
    dtype: np.dtype

    @staticmethod
    def of(array: np.ndarray) -> "Moments":
        """The moments of an array with at least one row, (N, …)."""
        step = max(1, _ENTRIES // max(1, array[0].size))
        found = _of(array[:step])
        for start in range(step, len(array), step):
            found = found.merge(_of(array[start : start + step]))
        return found

    def merge(self, other: "Moments") -> "Moments":
        """The moments of the rows of both."""
        count = self.count + other.count
        share, apart = other.count / count, other.mean - self.mean
        change = other.variance - self.variance + (1 - share) * apart**2
        return Moments(
            count,
            np.asarray(self.mean + share * apart),
            np.asarray(self.variance + share * change),
            np.asarray(np.maximum(self.size, other.size)),
            self.dtype,
        )

    def pooled(self) -> "Moments":
        """The moments over rows and entries together, as if a row were one number."""
        mean = self.mean.mean()
        variance = self.variance.mean() + np.square(self.mean - mean).mean()
        return Moments(
            self.count * self.mean.size,
            np.asarray(mean),
            np.asarray(variance),
            np.asarray(self.size.max()),
            self.dtype,
        )


def _of(array: np.ndarray) -> Moments:
    values = np.array(array, np.float64)
    size = np.maximum(values.max(axis=0), -values.min(axis=0))
    mean = values.mean(axis=0)
    values -= mean
    np.square(values, out=values)
    return Moments(
        len(array),
        np.asarray(mean),
        np.asarray(values.mean(axis=0)),
        np.asarray(size),
        array.dtype,
    )
