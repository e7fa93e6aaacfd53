"""How often intervals hold what they promise, and how wide they are."""

import numpy as np

from .means import mean_score
from .records import Score
from .transform import Pit


def share(hits: int, n: int, *, level: float | None = None) -> Score:
    r"""A share of points with its exact 95 % binomial (Clopper-Pearson) interval.

    Args:
        hits: how many points count.
        n: of how many.
        level: kept along in the record.

    >>> s = share(90, 100)
    >>> print(f"{s.value} {s.se:.2f} {s.interval[0]:.3f} {s.interval[1]:.3f}")
    0.9 0.03 0.824 0.951

    References:
        Clopper and Pearson, 1934, Biometrika 26, 404-413.
    """
    value = hits / n
    se = float(np.sqrt(value * (1 - value) / n)) if n > 1 else None
    return Score(value, se, n, exact_interval(hits, n), hits=hits, level=level)


def exact_interval(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The exact binomial interval for a probability, from hits among n."""
    from scipy import special

    tail = (1 - level) / 2
    low = special.betaincinv(hits, n - hits + 1, tail) if hits else 0.0
    high = special.betaincinv(hits + 1, n - hits, 1 - tail) if hits < n else 1.0
    return float(low), float(high)


def coverage(covered: np.ndarray, level: float) -> Score:
    """The share of observations inside their interval.

    With several outputs the share of covered outputs is averaged over the points,
    which are the independent units; its interval is then Student's, not exact.

    Args:
        covered: (N,) or (N, C), whether each observation was inside.
        level: the kept probability.
    """
    if covered.ndim == 1:
        return share(int(covered.sum()), covered.size, level=level)
    mean = mean_score(covered.mean(axis=1), level=level)
    if mean.interval is None:
        return mean
    low, high = mean.interval
    return Score(mean.value, mean.se, mean.n, (max(low, 0), min(high, 1)), level=level)


def coverage_curve(
    pit: np.ndarray | Pit, levels: np.ndarray, n: int | None = None
) -> dict[str, np.ndarray]:
    r"""Observed coverage of the central intervals, with a consistency band.

    An observation is inside the interval at level L when $|2 F(y) - 1| \le L$. The
    band around L holds the coverage of a calibrated prediction with 95 % probability
    at each level (exact binomial); with several outputs per point it counts points,
    which makes it wider.

    Args:
        pit: $F(y)$, (N,) or (N, C).
        levels: (K,).
        n: how many independent points the band counts; those of `pit` unless said.

    Returns:
        Columns `level`, `observed`, `lower`, `upper`, each (K,).
    """
    pit = Pit.of(pit)
    n = pit.n if n is None else n
    return {
        "level": levels,
        "observed": pit.central(levels),
        "lower": binomial_quantile(0.025, n, levels) / n,
        "upper": binomial_quantile(0.975, n, levels) / n,
    }


def binomial_quantile(
    q: float, n: int | np.ndarray, p: float | np.ndarray
) -> np.ndarray:
    """The smallest count k with P(X <= k) >= q, X binomial.

    >>> print(binomial_quantile(0.975, 100, 0.5))
    60.0
    """
    from scipy import special

    # bdtrik solves for a real k; rounding may leave it a step too high.
    above = np.ceil(special.bdtrik(q, n, p))
    below = np.maximum(above - 1, 0)
    return np.where(special.bdtr(below, n, p) >= q, below, above)
