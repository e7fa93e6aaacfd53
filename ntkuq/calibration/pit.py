"""The probability integral transform: uniform when predictions are calibrated."""

import functools as ft

import numpy as np

from ntkuq.posteriors.predictive import Predictive

from .bootstrap import SEED, distance_score
from .coverage import binomial_quantile
from .laws import law
from .miscalibration import LEVELS as LEVELS, calibration_error as calibration_error
from .records import Score
from .resampled import Resampled
from .transform import Pit


MANY = 10_000  # points from which the limit law of Kolmogorov is good enough


def pit_values(predictive: Predictive, y: np.ndarray) -> np.ndarray:
    r"""$F(y)$, made exactly uniform for calibrated predictions by a fixed draw.

    Where F jumps the value is drawn uniformly within the jump: for S samples between
    the neighboring ranks over S + 1, for counts between F(y - 1) and F(y), and for a
    quantile table between the levels of quantiles equal to y and within the mass
    beyond its outermost levels. The draw is the same on every run.

    Args:
        predictive: predictions with float64 parameters.
        y: observations of the shape of the batch.

    Returns:
        Between 0 and 1, shape of y.

    References:
        Czado, Gneiting and Held, 2009, Biometrics 65, 1254-1261.
    """
    return law(predictive).pit(y)


def ks_test(pit: np.ndarray | Pit, resampled: Resampled | None = None) -> Score:
    r"""Kolmogorov-Smirnov distance of the transform from uniform, with its p-value.

    $D = \sup_u |\hat F(u) - u|$. The p-value is exact for N independent points, and by
    the corrected limit law from 10 000 points on (within 0.5 % for p above 1e-10); with
    several outputs all are pooled into D and only points are counted, which is
    conservative; with groups it is by resampling them. Standard error and interval
    are by bootstrap (`distance_score`).

    Args:
        pit: (N,) or (N, C).
        resampled: the same transform resampled, where that is at hand.

    References:
        Vrbik, 2018, Pioneer Journal of Theoretical and Applied Statistics 15, 15-23
        (correction of the limit).
    """
    pit = Pit.of(pit)
    resampled = Resampled.of(pit) if resampled is None else resampled
    ordered = pit.ordered
    rank = np.arange(ordered.size + 1) / ordered.size
    value = float(max(np.max(rank[1:] - ordered), np.max(ordered - rank[:-1])))
    p = resampled.p_value() if resampled.grouped else kolmogorov(value, pit.n)
    return distance_score(value, resampled.largest_gap(), pit.n, p)


def kolmogorov(distance: float, n: int) -> float:
    """The probability that n independent uniform values are at least so far off."""
    if n >= MANY:
        from scipy import special

        root = np.sqrt(n)
        at = root * distance
        corrected = at + 1 / (6 * root) + (at - 1) / (4 * n)
        return float(np.clip(special.kolmogorov(corrected), 0, 1))
    from scipy import stats

    return float(np.clip(stats.kstwo.sf(distance, n), 0, 1))


def pit_curve(pit: np.ndarray | Pit, n: int | None = None) -> dict[str, np.ndarray]:
    r"""The distribution function of the transform with a simultaneous 95 % band.

    A calibrated prediction stays inside the band at all grid points together with
    probability 95 %. Subtract `grid` from the other columns to see the difference.

    Args:
        pit: (N,) or (N, C); with several outputs the band counts points.
        n: how many independent points the band counts; those of `pit` unless said.

    Returns:
        Columns `grid`, `ecdf`, `lower`, `upper`, each (K,) with K <= 101.

    References:
        Säilynoja, Bürkner and Vehtari, 2022, Statistics and Computing 32, 32.
    """
    pit = Pit.of(pit)
    lower, upper = simultaneous_band(pit.n if n is None else n)
    grid = np.linspace(0, 1, lower.size)
    return {"grid": grid, "ecdf": pit.below(grid), "lower": lower, "upper": upper}


@ft.lru_cache(maxsize=32)
def simultaneous_band(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends for the distribution function of n uniform values.

    The pointwise binomial level is set so that 95 % of 2000 simulated sets of uniform
    values (fixed seed) stay inside everywhere.
    """
    cells = min(n, 100)
    grid = np.linspace(0, 1, cells + 1)
    inner = grid[1:-1]
    if not inner.size:
        return np.array([0.0, 1.0]), np.array([0.0, 1.0])
    rng = np.random.default_rng(SEED)
    draws = rng.multinomial(n, np.full(cells, 1 / cells), size=2000)
    counts = np.cumsum(draws, axis=1)[:, :-1]
    # Only what is far out decides; counts near the mean need no exact tail.
    far = np.abs(counts - n * inner) >= 2 * np.sqrt(n * inner * (1 - inner))
    tail = _tail(counts, n, inner, far)
    if tail > 0.01:
        tail = _tail(counts, n, inner, np.ones_like(far))
    # Sets that reach the limit exactly are inside, on both sides, despite rounding.
    tail *= 1 - 1e-9
    low = binomial_quantile(tail, n, inner) / n
    high = 1 - binomial_quantile(tail, n, 1 - inner) / n
    lower, upper = np.r_[0.0, low, 1.0], np.r_[0.0, high, 1.0]
    lower.setflags(write=False)
    upper.setflags(write=False)
    return lower, upper


def _tail(counts: np.ndarray, n: int, p: np.ndarray, which: np.ndarray) -> float:
    """The smaller tail probability that 5 % of the sets go below somewhere."""
    from scipy import special

    k, at = counts[which], np.broadcast_to(p, counts.shape)[which]
    left = special.bdtr(k, n, at)
    right = np.where(k > 0, special.bdtrc(np.maximum(k - 1, 0), n, at), 1)
    tails = np.ones(counts.shape)
    tails[which] = np.minimum(left, right)
    return float(np.quantile(tails.min(axis=1), 0.05, method="lower"))
