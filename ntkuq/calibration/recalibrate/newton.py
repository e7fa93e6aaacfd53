"""The exact minimum of a convex function of few parameters between bounds."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Optimum(NamedTuple):
    """Where a function is smallest.

    Args:
        at: parameters, (d,).
        hessian: second derivatives there, (d, d).
        free: parameters that are not at a bound, booleans (d,).
        steps: Newton steps taken.
    """

    at: np.ndarray
    hessian: np.ndarray
    free: np.ndarray
    steps: int


type Objective = Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray]]


def minimize(
    objective: Objective, start: np.ndarray, low: np.ndarray, high: np.ndarray
) -> Optimum:
    r"""Projected Newton steps until they no longer lead down.

    Parameters at a bound whose gradient pushes outwards rest; the others take the
    Newton step, shortened until the function falls.

    Args:
        objective: value, gradient (d,) and Hessian (d, d) of a convex function.
        start: inside the bounds, (d,).
        low: (d,).
        high: (d,).

    Raises:
        RuntimeError: when 200 steps do not reach the minimum.

    References:
        Bertsekas, 1982, SIAM Journal on Control and Optimization 20, 221-246.

    >>> import numpy as np
    >>> def parabola(x):
    ...     return float(x @ x / 2 - x[0]), x - np.array([1.0, 0.0]), np.eye(2)
    >>> low, high = np.full(2, -5.0), np.array([0.5, 5.0])
    >>> found = minimize(parabola, np.zeros(2), low, high)
    >>> found.at.tolist(), found.free.tolist()
    ([0.5, 0.0], [False, True])
    """
    at = start.astype(np.float64)
    value, slope, bend = objective(at)
    for step in range(200):
        held = ((at <= low) & (slope > 0)) | ((at >= high) & (slope < 0))
        free = ~held
        if not free.any():
            return Optimum(at, bend, free, step)
        move = np.zeros_like(at)
        inner = bend[np.ix_(free, free)]
        move[free] = -np.linalg.lstsq(inner, slope[free], rcond=1e-14)[0]
        # What the step promises, in the units of the function: none left is the end.
        if -slope @ move <= 1e-15 * (1 + abs(value)):
            # the last step lowers the slope where the value is flat to rounding
            at = np.clip(at + move, low, high)
            return Optimum(at, objective(at)[2], free, step)
        share = 1.0
        while True:
            new = np.clip(at + share * move, low, high)
            found = objective(new)
            if found[0] <= value + 1e-4 * float(slope @ (new - at)):
                break
            share /= 2
            if share < 1e-10:  # rounding: nothing below can be told apart
                return Optimum(at, bend, free, step)
        at, (value, slope, bend) = new, found
    raise RuntimeError(
        "the recalibration did not converge in 200 Newton steps; check the "
        "predictions for extreme values"
    )


def standard_errors(optimum: Optimum, gradients: np.ndarray) -> np.ndarray:
    r"""Standard errors of the minimum from curvature and spread of the gradients.

    $H^{-1} (\sum_i g_i g_i^\top) H^{-1}$, which is $H^{-1}$ on average where the
    recalibrated model is right, and stays right where it is not. NaN for parameters
    at a bound.

    Args:
        optimum: of $\sum_i \ell_i$.
        gradients: of each $\ell_i$ there, (N, d).

    Returns:
        Shape (d,).

    References:
        Huber, 1967, Proceedings of the Fifth Berkeley Symposium 1, 221-233.
    """
    free = optimum.free
    errors = np.full(free.size, np.nan)
    if free.any():
        inverse = np.linalg.pinv(optimum.hessian[np.ix_(free, free)])
        spread = gradients[:, free] @ inverse
        errors[free] = np.sqrt((spread**2).sum(axis=0))
    return errors
