"""The probability integral transform: uniform when predictions are calibrated."""

import functools as ft

import numpy as np

from ntkuq.posteriors.distributions import Empirical, QuantileTable
from ntkuq.posteriors.predictive import Predictive

from .bootstrap import SEED, cell_counts, distance_score, resamples
from .records import Score


LEVELS = np.arange(1, 20) / 20


def pit_values(predictive: Predictive, y: np.ndarray) -> np.ndarray:
    r"""$F(y)$, made exactly uniform for calibrated predictions by a fixed draw.

    Where F jumps the value is drawn uniformly within the jump: for S samples between
    the neighboring ranks over S + 1, for counts between F(y - 1) and F(y), and for a
    quantile table within the mass beyond its outermost levels. The draw is the same on
    every run.

    Args:
        predictive: predictions with float64 parameters.
        y: observations of the shape of the batch.

    Returns:
        Between 0 and 1, shape of y.

    References:
        Czado, Gneiting and Held, 2009, Biometrics 65, 1254-1261.
    """
    observed = predictive.observed
    u = np.random.default_rng(SEED).uniform(size=y.shape)
    if isinstance(observed, Empirical):
        values, at = np.asarray(observed.values), y[..., None]
        less, equal = (values < at).sum(axis=-1), (values == at).sum(axis=-1)
        return (less + u * (equal + 1)) / (values.shape[-1] + 1)
    upper = np.asarray(predictive.cdf(y))
    if isinstance(observed, QuantileTable):
        values = np.asarray(observed.values)
        levels = np.broadcast_to(np.asarray(observed.levels), values.shape)
        first, last = levels[..., 0], levels[..., -1]
        upper = np.where(y <= values[..., 0], u * first, upper)
        return np.where(y >= values[..., -1], last + u * (1 - last), upper)
    if observed.is_discrete:
        before = np.asarray(predictive.cdf(y - 1))
        return before + u * (upper - before)
    return upper


def ks_test(pit: np.ndarray) -> Score:
    r"""Kolmogorov-Smirnov distance of the transform from uniform, with its p-value.

    $D = \sup_u |\hat F(u) - u|$. The p-value is exact for N independent points; with
    several outputs all are pooled into D and only points are counted, which is
    conservative. Standard error and interval are by bootstrap (`distance_score`).

    Args:
        pit: (N,) or (N, C).
    """
    from scipy import stats

    n = pit.shape[0]
    # a distribution function in float32 may exceed 1 by rounding
    ordered = np.sort(np.clip(pit.reshape(-1), 0.0, 1.0))
    rank = np.arange(ordered.size)
    above = np.max((rank + 1) / ordered.size - ordered)
    below = np.max(ordered - rank / ordered.size)
    value = float(max(above, below))
    p = float(np.clip(stats.kstwo.sf(value, n), 0, 1))
    # Cells fine against the noise 1/sqrt(n) stand for the points when resampling.
    edges = np.linspace(0, 1, min(ordered.size, 1000) + 1)
    counts = np.histogram(ordered, edges)[0]
    draws = cell_counts(_per_point(counts, n), resamples(1))
    steps = np.cumsum(draws, axis=1) / n
    replicates = np.max(np.abs(steps - edges[1:]), axis=1)
    return distance_score(value, replicates, n, p)


def pit_curve(pit: np.ndarray) -> dict[str, np.ndarray]:
    r"""The distribution function of the transform with a simultaneous 95 % band.

    A calibrated prediction stays inside the band at all grid points together with
    probability 95 %. Subtract `grid` from the other columns to see the difference.

    Args:
        pit: (N,) or (N, C); with several outputs the band counts points.

    Returns:
        Columns `grid`, `ecdf`, `lower`, `upper`, each (K,) with K <= 101.

    References:
        Säilynoja, Bürkner and Vehtari, 2022, Statistics and Computing 32, 32.
    """
    n = pit.shape[0]
    lower, upper = simultaneous_band(n)
    grid = np.linspace(0, 1, lower.size)
    ordered = np.sort(pit.reshape(-1))
    ecdf = np.searchsorted(ordered, grid, side="right") / ordered.size
    return {"grid": grid, "ecdf": ecdf, "lower": lower, "upper": upper}


@ft.lru_cache(maxsize=32)
def simultaneous_band(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends for the distribution function of n uniform values.

    The pointwise binomial level is set so that 95 % of 2000 simulated sets of uniform
    values (fixed seed) stay inside everywhere.
    """
    from scipy import special, stats

    cells = min(n, 100)
    grid = np.linspace(0, 1, cells + 1)
    inner = grid[1:-1]
    if not inner.size:
        return np.array([0.0, 1.0]), np.array([0.0, 1.0])
    rng = np.random.default_rng(SEED)
    draws = rng.multinomial(n, np.full(cells, 1 / cells), size=2000)
    counts = np.cumsum(draws, axis=1)[:, :-1]
    left = special.bdtr(counts, n, inner)
    right = np.where(counts > 0, special.bdtrc(np.maximum(counts - 1, 0), n, inner), 1)
    smallest = np.minimum(left, right).min(axis=1)
    tail = np.quantile(smallest, 0.05, method="lower")
    low, high = stats.binom.ppf(tail, n, inner) / n, stats.binom.isf(tail, n, inner) / n
    lower, upper = np.r_[0.0, low, 1.0], np.r_[0.0, high, 1.0]
    lower.setflags(write=False)
    upper.setflags(write=False)
    return lower, upper


def calibration_error(pit: np.ndarray, levels: np.ndarray = LEVELS) -> Score:
    r"""Mean absolute gap between observed and nominal coverage.

    $\frac1K \sum_k |\hat c(L_k) - L_k|$ over central levels, 0.05 to 0.95 in 19 steps
    unless said otherwise. It is biased upwards by about $0.3/\sqrt n$; standard error
    and interval are by bootstrap (`distance_score`).

    Args:
        pit: (N,) or (N, C).
        levels: (K,), increasing.
    """
    n = pit.shape[0]
    centered = np.abs(2 * pit - 1).reshape(-1)
    # Cell k holds what the interval at level k adds to the one before it.
    cell = np.searchsorted(levels, centered, side="left")
    counts = np.bincount(cell, minlength=levels.size + 1)

    def error(counts: np.ndarray) -> np.ndarray:
        inside = np.cumsum(counts, axis=-1)[..., :-1] / counts.sum(-1, keepdims=True)
        return np.mean(np.abs(inside - levels), axis=-1)

    replicates = error(cell_counts(_per_point(counts, n), resamples(1)))
    return distance_score(float(error(counts[None])[0]), replicates, n)


def _per_point(counts: np.ndarray, n: int) -> np.ndarray:
    """Counts scaled from outputs to points, so that resamples hold n points."""
    total = counts.sum()
    return counts if total == n else counts * (n / total)
