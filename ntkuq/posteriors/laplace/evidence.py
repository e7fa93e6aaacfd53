"""The Laplace evidence as a function of prior precision and noise, and its maximum.

With theta* fixed, misfit m = sum (r / s0)^2 at the noise scale s0, log-likelihood
l0 = c - m / 2 there, q = theta*^T L0 theta*, and noise factor v,

    log Z(tau, v) = c - m v^-2 / 2 - NC log v - tau q / 2 - log det(I + t G') / 2

with t = 1 / (tau v^2) (MacKay 1992; Immer et al. 2021, arXiv 2104.04975). For a given t
the best v has a closed form, v^2 = (m + q / t) / NC, so that the search is over log t,
around the t of tau = 1 and v^2 = m / NC. (c is kept apart: of l0 + m (1 - v^-2) / 2 no
digit is left where s0 is far too small.)

The standard errors come from the Hessian of log Z. Where theta* is not fixed but is the
optimum for each tau and v, `standard_errors` takes that into account.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike

from ntkuq.linearize import AbstractCovariance, AbstractCurvature
from ntkuq.linearize.curvature import FunctionCovariance


#: Range of log t around its start that is searched, and the step of the first grid.
LOWER, UPPER, STEP = -20.0, 25.0, 0.5


@dataclasses.dataclass(frozen=True)
class Fit:
    """What the data say at the trained parameters.

    constant: c; the whole log-likelihood where the noise is not a parameter.
    misfit: m; `None` where the noise is not a parameter.
    count: N C. quadratic: q. squares: the sum of squares of each leaf.
    """

    constant: float
    misfit: float | None
    count: int
    quadratic: float
    squares: tuple[float, ...] = ()

    def log_likelihood(self, noise: float = 1.0) -> float:
        """Of the data, at a factor v on the noise scale."""
        if self.misfit is None:
            return self.constant
        return (
            self.constant - 0.5 * self.misfit / noise**2 - self.count * math.log(noise)
        )

    def log_noise(self) -> float:
        """log v of residuals alone, where a search starts."""
        if self.misfit is None or self.misfit <= 0.0:
            return 0.0
        return 0.5 * math.log(self.misfit / self.count)


def normalizer(scale: ArrayLike, count: int) -> float:
    """c: minus the sum of log(s0 sqrt(2 pi)) over N C numbers, s0 () or (C,)."""
    logs = np.log(np.asarray(scale, np.float64))
    return -count * (float(np.mean(logs)) + 0.5 * math.log(2 * math.pi))


class LayerPrecision(NamedTuple):
    """The prior precision of one leaf, and the error of its logarithm."""

    value: float
    log_se: float | None
    at_bound: bool


class Tuned(NamedTuple):
    """The chosen precision factor and noise factor, with errors of their logarithms.

    layers: where each leaf got a precision of its own: those precisions and the errors
        of their logarithms; then tau is 1.
    effective: the effective number of parameters; `None` where it was not needed, see
        `effective`.
    covariance: of the parameters, where it is there already.
    """

    tau: float
    noise: float
    log_tau_se: float | None
    log_noise_se: float | None
    at_bound: bool
    log_evidence: float
    effective: float | None
    layers: tuple[LayerPrecision, ...] | None = None
    covariance: AbstractCovariance | None = None


def log_evidence(
    fit: Fit, curvature: AbstractCurvature, tau: float, noise: float
) -> float:
    """log Z(tau, v)."""
    log_t = -math.log(tau) - 2 * math.log(noise)
    value = fit.log_likelihood(noise) - 0.5 * tau * fit.quadratic
    return value - 0.5 * curvature.log_det(log_t)


def keep(fit: Fit, curvature: AbstractCurvature, tau: float = 1.0) -> Tuned:
    """The evidence at the given precision and noise, nothing fitted."""
    found = curvature.at(tau, 1.0 / tau)
    value = fit.log_likelihood() - 0.5 * tau * fit.quadratic - 0.5 * found.log_det
    return Tuned(
        *(tau, 1.0, None, None, False, value, found.effective),
        covariance=found.covariance,
    )


def effective(known: float | None, covariance: AbstractCovariance | None) -> float:
    """The effective number of parameters, computed where it was not needed before."""
    if known is not None:
        return known
    if not isinstance(covariance, FunctionCovariance):
        raise TypeError(
            "expected the number of effective parameters, or a covariance in function "
            f"space, got {type(covariance).__name__}"
        )
    return covariance.effective()


def maximize(fit: Fit, curvature: AbstractCurvature) -> Tuned:
    """Maximize the evidence over tau, and over the noise where it is a parameter.

    Args:
        fit: what the data say.
        curvature: G. Where its log-determinant is cheap the whole range of t is
            scanned; else a bracket is grown around its start.
    """
    curvature = curvature.prepared()

    def split(log_t: float) -> tuple[float, float]:
        if fit.misfit is None:
            return math.exp(-log_t), 1.0
        variance = (fit.misfit + math.exp(-log_t) * fit.quadratic) / fit.count
        return math.exp(-log_t) / variance, math.sqrt(variance)

    def loss(log_t: float) -> float:
        return -log_evidence(fit, curvature, *split(log_t))

    log_t, at_bound = _minimize(loss, -2.0 * fit.log_noise(), scan=curvature.cheap)
    tau, noise = split(log_t)
    first, second = curvature.slopes(log_t)
    # at a bound the evidence has a slope, and its curvature says nothing
    errors = (None, None) if at_bound else standard_errors(fit, tau, noise, second)
    return Tuned(tau, noise, *errors, at_bound, -loss(log_t), first)


def _minimize(
    loss: Callable[[float], float], start: float, *, scan: bool
) -> tuple[float, bool]:
    from scipy.optimize import minimize_scalar

    if scan:
        grid = start + np.arange(LOWER, UPPER + STEP / 2, STEP)
        values = [loss(point) for point in grid]
        best = int(np.argmin(values))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
        tolerance = 1e-6
    else:
        low, high = _bracket(loss, start)
        tolerance = 0.02
    found = minimize_scalar(
        loss, bounds=(low, high), method="bounded", options={"xatol": tolerance}
    )
    at_bound = not LOWER + 0.1 <= found.x - start <= UPPER - 0.1
    return float(found.x), bool(at_bound)


def _bracket(loss: Callable[[float], float], start: float) -> tuple[float, float]:
    """An interval around a minimum, grown from the start in steps of 2."""
    points = {step: loss(start + step) for step in (0.0, 2.0, -2.0)}
    while True:
        best = min(points, key=lambda point: points[point])
        low, high = best - 2.0, best + 2.0
        missing = [p for p in (low, high) if p not in points and LOWER <= p <= UPPER]
        if not missing:
            return start + max(low, LOWER), start + min(high, UPPER)
        points[missing[0]] = loss(start + missing[0])


def standard_errors(
    fit: Fit, tau: float, noise: float, bend: float, drift: float = 0.0
) -> tuple[float | None, float | None]:
    """Standard errors of log tau and log v from the Hessian of the evidence.

    log t = -log tau - 2 log v, so d2/dlogtau2 = -tau q / 2 - L''/2, and so on. Where
    theta maximizes the log joint at each tau and v, it moves by -Sigma u with log tau,
    u = tau L0 theta, and by -2 Sigma u with log v (at the optimum u is also the
    gradient of the log-likelihood over v^2). That adds c = u^T Sigma u to d2/dlogtau2,
    4 c to d2/dlogv2 and 2 c to the mixed derivative: exact where H does not depend on
    theta.

    Args:
        fit: at theta, for this tau and noise.
        tau: the precision factor.
        noise: the noise factor v.
        bend: L'', the second derivative of log det(I + t L0^-1 G) in log t.
        drift: c; 0 where theta is fixed.

    Returns:
        `None` for what has no error: the noise where it is no parameter, both where
        the evidence does not bend down.
    """
    a = 0.5 * tau * fit.quadratic + 0.5 * bend - drift
    if fit.misfit is None:
        return (a**-0.5 if a > 0 else None), None
    b = 2 * fit.misfit / noise**2 + 2 * bend - 4 * drift
    cross = bend - 2 * drift
    det = a * b - cross**2
    if not (a > 0 and det > 0):
        return None, None
    return math.sqrt(b / det), math.sqrt(a / det)
