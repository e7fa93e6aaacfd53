"""One temperature for all class probabilities."""

from dataclasses import dataclass, field

import numpy as np
from jax.typing import ArrayLike

from ntkuq.calibration.records import Score
from ntkuq.posteriors.distributions import first_bad
from ntkuq.posteriors.predictive import Predictive

from .base import AbstractRecalibrated, AbstractRecalibration, Diagnostics
from .estimates import compared, positive_estimate
from .inputs import Classes, classes, log_probabilities, with_logits
from .newton import minimize, standard_errors
from .seen import Seen


NAME = "TemperatureScaling"

COLDEST, HOTTEST = 0.01, 100.0

APART = (
    "every calibrate point has its class on top: its probability counts as "
    "(n+1)/(n+2), since the likelihood alone has no best temperature"
)

APART = (
    "every calibrate point has its class on top: its probability counts as "
    "(n+1)/(n+2), since the likelihood alone has no best temperature"
)


@dataclass(frozen=True)
class TemperatureScaling(AbstractRecalibration):
    r"""Divide the log probabilities by one number: $\mathrm{softmax}(\log p / T)$.

    T minimizes the negative log-likelihood of the calibrate part, exactly: that is
    convex in $1/T$. It lies between 0.01 and 100. T above 1 makes the predictions less
    certain. The order of the classes, and so the accuracy, stays. Logits and their
    probabilities give the same result.

    Where every calibrate point has its class on top no T is best; then the outcomes
    count as right with probability $(n+1)/(n+2)$ only, which `diagnostics` tells, and
    the likelihood of the calibrate part may get worse.

    >>> import numpy as np
    >>> p = np.array([[0.99, 0.01]] * 10)
    >>> y = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 1])
    >>> fitted = TemperatureScaling().fit(Predictive.probabilities(p), y)
    >>> print(f"{fitted.temperature.value:.2f}")
    3.31
    >>> new = fitted.predict(Predictive.probabilities(np.array([[0.9, 0.1]])))
    >>> print(f"{float(new.mean[0, 0]):.2f}")
    0.66

    References:
        Guo, Pleiss, Sun and Weinberger, 2017, ICML, arXiv 1706.04599.
    """

    def fit(self, p: Predictive, y: ArrayLike) -> "FittedTemperature":
        data = classes(p, y, NAME, 5)
        right = np.take_along_axis(data.logs, data.codes[:, None], axis=1)[:, 0]
        ok = np.isfinite(right)
        if not ok.all():
            raise ValueError(
                f"{NAME}: the class observed at row {first_bad(ok)} was given "
                "probability 0, which no temperature mends; give logits instead of "
                "rounded probabilities, or use IsotonicCalibration"
            )
        notes: tuple[str, ...] = ()
        target = right
        others = np.where(
            np.arange(data.logs.shape[1]) == data.codes[:, None], -np.inf, data.logs
        ).max(axis=1)
        if (right > others).all():
            target = _smoothed(data, right)
            notes = (APART,)
        best = minimize(
            lambda b: _objective(data.logs, target, b),
            np.ones(1),
            np.full(1, 1 / HOTTEST),
            np.full(1, 1 / COLDEST),
        )
        inverse = float(best.at[0])
        gradient = data.by_point(_moments(data.logs, inverse)[1] - target)
        (se,) = standard_errors(best, gradient[:, None])
        after = _moments(data.logs, inverse)[0] - inverse * right
        return FittedTemperature(
            temperature=positive_estimate(1 / inverse, se / inverse, data.points),
            diagnostics=compared(
                "nll",
                data.by_point(-right),
                data.by_point(after),
                () if best.free.all() else ("temperature",),
                notes,
            ),
            seen=data.seen,
        )


@dataclass(frozen=True)
class FittedTemperature(AbstractRecalibrated):
    """A fitted temperature.

    Args:
        temperature: T with standard error (curvature and spread, by point) and
            interval.
        diagnostics: how the fit went.
        seen: the calibrate points.
    """

    temperature: Score
    diagnostics: Diagnostics
    seen: Seen = field(repr=False)

    def _mapped(self, p: Predictive) -> Predictive:
        return with_logits(p, log_probabilities(p, NAME) / self.temperature.value)


def _smoothed(data: Classes, right: np.ndarray) -> np.ndarray:
    """Mean log probability under targets (n+1)/(n+2), the rest shared by the others."""
    share = 1 / (right.size + 2)
    finite = np.isfinite(data.logs)
    total = np.where(finite, data.logs, 0.0).sum(axis=1) - right
    count = finite.sum(axis=1) - 1
    others = total / np.maximum(count, 1)
    return np.where(count > 0, (1 - share) * right + share * others, right)


def _moments(
    logs: np.ndarray, inverse: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log normalizer, mean and variance of the log probabilities, each (M,)."""
    scaled = inverse * logs
    top = scaled.max(axis=1, keepdims=True)
    weight = np.exp(scaled - top)
    total = weight.sum(axis=1, keepdims=True)
    weight /= total
    finite = np.where(np.isfinite(logs), logs, 0.0)  # these have weight 0
    mean = (weight * finite).sum(axis=1)
    variance = (weight * (finite - mean[:, None]) ** 2).sum(axis=1)
    return (top + np.log(total))[:, 0], mean, variance


def _objective(
    logs: np.ndarray, target: np.ndarray, b: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    normalizer, mean, variance = _moments(logs, float(b[0]))
    value = float((normalizer - b[0] * target).sum())
    slope = (mean - target).sum(keepdims=True)
    return value, slope, variance.sum(keepdims=True)[:, None]
