"""One factor on the predicted standard deviation."""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import numpy as np
from jax.typing import ArrayLike
from numpyro import distributions as dist

from ntkuq.calibration.proper import crps
from ntkuq.calibration.records import Score
from ntkuq.posteriors.distributions import Empirical, QuantileTable
from ntkuq.posteriors.predictive import Predictive, current

from .base import AbstractRecalibrated, AbstractRecalibration, Diagnostics
from .estimates import compared, positive_estimate
from .inputs import cast, doubled, log_density, outcomes, precision
from .search import best_for_samples, smallest
from .seen import Seen, need_kind
from .stretch import center, need_stretchable, stretched, stretched_latent


NAME = "ScaleCalibration"

NARROWEST, WIDEST = 1e-3, 1e3


@dataclass(frozen=True)
class ScaleCalibration(AbstractRecalibration):
    r"""Stretch every prediction around its center by one factor: $m + s (Y - m)$.

    The center m is the predicted mean, which stays; for a quantile table it is the
    median. s minimizes the negative log-likelihood of the calibrate part where the
    prediction has a density. For a Normal that is
    $s^2 = \frac1n \sum_i (y_i - \mu_i)^2 / \sigma_i^2$, and for the other laws the
    least over $10^{-3} \le s \le 10^3$. For samples and quantile tables s minimizes the
    CRPS, which is convex in s; samples give it exactly, as a weighted median. Each
    output has a factor of its own.

    The function value and both variances, where known, are stretched alike: what was
    epistemic keeps its share.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = 2 * rng.normal(size=400)
    >>> p = Predictive.normal(np.zeros(400), 1.0)
    >>> fitted = ScaleCalibration().fit(p, y)
    >>> s = fitted.factors[0]
    >>> print(f"{s.value:.2f} {s.se:.2f}")
    1.99 0.08

    References:
        Levi, Gispan, Giladi and Fetaya, 2022, Sensors 22, 5540, arXiv 1905.11659.
        Laves, Ihler, Fast, Kahrs and Ortmaier, 2020, MIDL.
    """

    def fit(self, p: Predictive, y: ArrayLike) -> "FittedScale":
        need_kind(p, False, NAME)
        need_stretchable(p.observed, NAME)
        data = outcomes(p, y, NAME, 5)
        observed = data.p.observed
        with jax.enable_x64(True):
            middle = center(observed, NAME)
            away = data.y - middle
            if not (away != 0).any(axis=0).all():
                raise ValueError(
                    f"{NAME}: expected y that differs from the predicted center, got "
                    "all equal to it, so that the best factor is 0; the calibrate part "
                    "is not new to the model"
                )
            losses = _loss(observed, middle, away)
            least = _least(observed, away, losses)
            least = np.asarray(np.clip(least, NARROWEST, WIDEST))
            table = not _has_density(observed)
            spread = _spread(losses, np.asarray(np.log(least)), 0.05 if table else 1e-3)
            before, after = losses(np.zeros_like(least)), losses(np.log(least))
        ends = (least <= 1.001 * NARROWEST) | (least >= WIDEST / 1.001)
        factors = tuple(
            positive_estimate(s, np.nan if end else se, data.y.shape[0])
            for s, se, end in zip(np.ravel(least), np.ravel(spread), np.ravel(ends))
        )
        # log densities of a point's outputs add up, other scores are averaged
        by_point = np.mean if table else np.sum
        if data.y.ndim == 2:
            before, after = by_point(before, axis=1), by_point(after, axis=1)
        stuck = tuple(f"factor {c}" for c in np.flatnonzero(np.ravel(ends)))
        record = compared("crps" if table else "nll", before, after, stuck)
        return FittedScale(factors, record, data.seen)


@dataclass(frozen=True)
class FittedScale(AbstractRecalibrated):
    """Fitted factors.

    Args:
        factors: s, one of each output, with standard error (curvature and spread) and
            interval.
        diagnostics: how the fit went.
        seen: the calibrate points.
    """

    factors: tuple[Score, ...]
    diagnostics: Diagnostics
    seen: Seen = field(repr=False)

    def _mapped(self, p: Predictive) -> Predictive:
        need_stretchable(p.observed, NAME)
        factor = np.array([score.value for score in self.factors])
        factor = factor.reshape(self.seen.shape)
        dtype = precision(p)
        with jax.enable_x64(True):
            observed = doubled(p).observed
            middle = center(observed, NAME)
            new = cast(stretched(observed, middle, factor), dtype)
            latent = stretched_latent(p.latent, middle, factor)
        return Predictive(
            latent=None if latent is None else cast(latent, dtype),
            observed=new,
            epistemic=_squared(p.epistemic, factor),
            aleatoric=_squared(p.aleatoric, factor),
        )


type Losses = Callable[[np.ndarray], np.ndarray]


def _has_density(observed: dist.Distribution) -> bool:
    return not isinstance(observed, Empirical | QuantileTable)


def _loss(observed: dist.Distribution, middle: np.ndarray, away: np.ndarray) -> Losses:
    r"""The loss of each observation as a function of $\log s$, () or (C,).

    $-\log p_s(y) = \log s - \log p(m + (y - m) / s)$ and
    $\mathrm{CRPS}(F_s, y) = s\,\mathrm{CRPS}(F, m + (y - m) / s)$.
    """
    if _has_density(observed):
        law = current(observed)
        return lambda log_s: log_s - log_density(law, middle + away / np.exp(log_s))
    return lambda log_s: np.exp(log_s) * crps(observed, middle + away / np.exp(log_s))


def _least(observed: dist.Distribution, away: np.ndarray, losses: Losses) -> np.ndarray:
    """The best factor of each output, () or (C,)."""
    if isinstance(observed, dist.Normal):
        z = away / np.asarray(observed.scale)
        return np.asarray(np.sqrt(np.mean(z**2, axis=0)))
    if isinstance(observed, Empirical):
        return best_for_samples(np.asarray(observed.values), away, NAME)
    shape = away.shape[1:]
    low, high = np.full(shape, np.log(NARROWEST)), np.full(shape, np.log(WIDEST))
    best = smallest(lambda log_s: losses(log_s).mean(axis=0), low, high)
    return np.asarray(np.exp(best))


def _spread(losses: Losses, log_s: np.ndarray, step: float) -> np.ndarray:
    """Standard errors of log s: the spread of the slopes over the curvature."""
    below, at, above = losses(log_s - step), losses(log_s), losses(log_s + step)
    slope = (above - below) / (2 * step)
    bend = np.mean(above - 2 * at + below, axis=0) / step**2
    n = slope.shape[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bend > 0, np.std(slope, axis=0) / (bend * np.sqrt(n)), np.nan)


def _squared(variance, factor: np.ndarray):
    """A variance times the squared factor, in its own precision; None stays."""
    if variance is None:
        return None
    return variance * (factor**2).astype(np.dtype(variance.dtype))
