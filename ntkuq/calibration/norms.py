r"""How the gaps of bins make one number.

With the sum $G_b$ of outcome less probability over the $n_b$ points of bin b, $n$
points in all and $g_b = G_b / n_b$. Empty bins add nothing.
"""

import abc
from dataclasses import dataclass

import numpy as np


class AbstractNorm(abc.ABC):
    """A size of the gaps."""

    @abc.abstractmethod
    def __call__(
        self, gap: np.ndarray, count: np.ndarray, right: np.ndarray
    ) -> np.ndarray:
        """The size, (...).

        Args:
            gap: sums of outcome less probability, (..., bins).
            count: points, (..., bins).
            right: sums of outcomes, (..., bins).
        """


@dataclass(frozen=True)
class L1(AbstractNorm):
    r"""$\sum_b \frac{n_b}{n} |g_b|$."""

    def __call__(
        self, gap: np.ndarray, count: np.ndarray, right: np.ndarray
    ) -> np.ndarray:
        return np.asarray(np.abs(gap).sum(-1) / count.sum(-1))


@dataclass(frozen=True)
class L2(AbstractNorm):
    r"""$\left(\sum_b \frac{n_b}{n} g_b^2\right)^{1/2}$."""

    def __call__(
        self, gap: np.ndarray, count: np.ndarray, right: np.ndarray
    ) -> np.ndarray:
        squares = gap**2 / np.where(count > 0, count, 1)
        return np.asarray(np.sqrt(squares.sum(-1) / count.sum(-1)))


@dataclass(frozen=True)
class DebiasedL2(AbstractNorm):
    r"""The root of the positive part of an unbiased estimate of the square.

    $\sum_b \frac{n_b}{n} \left(g_b^2 - \frac{a_b (1 - a_b)}{n_b - 1}\right)$ with the
    share $a_b$ of outcomes. A bin of one point, whose noise cannot be told, is left
    out.

    References:
        Kumar, Liang and Ma, 2019, NeurIPS (arXiv 1909.10155).
    """

    def __call__(
        self, gap: np.ndarray, count: np.ndarray, right: np.ndarray
    ) -> np.ndarray:
        several = np.where(count > 1, count, 2)
        noise = right * (1 - right / several) / (several - 1)
        squares = np.where(count > 1, gap**2 / several - noise, 0.0)
        return np.asarray(np.sqrt(np.maximum(squares.sum(-1) / count.sum(-1), 0.0)))


@dataclass(frozen=True)
class Largest(AbstractNorm):
    r"""$\max_b |g_b|$, the maximum calibration error.

    It mostly tells of the bins with the fewest points.
    """

    def __call__(
        self, gap: np.ndarray, count: np.ndarray, right: np.ndarray
    ) -> np.ndarray:
        return np.asarray((np.abs(gap) / np.where(count > 0, count, 1)).max(-1))
