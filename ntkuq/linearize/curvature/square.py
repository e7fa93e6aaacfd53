"""A symmetric positive semi-definite matrix M seen through log det(I + t M)."""

from __future__ import annotations

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from ntkuq.linearize.curvature.base import (
    Slopes,
    spectral_log_det,
    spectral_slopes,
    symmetric,
)
from ntkuq.linearize.triangular import inverse_lower, self_product_of_lower


#: Up to this size an optimization over t starts with all eigenvalues; beyond it, one
#: Cholesky factor for each t that is asked for is cheaper.
SPECTRUM_LIMIT = 1500
#: Jitter tried in turn, relative to the largest diagonal entry of t M.
JITTERS = (0.0, 1e-15, 1e-14, 1e-13, 1e-12)


class Factored(NamedTuple):
    """The Cholesky factor of (1 + jitter) I + t M, and what follows from it."""

    lower: Float[Array, "n n"]
    jitter: Float[Array, ""]
    log_det: Float[Array, ""]


class Square(eqx.Module):
    """A symmetric matrix M, with its eigenvalues where they were asked for."""

    matrix: Float[Array, "n n"]
    eigenvalues: np.ndarray | None = None

    @staticmethod
    def of(matrix: Float[Array, "n n"]) -> Square:
        """The symmetric part of a matrix that is symmetric up to rounding."""
        return Square(_symmetric(matrix))

    def decomposed(self) -> Square:
        """The same with its eigenvalues, where it is small enough for them."""
        if self.eigenvalues is not None or self.matrix.shape[0] > SPECTRUM_LIMIT:
            return self
        return Square(self.matrix, np.asarray(_spectrum(self.matrix)).clip(0.0))

    def log_det(self, log_t: float) -> float:
        """log det(I + t M)."""
        if self.eigenvalues is not None:
            return spectral_log_det(self.eigenvalues, log_t)
        return float(self.factor(math.exp(log_t)).log_det)

    def factor(self, t: float) -> Factored:
        """The Cholesky factor of (1 + jitter) I + t M, and the jitter it took.

        t M may be singular, and has rounding errors of eps times its size, which can
        outweigh I where the data are almost free of noise.

        Raises:
            FloatingPointError: where M is not finite.
        """
        for relative in JITTERS:
            found = _factor(self.matrix, float(t), relative)
            if math.isfinite(float(found.log_det)):
                return found
        size = float(t * jnp.max(jnp.diagonal(self.matrix)))
        raise FloatingPointError(
            "expected a positive definite matrix I + t G, got one without a Cholesky "
            f"factor (t = {t:.2g}, largest diagonal entry of t G {size:.2g}): check "
            "the network for outputs or gradients that are not finite"
        )

    def slopes(self, log_t: float) -> Slopes:
        """First and second derivative of the log-determinant in log t."""
        if self.eigenvalues is not None:
            return spectral_slopes(self.eigenvalues, log_t)
        # with A = (I + t M)^-1 they are n - tr A and tr(A - A^2)
        trace, square = _inverse_traces(self.factor(math.exp(log_t)).lower)
        size = self.matrix.shape[0]
        return Slopes(size - float(trace), float(trace) - float(square))


_symmetric = jax.jit(symmetric)
_spectrum = jax.jit(jnp.linalg.eigvalsh)


@jax.jit
def _factor(matrix: Array, t: ArrayLike, relative: ArrayLike) -> Factored:
    size = matrix.shape[0]
    jitter = jnp.max(jnp.diagonal(matrix)) * t * relative
    eye = jnp.eye(size, dtype=matrix.dtype)
    shifted = (1.0 + jitter) * eye + t * matrix
    lower = jnp.linalg.cholesky(shifted, symmetrize_input=False)
    return Factored(lower, jitter, 2.0 * jnp.sum(jnp.log(jnp.diagonal(lower))))


@jax.jit
def inverse_factor(lower: Array) -> tuple[Array, Array]:
    """L^-1, and the trace of (L L^T)^-1."""
    inverse = inverse_lower(lower)
    return inverse, jnp.sum(inverse**2)


@jax.jit
def _inverse_traces(lower: Array) -> tuple[Array, Array]:
    inverse = self_product_of_lower(inverse_lower(lower))
    return jnp.trace(inverse), jnp.sum(inverse**2)


@jax.jit
def trace_and_log_det(lower: Float[Array, "n n"]) -> tuple[Array, Array]:
    """tr(L L^T) and log det(L L^T)."""
    return jnp.sum(lower**2), 2.0 * jnp.sum(jnp.log(jnp.diagonal(lower)))


def log_det_plus_one(matrix: Float[Array, "n n"]) -> Float[Array, ""]:
    """log det((1 + jitter) I + M), traceable and differentiable.

    With the least of `JITTERS` that gives a Cholesky factor, as in `Square.factor`.
    """
    size = matrix.shape[0]
    shifted = matrix + (1.0 + _least_jitter(matrix)) * jnp.eye(size, dtype=matrix.dtype)
    factor = jnp.linalg.cholesky(shifted)
    return 2.0 * jnp.sum(jnp.log(jnp.diagonal(factor)))


def _least_jitter(matrix: Float[Array, "n n"]) -> Float[Array, ""]:
    """Found apart: a factor that failed has no derivative, not even times 0."""
    fixed = jax.lax.stop_gradient(matrix)
    steps = jnp.asarray(JITTERS, matrix.dtype) * jnp.max(jnp.diagonal(fixed))
    eye = jnp.eye(matrix.shape[0], dtype=matrix.dtype)

    def fails(step: Array) -> Array:
        factor = jnp.linalg.cholesky(fixed + (1.0 + steps[step]) * eye)
        return ~jnp.isfinite(factor[-1, -1])

    last = len(JITTERS) - 1
    step = jax.lax.while_loop(
        lambda step: (step < last) & fails(step), lambda step: step + 1, jnp.asarray(0)
    )
    return steps[step]
