"""Means over test points and their standard errors."""

import numpy as np

from .records import Score


def mean_score(values: np.ndarray, level: float | None = None) -> Score:
    r"""The mean with its standard error and 95 % Student-t interval.

    $\mathrm{se} = s / \sqrt n$. Where a value is not finite, or n = 1, there is no
    standard error and no interval.

    Args:
        values: one value per point, shape (n,).
        level: kept along in the record.

    >>> import numpy as np
    >>> s = mean_score(np.array([1.0, 2.0, 3.0]))
    >>> print(f"{s.value:.3f} {s.se:.3f} {s.interval[0]:.3f}")
    2.000 0.577 -0.484
    """
    n = values.size
    if n < 2 or not np.isfinite(values).all():
        return without_error(values, level)
    value = float(np.mean(values))
    # Rounding must not give equal values a spread.
    same = np.ptp(values) <= 1e-12 * abs(value)
    se = 0.0 if same else float(np.std(values, ddof=1) / np.sqrt(n))
    half = student(n) * se
    return Score(value, se, n, (value - half, value + half), level=level)


def root_mean_square(squares: np.ndarray) -> Score:
    r"""The root of a mean, with its standard error by the delta method.

    $\mathrm{se}(\sqrt m) \approx \mathrm{se}(m) / (2 \sqrt m)$; the interval is cut
    off at 0.

    Args:
        squares: squared errors, shape (n,), in squared units of the data.

    Returns:
        The score in units of the data.
    """
    return root_of(mean_score(squares))


def root_of(mean: Score) -> Score:
    """The root of a mean that is not negative, by the delta method."""
    value = float(np.sqrt(mean.value))
    if mean.se is None or mean.interval is None:
        return Score(value, None, mean.n, None)
    slope = 1 / (2 * value) if value > 0 else 0.0
    half = slope * (mean.interval[1] - mean.value)
    ends = max(value - half, 0.0), value + half
    return Score(value, slope * mean.se, mean.n, ends)


def without_error(values: np.ndarray, level: float | None = None) -> Score:
    """The mean alone: an infinity or NaN where values are not finite."""
    finite = np.isfinite(values).all()
    value = float(np.mean(values)) if finite else _limit(values)
    return Score(value, None, values.size, None, level=level)


def student(n: int) -> float:
    """The factor of a 95 % interval for a mean of n independent values."""
    from scipy import special

    return float(special.stdtrit(n - 1, 0.975))


def _limit(values: np.ndarray) -> float:
    """The mean with non-finite values: an infinity where it is one, else NaN."""
    if np.isnan(values).any():
        return float("nan")
    signs = set(np.sign(values[np.isinf(values)]))
    return float(signs.pop() * np.inf) if len(signs) == 1 else float("nan")
