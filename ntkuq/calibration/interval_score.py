"""Proper scores of intervals and quantiles, point by point; smaller is better."""

from collections.abc import Sequence

import numpy as np


QUANTILES = np.arange(1, 100) / 100


def interval_score(
    lower: np.ndarray, upper: np.ndarray, y: np.ndarray, level: float
) -> np.ndarray:
    r"""Width of a central interval and a penalty for what lies outside.

    $(u - l) + \frac{2}{\alpha} (l - y)_+ + \frac{2}{\alpha} (y - u)_+$ with
    $\alpha = 1 - L$.

    Args:
        lower: (...), in the units of the data.
        upper: (...).
        y: (...), observations.
        level: the kept probability L.

    Returns:
        (...), in the units of the data.

    >>> import numpy as np
    >>> print(interval_score(np.zeros(2), np.ones(2), np.array([0.5, 2.0]), 0.9))
    [ 1. 21.]

    References:
        Gneiting and Raftery, 2007, JASA 102, 359-378, equation (43).
    """
    outside = np.maximum(lower - y, 0.0) + np.maximum(y - upper, 0.0)
    return (upper - lower) + (2 / (1 - level)) * outside


def weighted_interval_score(
    median: np.ndarray,
    scores: Sequence[np.ndarray],
    y: np.ndarray,
    levels: Sequence[float],
) -> np.ndarray:
    r"""Interval scores at several levels and the error of the median as one.

    $\frac{1}{K + 1/2} \left(\tfrac12 |y - m| + \sum_k \frac{\alpha_k}{2}
    \mathrm{IS}_{\alpha_k}\right)$; it tends to the CRPS as levels fill (0, 1) evenly.

    Args:
        median: (...).
        scores: the interval score at each level, (...).
        y: (...), observations.
        levels: kept probabilities, as many as scores.

    References:
        Bracher, Ray, Gneiting and Reich, 2021, PLOS Computational Biology 17, e1008618
        (arXiv:2005.12881), equation (1).
    """
    total = np.abs(y - median) / 2
    for level, one in zip(levels, scores, strict=True):
        total = total + (1 - level) / 2 * one
    return total / (len(levels) + 0.5)


def pinball(quantiles: np.ndarray, y: np.ndarray, q: np.ndarray) -> np.ndarray:
    r"""Mean pinball loss over levels.

    $\frac1K \sum_k \rho_{q_k}(y - v_k)$ with $\rho_q(d) = (q - 1\{d < 0\})\,d$. Over
    evenly spaced levels twice this is nearly the CRPS.

    Args:
        quantiles: (K, ...), in the units of the data.
        y: (...), observations.
        q: levels, (K,).

    >>> import numpy as np
    >>> print(pinball(np.array([[0.0], [1.0]]), np.array([2.0]), np.array([0.5, 0.9])))
    [0.95]

    References:
        Koenker and Bassett, 1978, Econometrica 46, 33-50.
    """
    total = np.zeros(y.shape)
    for level, value in zip(q, quantiles, strict=True):
        gap = y - value
        total += np.maximum(level * gap, (level - 1) * gap)
    return total / len(q)


def pinball_normal(z: np.ndarray, q: np.ndarray = QUANTILES) -> np.ndarray:
    """Mean pinball loss of the standard Normal at z (...): linear between quantiles.

    For mean m and standard deviation s it is s times that at (y - m) / s.
    """
    from scipy import special

    knots = special.ndtri(q)
    # Exact: the sum of losses bends at the quantiles only, and outside them it has
    # the slopes mean(q) and mean(q) - 1.
    values = pinball(knots[:, None], knots, q)
    inside = np.interp(z, knots, values)
    below = np.maximum(knots[0] - z, 0.0) * (1 - q.mean())
    return inside + below + np.maximum(z - knots[-1], 0.0) * q.mean()
