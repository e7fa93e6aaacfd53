"""A symmetric positive semi-definite matrix M seen through log det(I + t M)."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkuq.linearize.curvature.base import (
    Slopes,
    spectral_log_det,
    spectral_slopes,
)


#: Up to this size all eigenvalues are computed once; beyond it, one Cholesky factor
#: for each t that is asked for is cheaper.
SPECTRUM_LIMIT = 1500
#: Step in log t of the central differences of log det beyond `SPECTRUM_LIMIT`.
LOG_STEP = 0.1
#: Jitter tried in turn, relative to the largest diagonal entry of t M.
JITTERS = (0.0, 1e-15, 1e-14, 1e-13, 1e-12)


class Square(eqx.Module):
    """A symmetric matrix M, with its eigenvalues where it is small."""

    matrix: Float[Array, "n n"]
    eigenvalues: np.ndarray | None

    @staticmethod
    def of(matrix: Float[Array, "n n"]) -> Square:
        if matrix.shape[0] > SPECTRUM_LIMIT:
            return Square(matrix, None)
        return Square(matrix, np.asarray(_spectrum(matrix)).clip(0.0))

    def log_det(self, log_t: float) -> float:
        """log det(I + t M)."""
        if self.eigenvalues is not None:
            return spectral_log_det(self.eigenvalues, log_t)
        factor, _ = self.factor(math.exp(log_t))
        return float(2.0 * jnp.sum(jnp.log(jnp.diagonal(factor))))

    def factor(self, t: float) -> tuple[Float[Array, "n n"], Float[Array, ""]]:
        """The Cholesky factor of (1 + jitter) I + t M, and the jitter it took.

        t M may be singular, and has rounding errors of eps times its size, which can
        outweigh I where the data are almost free of noise.

        Raises:
            FloatingPointError: where M is not finite.
        """
        t_array = jnp.asarray(t, self.matrix.dtype)
        size = float(t * jnp.max(jnp.diagonal(self.matrix)))
        for relative in JITTERS:
            jitter = jnp.asarray(relative * size, self.matrix.dtype)
            factor = _factor(self.matrix, t_array, jitter)
            if bool(jnp.isfinite(factor[-1, -1])):
                return factor, jitter
        raise FloatingPointError(
            "expected a positive definite matrix I + t G, got one without a Cholesky "
            f"factor (t = {t:.2g}, largest diagonal entry of t G {size:.2g}): check "
            "the network for outputs or gradients that are not finite"
        )

    def slopes(self, log_t: float) -> Slopes:
        if self.eigenvalues is not None:
            return spectral_slopes(self.eigenvalues, log_t)
        steps = (-LOG_STEP, 0.0, LOG_STEP)
        below, value, above = (self.log_det(log_t + step) for step in steps)
        return Slopes(
            (above - below) / (2 * LOG_STEP),
            (above - 2 * value + below) / LOG_STEP**2,
        )


@jax.jit
def _factor(matrix: Array, t: Array, jitter: Array) -> Array:
    eye = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    return jnp.linalg.cholesky((1.0 + jitter) * eye + t * matrix)


@jax.jit
def _spectrum(matrix: Array) -> Array:
    return jnp.linalg.eigvalsh(matrix)


def log_det_plus_one(matrix: Float[Array, "n n"]) -> Float[Array, ""]:
    """log det(I + M), traceable and differentiable."""
    eye = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    factor = jnp.linalg.cholesky(eye + matrix)
    return 2.0 * jnp.sum(jnp.log(jnp.diagonal(factor)))
