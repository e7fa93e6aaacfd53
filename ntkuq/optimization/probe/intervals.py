"""Intervals of means over pairs of batches, and of their ratios."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from ntkuq.calibration.means import mean_score
from ntkuq.calibration.records import Score


def mean_over(
    values: Float[np.ndarray, " K"], *, shared: float = 0.0, tests: int = 1
) -> Score:
    """The mean with a Student t interval that holds for `tests` means together.

    With a correlation r of the values, the variance of their mean is
    s² (1 / K + r / (1 - r)), with s² their sample variance.

    Args:
        values: one for each pair of batches.
        shared: r in [0, 1).
        tests: intervals that hold together with 95 % (Bonferroni).

    References: Nadeau and Bengio 2003.

    >>> values = np.array([1.0, 2.0, 3.0])
    >>> mean_over(values) == mean_score(values)
    True
    >>> print(round(mean_over(values, shared=0.25).se, 3))
    0.816
    """
    score = mean_score(values)
    if score.se is None or (shared == 0 and tests == 1):
        return score
    se = score.se * _widened(values.size, shared)
    half = _factor(values.size, tests) * se
    return Score(score.value, se, score.n, (score.value - half, score.value + half))


def ratio_of(
    above: Float[np.ndarray, " K"],
    below: Float[np.ndarray, " K"],
    *,
    shared: float = 0.0,
    tests: int = 1,
) -> Score | None:
    """The ratio of two means over the same batches, with the interval of Fieller.

    It holds the ratios q for which the mean of `above - q below` is not told from 0, so
    it lies above 1 just where `mean_over(above - below)` lies above 0.

    Returns:
        The ratio; `None` where the mean of `below` is not told from 0 or negative:
        then every ratio is possible.

    References: Fieller 1954.

    >>> three = np.array([2.9, 3.0, 3.1])
    >>> ratio_of(three, np.ones(3)).interval[0] > 2.5
    True
    """
    n = below.size
    if n < 2 or not np.isfinite([above, below]).all():
        return None
    reach = (_factor(n, tests) * _widened(n, shared)) ** 2 / n
    spread = np.cov(above, below)
    vaa, vab, vbb = (float(spread[at]) for at in ((0, 0), (0, 1), (1, 1)))
    a, b = float(np.mean(above)), float(np.mean(below))
    square = b**2 - reach * vbb
    if b <= 0 or square <= 1e-12 * b**2:
        return None
    middle = a * b - reach * vab
    inside = max(middle**2 - square * (a**2 - reach * vaa), 0.0)
    half = math.sqrt(inside)
    ends = (middle - half) / square, (middle + half) / square
    return Score(a / b, None, n, ends)


def _widened(n: int, shared: float) -> float:
    return math.sqrt(1.0 + n * shared / (1.0 - shared))


def _factor(n: int, tests: int) -> float:
    from scipy import special

    return float(special.stdtrit(n - 1, 1.0 - 0.025 / tests))
