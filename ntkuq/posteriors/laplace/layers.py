"""The evidence with one prior precision for each parameter array.

    log Z(p, v) = c - m v^-2 / 2 - NC log v - sum_l p_l |theta_l|^2 / 2
                  - log det(I + v^-2 V G) / 2,    V = diag(1 / p_l)

Differentiated through the log-determinant (Immer et al. 2021, arXiv 2104.04975).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkuq.kernels.optimize import minimize
from ntkuq.linearize import AbstractCurvature
from ntkuq.posteriors.laplace.evidence import Fit, LayerPrecision, Tuned


#: Largest change of a log precision or of the log noise.
RANGE = 20.0


class Numbers(NamedTuple):
    """A `Fit` as arrays, so that one program serves all data of a size."""

    constant: Array
    misfit: Array | None
    points: Array
    squares: Float[Array, " L"]

    @staticmethod
    def of(fit: Fit, dtype: np.dtype) -> Numbers:
        misfit = None if fit.misfit is None else np.asarray(fit.misfit, dtype)
        return Numbers(
            jnp.asarray(np.asarray(fit.constant, dtype)),
            None if misfit is None else jnp.asarray(misfit),
            jnp.asarray(np.asarray(fit.count, dtype)),
            jnp.asarray(np.asarray(fit.squares, dtype)),
        )


def log_evidence_at(
    numbers: Numbers,
    curvature: AbstractCurvature,
    log_precisions: Float[Array, " L"],
    log_noise: Float[Array, ""],
) -> Float[Array, ""]:
    """log Z for one precision a leaf and a noise factor; traceable, differentiable."""
    precisions = jnp.exp(log_precisions)
    scale = jnp.exp(-2.0 * log_noise)
    variances = list(1.0 / precisions)
    value = numbers.constant - 0.5 * jnp.sum(precisions * numbers.squares)
    value = value - 0.5 * curvature.log_det_at(variances, scale)
    if numbers.misfit is not None:
        value = value - 0.5 * numbers.misfit * scale - numbers.points * log_noise
    return value


class _Loss(NamedTuple):
    value: Array
    gradient: Array


@eqx.filter_jit
def _loss(numbers: Numbers, curvature: AbstractCurvature, position: Array) -> _Loss:
    def loss(position: Array) -> Array:
        if numbers.misfit is None:
            zero = jnp.zeros((), position.dtype)
            return -log_evidence_at(numbers, curvature, position, zero)
        return -log_evidence_at(numbers, curvature, position[:-1], position[-1])

    return _Loss(*jax.value_and_grad(loss)(position))


def maximize_layers(
    fit: Fit,
    curvature: AbstractCurvature,
    precisions: list[Array],
    max_steps: int,
) -> Tuned:
    """Maximize the evidence over one precision a leaf, and over the noise.

    Args:
        fit: what the data say.
        curvature: G.
        precisions: where the search starts.
        max_steps: iterations of L-BFGS.
    """
    dtype = np.dtype(precisions[0].dtype)
    numbers = Numbers.of(fit, dtype)
    start = np.log([float(p) for p in precisions])
    free = fit.misfit is not None
    if free:
        start = np.append(start, fit.log_noise())

    def objective(position: np.ndarray) -> tuple[float, np.ndarray]:
        found = _loss(numbers, curvature, jnp.asarray(position, dtype))
        return float(found.value), np.asarray(found.gradient, np.float64)

    best = minimize(
        objective,
        start,
        start - RANGE,
        start + RANGE,
        restarts=1,
        max_steps=max_steps,
        key=jax.random.key(0),
    )
    position, value = _refined(objective, best.position, start, max_steps)
    errors = [
        None if at_bound or math.isnan(se) else float(se)
        for se, at_bound in zip(best.se, best.at_bound, strict=True)
    ]
    count = len(precisions)
    layers = tuple(
        LayerPrecision(math.exp(log_precision), se, bool(at_bound))
        for log_precision, se, at_bound in zip(
            position[:count], errors[:count], best.at_bound[:count], strict=True
        )
    )
    noise = math.exp(position[-1]) if free else 1.0
    # d log det / d log p_l is minus the number of parameters that the data determine
    bare = numbers._replace(squares=jnp.zeros_like(numbers.squares))
    slope = _loss(bare, curvature, jnp.asarray(position, dtype))
    effective = float(-2.0 * np.sum(np.asarray(slope.gradient, np.float64)[:count]))
    return Tuned(
        tau=1.0,
        noise=noise,
        log_tau_se=None,
        log_noise_se=errors[-1] if free else None,
        at_bound=bool(best.at_bound.any()),
        log_evidence=-value,
        effective=effective,
        layers=layers,
    )


def _refined(
    objective: Callable[[np.ndarray], tuple[float, np.ndarray]],
    position: np.ndarray,
    start: np.ndarray,
    max_steps: int,
) -> tuple[np.ndarray, float]:
    """The optimum to rounding: fits to the same data in parts have to agree."""
    from scipy.optimize import minimize as scipy_minimize

    found = scipy_minimize(
        objective,
        position,
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(start - RANGE, start + RANGE, strict=True)),
        options={"maxiter": max_steps, "ftol": 1e-15, "gtol": 1e-8},
    )
    return np.asarray(found.x), float(found.fun)
