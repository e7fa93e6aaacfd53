"""Areas and rates of a score that should rank one set above another.

Counts are of points at each distinct score, largest first, (B, K) for B data sets:
`negative` should lie low and `positive` high.
"""

from typing import Any

import numpy as np

from .coverage import exact_interval
from .records import Score


TARGET = 0.95  # share of the positives that is to be found

Z = 1.959963984540054  # of a 95 % interval


def rates(negative: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates at each threshold, from 0 on, (B, K + 1) each."""

    def rate(counts: np.ndarray) -> np.ndarray:
        total = np.cumsum(counts, axis=1)
        return np.pad(total / total[:, -1:], ((0, 0), (1, 0)))

    return rate(negative), rate(positive)


def average_precision(negative: np.ndarray, positive: np.ndarray) -> np.ndarray:
    r"""$\sum_k (R_k - R_{k-1}) P_k$ over thresholds, (B,)."""
    found = np.cumsum(positive, axis=1)
    taken = np.maximum(np.cumsum(negative + positive, axis=1), 1)
    return np.sum(positive * (found / taken), axis=1) / found[:, -1]


def false_rate(negative: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """The false positive rate where 95 % of the positives are found, (B,)."""
    found = np.cumsum(positive, axis=1)
    at = np.argmax(found >= _needed(int(found[0, -1])), axis=1)
    wrong = np.cumsum(negative, axis=1)
    return wrong[np.arange(at.size), at] / wrong[:, -1]


def area_score(negative: np.ndarray, positive: np.ndarray) -> Score:
    """The area under the ROC curve from midranks, with DeLong's standard error.

    Args:
        negative: scores that should be low, (N,).
        positive: scores that should be high, (M,).
    """
    from scipy import stats

    n, m = negative.size, positive.size
    rank = stats.rankdata(np.r_[negative, positive])
    above = (rank[n:] - stats.rankdata(positive)) / n
    below = 1 - (rank[:n] - stats.rankdata(negative)) / m
    # The sum of ranks is exact in float64; the mean of quotients is not.
    value = float((rank[n:].sum() - m * (m + 1) / 2) / n / m)
    if min(n, m) < 2:
        return Score(value, None, n + m, _newcombe(value, n, m))
    se = float(np.sqrt(above.var(ddof=1) / m + below.var(ddof=1) / n))
    if not 0 < value < 1 or se < 1e-12:
        return Score(value, se, n + m, _newcombe(value, n, m))
    return logit_score(value, se, n + m)


def logit_score(value: float, se: float | None, n: int) -> Score:
    """A number in (0, 1) with a 95 % interval that is symmetric in its logit."""
    if se is None:
        return Score(value, None, n, None)
    if not 0 < value < 1 or se == 0:
        return Score(value, se, n, None)
    center, half = np.log(value / (1 - value)), Z * se / (value * (1 - value))
    low, high = 1 / (1 + np.exp(-(center - half))), 1 / (1 + np.exp(-(center + half)))
    return Score(value, se, n, (float(low), float(high)))


def false_rate_score(
    negative: np.ndarray, positive: np.ndarray, draws: np.ndarray | None
) -> Score:
    r"""The false positive rate at 95 % found, with an interval for any distribution.

    The threshold is the 5 % quantile q of the positive scores. Order statistics
    bracket it: $P(q < X_{(k)}) = P(\mathrm{Binomial}(m, 0.05) < k)$. Each end of the
    interval spends 1.25 % on the threshold and 1.25 % on the binomial rate of the
    negative scores at it, which come from an independent set.

    Args:
        negative: scores that should be low, (N,).
        positive: scores that should be high, (M,).
        draws: the rate on resamples, for the standard error, or None.
    """
    from scipy import special

    n, m = negative.size, positive.size
    ordered, low_scores = np.sort(positive), np.sort(negative)
    tail = 0.0125

    def hits(threshold: float) -> int:
        return n - int(np.searchsorted(low_scores, threshold, side="left"))

    value = hits(float(ordered[m - _needed(m)])) / n
    law = special.bdtr(np.arange(m + 1), m, 1 - TARGET)
    # X_(k) lies above q with probability law[k - 1], and below it with at most
    # 1 - law[k - 1]: the largest and the smallest k for which that is rare.
    below = int(np.searchsorted(law, tail, side="right"))
    above = int(np.searchsorted(law, 1 - tail)) + 1
    most = hits(float(ordered[below - 1])) if below >= 1 else n
    least = hits(float(ordered[above - 1])) if above <= m else 0
    level = 1 - 2 * tail
    upper = exact_interval(most, n, level)[1] if below >= 1 else 1.0
    lower = exact_interval(least, n, level)[0]
    se = None if draws is None else float(np.std(draws, ddof=1))
    return Score(value, se, n + m, (min(lower, value), max(upper, value)))


def _needed(m: int) -> int:
    """How many of m positives are at least 95 %; a product like 0.95 * 20 is exact."""
    return int(np.ceil(TARGET * m - 1e-9))


def _newcombe(value: float, n: int, m: int) -> tuple[float, float]:
    """Newcombe's score interval (method 5), which is sound at 0 and 1 as well."""
    from scipy import optimize

    extra = (n + m) / 2 - 1

    def excess(area: float) -> float:
        shape = (1 - area) / (2 - area) + area / (1 + area)
        variance = area * (1 - area) * (1 + extra * shape) / (n * m)
        return (value - area) ** 2 - Z**2 * variance

    def end(limit: float) -> float:
        if excess(limit) <= 0:
            return limit
        inner = value + (limit - value) * 1e-9
        root: Any = optimize.brentq(excess, inner, limit, xtol=1e-12)
        return float(root)

    return end(0.0), end(1.0)
