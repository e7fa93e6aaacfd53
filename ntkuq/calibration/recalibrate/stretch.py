"""Predictions stretched around their center."""

import jax
import numpy as np
from numpyro import distributions as dist

from ntkuq.posteriors.distributions import Empirical, QuantileTable
from ntkuq.posteriors.predictive import Predictive


#: Families whose `scale` is one of the whole law around `loc`.
FAMILIES = (
    dist.Normal,
    dist.StudentT,
    dist.Laplace,
    dist.Logistic,
    dist.Gumbel,
    dist.SoftLaplace,
)


def need_stretchable(observed: dist.Distribution, who: str) -> None:
    """Refuse a law that has no center and scale to change."""
    parts = observed
    if isinstance(observed, dist.MixtureSameFamily):
        parts = observed.component_distribution
    if isinstance(parts, FAMILIES) or isinstance(observed, Empirical | QuantileTable):
        return
    raise TypeError(
        f"{who}: expected a Normal, StudentT, Laplace, Logistic or Gumbel, a mixture "
        f"of one of them, samples or a quantile table, got {type(parts).__name__}; use "
        "IsotonicRecalibration, which needs no scale"
    )


def center(observed: dist.Distribution, who: str) -> np.ndarray:
    """What stays in place: the mean, for a quantile table the median, of the batch."""
    if not isinstance(observed, QuantileTable):
        return np.asarray(observed.mean, np.float64)
    levels = np.asarray(observed.levels)
    if not levels.min() <= 0.5 <= levels.max():
        raise ValueError(
            f"{who}: expected a quantile table around the median, got levels "
            f"{levels.min():g} to {levels.max():g}; give quantiles on both sides of 0.5"
        )
    return np.asarray(Predictive(None, observed).quantile(0.5), np.float64)


def stretched(
    observed: dist.Distribution, middle: np.ndarray, factor: np.ndarray
) -> dist.Distribution:
    r"""The law of $m + s (Y - m)$.

    Args:
        observed: the law of Y with float64 parameters, batch (N,) or (N, C).
        middle: m, shape of the batch.
        factor: s, () or (C,).
    """
    if isinstance(observed, dist.MixtureSameFamily):
        at, by = middle[..., None], np.asarray(factor)[..., None]
        parts = _moved(observed.component_distribution, at, by)
        return dist.MixtureSameFamily(observed.mixing_distribution, parts)
    if isinstance(observed, Empirical | QuantileTable):
        at, by = middle[..., None], np.asarray(factor)[..., None]
        values = np.moveaxis(at + by * (np.asarray(observed.values) - at), -1, 0)
        if isinstance(observed, Empirical):
            return Empirical(values)
        # rounding must not make quantiles cross
        return QuantileTable(observed.levels, np.maximum.accumulate(values, axis=0))
    return _moved(observed, middle, np.asarray(factor))


def _moved(
    law: dist.Distribution, middle: np.ndarray, factor: np.ndarray
) -> dist.Distribution:
    """A member of `FAMILIES` with `loc` and `scale` changed."""
    loc, scale = np.asarray(law.loc), np.asarray(law.scale)  # pyright: ignore[reportAttributeAccessIssue]
    shape = np.broadcast_shapes(loc.shape, scale.shape, middle.shape)
    loc = np.broadcast_to(middle + factor * (loc - middle), shape)
    scale = np.broadcast_to(factor * scale, shape)
    if isinstance(law, dist.StudentT):
        return dist.StudentT(np.broadcast_to(np.asarray(law.df), shape), loc, scale)
    return type(law)(loc, scale)


def stretched_latent(
    latent: dist.Distribution | None, middle: np.ndarray, factor: np.ndarray
) -> dist.Distribution | None:
    """The function value stretched alike where it is a Normal of the same batch."""
    if not isinstance(latent, dist.Normal):
        return None
    exact = jax.tree.map(lambda a: np.asarray(a, np.float64), latent)
    if np.shape(exact.loc) != middle.shape:
        return None
    return _moved(exact, middle, factor)
