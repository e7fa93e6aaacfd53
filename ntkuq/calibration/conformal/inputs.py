"""Predictions and outcomes in float64 on the host, checked."""

import jax
import numpy as np
from jax.typing import ArrayLike
from numpyro import distributions as dist

from ntkuq.calibration.exact import exact as double, need_finite, need_regression
from ntkuq.posteriors.distributions import first_bad
from ntkuq.posteriors.predictive import Predictive, current

from .regions import outcomes_like


def exact(p: Predictive) -> Predictive:
    """The same observed distributions with float64 parameters on the host."""
    d = p.observed
    if isinstance(d, dist.Normal):
        # without the way through the device, for speed
        loc, scale = (np.asarray(a, np.float64) for a in (d.loc, d.scale))
        loc, scale = np.broadcast_arrays(loc, scale)
        return Predictive(
            latent=None, observed=dist.Normal(loc, scale, validate_args=False)
        )
    with jax.enable_x64(True):
        return double(p)


def outcomes(p: Predictive, y: ArrayLike) -> np.ndarray:
    """The outcomes that go with exact predictions, class codes for classes.

    Raises:
        ValueError: for another shape, class codes that do not exist, NaN or infinity.
    """
    if isinstance(p.observed, dist.Normal):
        return outcomes_like(y, tuple(p.observed.batch_shape))
    with jax.enable_x64(True):
        known = np.asarray(p.matched(y))
    return known if p.is_classification else outcomes_like(known, known.shape)


def moments(p: Predictive) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of new observations, from exact predictions.

    Raises:
        TypeError: for classes.
        ValueError: for values that are not finite and standard deviations that are
            not positive; the first such row is named.
    """
    mean = means(p)
    observed = p.observed
    if isinstance(observed, dist.Normal):
        std = np.asarray(observed.scale)
    else:
        with jax.enable_x64(True):
            std = np.sqrt(np.asarray(current(observed).variance))
    std = np.broadcast_to(std, mean.shape)
    ok = np.isfinite(std) & (std > 0)
    if not ok.all():
        row = first_bad(ok)
        raise ValueError(
            "expected a standard deviation of the observed distribution that is finite "
            f"and positive, got {std[row]} at row {row}; AbsoluteResidual() needs none"
        )
    return mean, std


def means(p: Predictive) -> np.ndarray:
    """The mean of new observations, from exact predictions.

    Raises:
        TypeError: for classes.
        ValueError: for values that are not finite; the first such row is named.
    """
    need_scale(p)
    if isinstance(p.observed, dist.Normal):
        mean = np.asarray(p.observed.loc)
    else:
        with jax.enable_x64(True):
            mean = np.asarray(p.mean)
    need_finite("predicted means", mean)
    return mean


def probabilities(p: Predictive) -> np.ndarray:
    """Class probabilities (N, C) of exact predictions, each row summing to 1.

    Raises:
        TypeError: for predictions that are not of classes.
        ValueError: for several positions a point, and for rows that are no
            distribution.
    """
    if not p.is_classification:
        raise TypeError(
            "sets of classes need predictions of classes, got "
            f"{type(p.observed).__name__}; use SplitConformal for regression"
        )
    with jax.enable_x64(True):
        probs = np.asarray(p.mean)
    if probs.ndim != 2:
        raise ValueError(
            f"expected class probabilities of shape (N, C), got {probs.shape}; the "
            "positions of one point are not exchangeable with those of another"
        )
    sums = probs.sum(axis=1)
    ok = (probs >= 0).all(axis=1) & (np.abs(sums - 1) <= 1e-4)
    if not ok.all():
        row = first_bad(ok)
        raise ValueError(
            "expected class probabilities that are nonnegative and sum to 1 within "
            f"1e-4, got {probs[row]} at row {row}"
        )
    return probs / sums[:, None]


def need_scale(p: Predictive) -> None:
    """Refuse classes.

    Raises:
        TypeError: for predictions of classes.
    """
    need_regression(p, "an interval", "LAC, APS or RAPS")
