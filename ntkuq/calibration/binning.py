"""Which probabilities are looked at together."""

import abc
from dataclasses import dataclass

import numpy as np


class AbstractBinning(abc.ABC):
    """A rule that deals probabilities into bins."""

    bins: int

    @abc.abstractmethod
    def index(self, probability: np.ndarray) -> np.ndarray:
        """The bin of each probability, 0 to `bins` - 1.

        Args:
            probability: (n,).
        """


@dataclass(frozen=True)
class EqualWidth(AbstractBinning):
    """Bins (a, b] of equal width. 0 belongs to the first bin and 1 to the last.

    Args:
        bins: number of bins.

    Raises:
        ValueError: for less than one bin.

    >>> import numpy as np
    >>> EqualWidth(15).index(np.array([0.0, 1 / 15, 0.5, 1.0])).tolist()
    [0, 0, 7, 14]
    """

    bins: int = 15

    def __post_init__(self):
        _need_bins(self.bins)

    def index(self, probability: np.ndarray) -> np.ndarray:
        position = probability * self.bins
        index = np.ceil(position).astype(np.int64) - 1
        # Where rounding of the product could cross an edge, look at the edges.
        near = np.flatnonzero(np.abs(position - np.rint(position)) < 1e-9 * self.bins)
        if near.size:
            edges = np.arange(self.bins + 1) / self.bins
            index[near] = np.searchsorted(edges, probability[near], side="left") - 1
        return np.clip(index, 0, self.bins - 1)


@dataclass(frozen=True)
class EqualCount(AbstractBinning):
    r"""Bins of equal count: rank r (from 0) of n belongs to $\lfloor Br/n \rfloor$.

    Equal probabilities stay together: all of them have the rank in their middle. Many
    ties therefore leave bins empty or uneven.

    Args:
        bins: number B of bins.

    Raises:
        ValueError: for less than one bin.

    >>> import numpy as np
    >>> EqualCount(2).index(np.array([0.9, 0.1, 0.4, 0.3])).tolist()
    [1, 0, 1, 0]
    >>> EqualCount(4).index(np.array([0.1, 0.5, 0.5, 0.5])).tolist()
    [0, 2, 2, 2]
    """

    bins: int = 15

    def __post_init__(self):
        _need_bins(self.bins)

    def index(self, probability: np.ndarray) -> np.ndarray:
        ordered = np.sort(probability)
        n = ordered.size
        # The smallest value of bin j is that at rank jn/B, or the next larger one
        # where the middle of its ties comes before.
        rank = np.arange(1, self.bins) * n
        at = ordered[np.minimum(-(-rank // self.bins), n - 1)]
        first = np.searchsorted(ordered, at, side="left")
        last = np.searchsorted(ordered, at, side="right")
        own = (first + last - 1) * self.bins >= 2 * rank
        following = np.where(last < n, ordered[np.minimum(last, n - 1)], np.inf)
        starts = np.where(own, at, following)
        return np.searchsorted(starts, probability, side="right")


def _need_bins(bins: int) -> None:
    if bins < 1:
        raise ValueError(f"expected at least one bin, got {bins}")
