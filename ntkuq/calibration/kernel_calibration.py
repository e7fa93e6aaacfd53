"""Calibration of whole probability vectors, tested with a kernel."""

import abc
from dataclasses import dataclass

import numpy as np

from .bootstrap import SEED
from .records import Score
from .top_label import classes


MOST_PAIRS = 2000  # points of which all pairs are taken
DRAWS = 500


class AbstractEstimator(abc.ABC):
    """Which pairs of points are looked at."""

    @abc.abstractmethod
    def __call__(self, probs: np.ndarray, residual: np.ndarray, width: float) -> Score:
        """The error with its p-value.

        Args:
            probs: (n, K).
            residual: one-hot outcome less probabilities, (n, K).
            width: of the kernel.
        """


@dataclass(frozen=True)
class AllPairs(AbstractEstimator):
    r"""The quadratic estimator, $\binom n2^{-1} \sum_{i < j} h_{ij}$.

    The p-value is by a wild bootstrap (500 draws of signs $\epsilon$, fixed seed) of
    $\binom n2^{-1} \sum_{i<j} \epsilon_i \epsilon_j h_{ij}$; time and memory grow with
    $n^2$.
    """

    def __call__(self, probs: np.ndarray, residual: np.ndarray, width: float) -> Score:
        n = len(probs)
        h = _kernel(_distances(probs, probs), width) * (residual @ residual.T)
        np.fill_diagonal(h, 0.0)
        pairs = n * (n - 1)
        value = float(h.sum() / pairs)
        signs = np.random.default_rng(SEED).choice([-1.0, 1.0], size=(DRAWS, n))
        draws = np.einsum("di,di->d", signs @ h, signs) / pairs
        p = float((1 + np.sum(draws >= value)) / (1 + DRAWS))
        # First order of the U-statistic, and the second, which is all there is where
        # the model is calibrated.
        first = 4 * np.var(h.sum(axis=1) / (n - 1), ddof=1) / n
        second = 2 * np.sum(h**2) / pairs**2
        se = float(np.sqrt(max(first, second)))
        return Score(value, se, n, (value - 1.96 * se, value + 1.96 * se), p=p)


@dataclass(frozen=True)
class Disjoint(AbstractEstimator):
    r"""The linear estimator, the mean of h over disjoint pairs.

    Pairs are drawn at random (fixed seed). The p-value is by the normal law, one-sided.
    """

    def __call__(self, probs: np.ndarray, residual: np.ndarray, width: float) -> Score:
        from scipy import special

        n = len(probs)
        order = np.random.default_rng(SEED).permutation(n)[: n - n % 2]
        i, j = order[::2], order[1::2]
        apart = np.sqrt(np.sum((probs[i] - probs[j]) ** 2, axis=1))
        h = _kernel(apart, width) * np.sum(residual[i] * residual[j], axis=1)
        value = float(h.mean())
        if h.size < 2:
            return Score(value, None, n, None)
        se = float(h.std(ddof=1) / np.sqrt(h.size))
        p = float(special.ndtr(-value / se)) if se > 0 else float(value <= 0)
        return Score(value, se, n, (value - 1.96 * se, value + 1.96 * se), p=p)


def kernel_calibration_error(
    probs: np.ndarray,
    y: np.ndarray,
    *,
    estimator: AbstractEstimator | None = None,
    width: float | None = None,
) -> Score:
    r"""Squared kernel calibration error (SKCE) of class probabilities, unbiased.

    The mean over pairs of $h_{ij} = k(p_i, p_j)\,(e_{y_i} - p_i)^\top (e_{y_j} - p_j)$
    with $k(p, q) = e^{-\|p - q\| / \nu}$. It estimates a square that is 0 just for a
    model whose whole probability vectors are calibrated; being unbiased it may be
    negative. A small p-value speaks against calibration. Points are taken to be
    independent.

    Args:
        probs: (n, K), each row summing to 1.
        y: (n,), classes 0 to K - 1.
        estimator: `AllPairs()` or `Disjoint()`; unless given, all pairs for n up to
            2000.
        width: ν of the kernel; the median distance of the predictions unless given.

    Returns:
        The error with standard error, interval and p-value.

    Raises:
        ValueError: for less than two points, shapes that do not fit, values that are
            no probabilities, or a width that is not positive.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> probs = rng.dirichlet(np.ones(3), size=400)
    >>> y = (probs.cumsum(1) < rng.uniform(size=(400, 1))).sum(1)
    >>> kernel_calibration_error(probs, y).p > 0.05
    True

    References:
        Widmann, Lindsten and Zachariah, 2019, NeurIPS (arXiv 1910.11385).
    """
    p, y = classes(probs, y)
    n = len(y)
    if n < 2:
        raise ValueError("expected at least two points to compare, got 1")
    if width is None:
        width = _median_distance(p)
    if not width > 0:
        raise ValueError(f"expected a positive width of the kernel, got {width}")
    residual = -p
    residual[np.arange(n), y] += 1.0
    if estimator is None:
        estimator = AllPairs() if n <= MOST_PAIRS else Disjoint()
    return estimator(p, residual, width)


def _median_distance(p: np.ndarray) -> float:
    """Median over pairs of at most 1000 points; 1 where predictions do not differ."""
    chosen = np.random.default_rng(SEED).permutation(len(p))[:1000]
    apart = _distances(p[chosen], p[chosen])
    apart = apart[np.triu_indices(len(chosen), 1)]
    apart = apart[apart > 1e-7]
    return float(np.median(apart)) if apart.size else 1.0


def _distances(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    squares = np.sum(p**2, 1)[:, None] + np.sum(q**2, 1) - 2 * p @ q.T
    return np.sqrt(np.maximum(squares, 0.0))


def _kernel(distance: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-distance / width)
