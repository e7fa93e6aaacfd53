"""Proper scores of single points: smaller is better."""

import jax
import numpy as np
from numpyro import distributions as dist

from ntkuq.posteriors.distributions import Empirical, QuantileTable


def crps(observed: dist.Distribution, y: np.ndarray) -> np.ndarray:
    r"""The continuous ranked probability score of each point and output.

    $\mathrm{CRPS}(F, y) = \int (F(z) - 1\{z \ge y\})^2\,dz
    = 2 \int_0^1 \rho_q(y - F^{-1}(q))\,dq$. Closed form for the Normal, a mixture of
    Normals and a quantile table; for samples the fair estimator. Any other
    distribution is drawn from (200 draws, fixed key) and scored by its samples.

    Args:
        observed: predictions with float64 NumPy parameters, batch (N,) or (N, C).
        y: observations of the same shape, in the units of the data.

    Returns:
        In the units of the data, shape of y.

    Raises:
        NotImplementedError: for a single sample per point.

    References:
        Gneiting and Raftery, 2007, JASA 102, 359-378. Grimit, Gneiting, Berrocal and
        Johnson, 2006, QJRMS 132, 2925-2942 (mixtures). Ferro, 2014, QJRMS 140,
        1917-1923 (fair estimator).
    """
    if isinstance(observed, dist.Normal):
        return crps_normal(np.asarray(observed.loc), np.asarray(observed.scale), y)
    if isinstance(observed, dist.MixtureSameFamily) and isinstance(
        observed.component_distribution, dist.Normal
    ):
        parts = observed.component_distribution
        weights = np.asarray(observed.mixing_distribution.probs)
        return crps_mixture(weights, np.asarray(parts.loc), np.asarray(parts.scale), y)
    if isinstance(observed, Empirical):
        return crps_samples(np.asarray(observed.values), y)
    if isinstance(observed, QuantileTable):
        return crps_quantiles(
            np.asarray(observed.levels), np.asarray(observed.values), y
        )
    return crps_samples(drawn(observed), y)


def drawn(observed: dist.Distribution, draws: int = 200) -> np.ndarray:
    """Draws of each point and output with a fixed key, (..., draws)."""
    keys = jax.random.split(jax.random.key(0), draws)
    found = np.asarray(jax.vmap(observed.sample)(keys), np.float64)
    return np.moveaxis(found, 0, -1)


def crps_normal(mean: np.ndarray, std: np.ndarray, y: np.ndarray) -> np.ndarray:
    r"""$\sigma\,[z(2\Phi(z) - 1) + 2\varphi(z) - 1/\sqrt\pi]$, $z = (y - \mu)/\sigma$.

    Args:
        mean: (...).
        std: (...), standard deviations.
        y: (...).

    >>> import numpy as np
    >>> print(crps_normal(np.zeros(1), np.ones(1), np.zeros(1)).round(6))
    [0.233695]
    """
    return _mean_distance(y - mean, std) - std / np.sqrt(np.pi)


def crps_mixture(
    weights: np.ndarray, mean: np.ndarray, std: np.ndarray, y: np.ndarray
) -> np.ndarray:
    r"""The score of a mixture of M Normals.

    $\sum_i w_i A(y - \mu_i, \sigma_i^2) - \tfrac12 \sum_{ij} w_i w_j
    A(\mu_i - \mu_j, \sigma_i^2 + \sigma_j^2)$ with $A(m, s^2) = E|m + sZ|$.

    Args:
        weights: (M,) or (..., M), summing to one.
        mean: (..., M).
        std: (..., M), standard deviations.
        y: (...).
    """
    weights = np.broadcast_to(weights, mean.shape)
    to_y = np.sum(weights * _mean_distance(y[..., None] - mean, std), axis=-1)
    # The diagonal of the double sum, then each pair once, by their distance in index.
    spread = np.sum(weights**2 * std, axis=-1) / np.sqrt(np.pi)
    for lag in range(1, mean.shape[-1]):
        first, second = np.s_[..., :-lag], np.s_[..., lag:]
        apart = _mean_distance(
            mean[first] - mean[second], np.hypot(std[first], std[second])
        )
        spread = spread + np.sum(weights[first] * weights[second] * apart, axis=-1)
    return to_y - spread


def crps_samples(values: np.ndarray, y: np.ndarray) -> np.ndarray:
    r"""The fair estimator: unbiased for the distribution the S draws come from.

    $\frac1S \sum_s |z_s - y| - \frac{1}{2 S (S - 1)} \sum_{st} |z_s - z_t|$.

    Args:
        values: draws (..., S).
        y: (...).

    Raises:
        NotImplementedError: when S = 1.
    """
    return crps_sorted(np.sort(values, axis=-1), y)


def crps_sorted(ordered: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The same of draws (..., S) in increasing order."""
    size = ordered.shape[-1]
    if size < 2:
        raise NotImplementedError("The fair estimator needs at least two samples.")
    rank = 2 * np.arange(1, size + 1) - size - 1
    # sum_st |z_s - z_t| = 2 sum_k (2k - S - 1) z_(k); centered against cancellation.
    pairs = (ordered - ordered.mean(axis=-1, keepdims=True)) @ rank
    near = np.mean(np.abs(ordered - y[..., None]), axis=-1)
    return near - pairs / (size * (size - 1))


def crps_quantiles(levels: np.ndarray, values: np.ndarray, y: np.ndarray) -> np.ndarray:
    r"""Twice the pinball loss integrated over the piecewise linear quantile function.

    Beyond its levels the table is flat: the mass sits on the outermost quantiles.

    Args:
        levels: (Q,) or (..., Q).
        values: quantiles (..., Q).
        y: (...).
    """
    levels = np.broadcast_to(levels, values.shape)
    q0, q1 = levels[..., :-1], levels[..., 1:]
    v0, v1 = values[..., :-1], values[..., 1:]
    at = y[..., None]
    inner = v1 > v0
    share = np.clip((at - v0) / np.where(inner, v1 - v0, 1.0), 0.0, 1.0)
    split = q0 + (q1 - q0) * share
    # F is linear on each piece: integrate F^2 below y and (1 - F)^2 above.
    below = (split**3 - q0**3) / 3
    above = ((1 - split) ** 3 - (1 - q1) ** 3) / 3
    slope = np.where(inner, v1 - v0, 0.0) / (q1 - q0)
    outside = np.maximum(values[..., 0] - y, 0) + np.maximum(y - values[..., -1], 0)
    return np.sum(slope * (below + above), axis=-1) + outside


def brier(probs: np.ndarray, codes: np.ndarray) -> np.ndarray:
    r"""$\sum_c (p_c - 1\{y = c\})^2$, between 0 and 2.

    Args:
        probs: (N, C).
        codes: (N,), classes 0 to C - 1.

    >>> import numpy as np
    >>> print(brier(np.array([[0.75, 0.25]]), np.array([0])))
    [0.125]
    """
    hit = np.take_along_axis(probs, codes[:, None], axis=1)[:, 0]
    # Written so that a sure and right prediction costs exactly nothing.
    others = np.sum(probs**2, axis=1) - hit**2
    return np.maximum(others, 0.0) + (1 - hit) ** 2


def _mean_distance(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    r"""$E|m + sZ| = m(2\Phi(m/s) - 1) + 2 s \varphi(m/s)$, Z standard normal."""
    from scipy import special

    z = mean / std
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return mean * special.erf(z / np.sqrt(2)) + 2 * std * density
