"""Normal laws point by point: how far apart, and what a few draws can tell."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ntkuq.calibration import Score
from ntkuq.calibration.bootstrap import SEED, resamples
from ntkuq.calibration.pairs import ALPHA, holm


#: Added to the diagonal of a correlation matrix before it is factored.
JITTER = 1e-9
#: Sets of exact draws that say how near to their law M draws can come.
SETS = 1000


class Normals(NamedTuple):
    """A normal law at each of N points, for each of C outputs.

    mean, std: (N, C), in one unit.
    """

    mean: Float[np.ndarray, "N C"]
    std: Float[np.ndarray, "N C"]

    @staticmethod
    def of_draws(values: Float[np.ndarray, "*R M N C"]) -> Normals:
        """Mean and standard deviation of M draws."""
        return Normals(values.mean(axis=-3), values.std(axis=-3, ddof=1))

    @property
    def spread(self) -> Float[np.ndarray, " N"]:
        """The root mean variance over the outputs of each point."""
        return np.sqrt(np.mean(self.std**2, axis=-1))


def wasserstein(p: Normals, reference: Normals) -> Float[np.ndarray, "*R N"]:
    r"""The Wasserstein-2 distance at each point, in standard deviations there.

    $\sqrt{(\mu - \mu_r)^2 + (\sigma - \sigma_r)^2} / \sigma_r$, averaged over outputs.

    >>> one = Normals(np.zeros((1, 1)), np.ones((1, 1)))
    >>> two = Normals(np.full((1, 1), 3.0), np.full((1, 1), 5.0))
    >>> wasserstein(two, one)
    array([5.])
    """
    apart = np.hypot(p.mean - reference.mean, p.std - reference.std)
    return np.mean(apart / reference.std, axis=-1)


def floor(
    covariance: Float[np.ndarray, "NC NC"], outputs: int, count: int, seed: int = SEED
) -> Float[np.ndarray, " R"]:
    """The mean distance of so many exact draws to their own law, for many sets of them.

    Args:
        covariance: of the law across points, rows ordered (n, c).
        outputs: C.
        count: draws in a set, M.
        seed: of the sets.
    """
    std = np.sqrt(np.diagonal(covariance))
    lower = np.linalg.cholesky(
        covariance / np.outer(std, std) + JITTER * np.eye(len(std))
    )
    unit = np.ones((len(std) // outputs, outputs))
    reference = Normals(0 * unit, unit)
    rng = np.random.default_rng(seed)
    # bounded memory: a few sets at a time
    step = max(2**22 // (count * len(std)), 1)
    found = []
    for start in range(0, SETS, step):
        size = min(step, SETS - start), count, len(std)
        drawn = rng.standard_normal(size) @ lower.T
        drawn = drawn.reshape(*size[:2], -1, outputs)
        found.append(wasserstein(Normals.of_draws(drawn), reference).mean(axis=-1))
    return np.concatenate(found)


def exceeding(p: Normals, reference: Normals, count: int) -> Float[np.ndarray, "N C"]:
    r"""p-values against: the variance of the law behind M draws is at most this one.

    $(M - 1) s^2 / \sigma^2$ against the upper tail of $\chi^2_{M-1}$: the variance
    ratio test with M - 1 degrees of freedom, and infinitely many for a known variance.
    """
    from scipy import special

    ratio = (p.std / reference.std) ** 2
    return special.chdtrc(count - 1, (count - 1) * ratio)


def differing(p: Normals, reference: Normals, count: int) -> Float[np.ndarray, "N C"]:
    """Two-sided p-values against equal variances, as in `exceeding`."""
    upper = exceeding(p, reference, count)
    return np.minimum(2 * np.minimum(upper, 1 - upper), 1.0)


def rejected(p: Float[np.ndarray, "N C"]) -> int:
    """The number of points with an output that Holm's procedure rejects at 5 %.

    References: Holm 1979, Scandinavian Journal of Statistics 6, 65-70.
    """
    names = {str(place): float(value) for place, value in np.ndenumerate(p)}
    adjusted = {name: one for name, (one, _) in holm(names).items()}
    small = [adjusted[str(place)] <= ALPHA for place, _ in np.ndenumerate(p)]
    return int(np.reshape(small, p.shape).any(axis=1).sum())


def rank_correlation(a: Float[np.ndarray, " N"], b: Float[np.ndarray, " N"]) -> Score:
    """Spearman's, with the 95 % interval of resampled points (percentiles).

    NaN where one of them does not vary.

    >>> a = np.arange(30.0)
    >>> rank_correlation(a, a**2).interval
    (1.0, 1.0)
    """
    n = len(a)
    value = float(_spearman(a, b))
    rng = np.random.default_rng(SEED)
    rows = rng.integers(0, n, (resamples(n), n))
    again = _spearman(a[rows], b[rows])
    if not np.isfinite(again).all():
        return Score(value, None, n, None)
    low, high = np.quantile(again, [0.025, 0.975])
    return Score(value, float(again.std(ddof=1)), n, (float(low), float(high)))


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    from scipy import stats

    centered = [
        (ranks := stats.rankdata(v, axis=-1)) - ranks.mean(axis=-1, keepdims=True)
        for v in (a, b)
    ]
    top = np.sum(centered[0] * centered[1], axis=-1)
    below = np.prod([np.sum(c**2, axis=-1) for c in centered], axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        # rounding must not give a correlation above 1
        return np.asarray(np.clip(top / np.sqrt(below), -1.0, 1.0))
