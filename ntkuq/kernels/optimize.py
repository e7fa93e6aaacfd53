"""Fit hyper-parameters: bounded L-BFGS with restarts, standard errors, bound flags."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float


#: (position) -> (value, gradient) in NumPy float64.
Objective = Callable[[np.ndarray], tuple[float, np.ndarray]]

#: More hyper-parameters than this get no standard errors (one gradient each).
MOST_ERRORS = 40


class Optimum(NamedTuple):
    """The best point found.

    `se` is NaN where the curvature does not determine a standard error.
    """

    position: Float[np.ndarray, " P"]
    value: float
    se: Float[np.ndarray, " P"]
    at_bound: np.ndarray
    evaluations: int
    converged: bool
    gradient_norm: float


#: Value that stands for "not finite at the start".
_NOWHERE = 1e25


class _Guarded:
    """Counts evaluations, and keeps SciPy from values that are not finite."""

    def __init__(self, objective: Objective):
        self.objective = objective
        self.evaluations = 0
        self.good: tuple[np.ndarray, float] | None = None

    def __call__(self, position: np.ndarray) -> tuple[float, np.ndarray]:
        self.evaluations += 1
        value, gradient = self.objective(position)
        if np.isfinite(value) and np.isfinite(gradient).all():
            self.good = position.copy(), float(value)
            return float(value), np.asarray(gradient)
        if self.good is None:
            return _NOWHERE, np.zeros_like(position)
        # a slope up from the last good point, so that the line search steps back
        known, best = self.good
        rise = 1.0 + abs(best)
        away = position - known
        return best + rise, rise * away / max(float(away @ away), 1e-300)


def minimize(
    objective: Objective,
    start: Float[np.ndarray, " P"],
    lower: Float[np.ndarray, " P"],
    upper: Float[np.ndarray, " P"],
    *,
    restarts: int,
    max_steps: int,
    key: Array,
) -> Optimum:
    """Minimize over a box by L-BFGS-B from several starts.

    Args:
        objective: the value (a negative log density, so that its inverse Hessian is a
            covariance) and gradient.
        start: the first start; the others add standard normal noise.
        lower, upper: the box.
        restarts: number of starts.
        max_steps: iterations a start.
        key: for the other starts.

    Raises:
        ValueError: when the objective is finite at no start.

    >>> def bowl(p):
    ...     return float(2 * (p[0] - 1) ** 2), 4 * (p - 1)
    >>> box = np.array([-5.0]), np.array([5.0])
    >>> best = minimize(
    ...     bowl, np.zeros(1), *box, restarts=1, max_steps=50, key=jax.random.key(0)
    ... )
    >>> print(best.position, best.se)
    [1.] [0.5]
    """
    from scipy.optimize import minimize as scipy_minimize

    counted = _Guarded(objective)
    noise = np.array(jax.random.normal(key, (restarts, len(start))), np.float64)
    noise[0] = 0.0
    best = None
    for shift in noise:
        counted.good = None
        found = scipy_minimize(
            counted,
            np.clip(start + shift, lower, upper),
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip(lower, upper)),
            options={"maxiter": max_steps, "maxcor": 20, "ftol": 1e-7, "gtol": 1e-3},
        )
        if best is None or found.fun < best.fun:
            best = found
    if best is None or not best.fun < _NOWHERE:
        raise ValueError(
            "the marginal likelihood is not finite at any starting point: check the "
            "inputs and targets for NaN and extreme values, or scale them "
            "(scaling=Standardize())"
        )
    position = np.clip(best.x, lower, upper)
    margin = 1e-6 * (upper - lower)
    at_bound = (position <= lower + margin) | (position >= upper - margin)
    projected = np.where(at_bound, 0.0, best.jac)
    se = _standard_errors(counted, position, np.asarray(best.jac), ~at_bound)
    return Optimum(
        position=position,
        value=float(best.fun),
        se=se,
        at_bound=at_bound,
        evaluations=counted.evaluations,
        converged=bool(best.success),
        gradient_norm=float(np.max(np.abs(projected), initial=0.0)),
    )


def _standard_errors(
    objective: Objective, position: np.ndarray, gradient: np.ndarray, free: np.ndarray
) -> np.ndarray:
    """Square roots of the diagonal of the inverse Hessian over the free positions."""
    se = np.full(len(position), np.nan)
    index = np.flatnonzero(free)
    if not 0 < len(index) <= MOST_ERRORS:
        return se
    step = 1e-4
    hessian = np.zeros((len(index), len(index)))
    for row, i in enumerate(index):
        moved = position.copy()
        moved[i] += step
        hessian[row] = (objective(moved)[1][index] - gradient[index]) / step
    hessian = 0.5 * (hessian + hessian.T)
    # Positions on which the objective does not depend, or bends the wrong way, are
    # left out: their standard error is unknown.
    known = np.diagonal(hessian) > 1e-6
    index, hessian = index[known], hessian[np.ix_(known, known)]
    if not len(index):
        return se
    values, vectors = np.linalg.eigh(hessian)
    if values[0] <= 0.0:
        return se
    se[index] = np.sqrt(vectors**2 @ (1.0 / values))
    return se
