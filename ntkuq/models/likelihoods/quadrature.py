"""Nodes for integrals over Gaussian network outputs that have no closed form."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


#: Gauss-Hermite nodes for one output: exact for polynomials of degree 63.
HERMITE_NODES = 32
#: Pairs of fixed antithetic standard-normal draws for several outputs, the same for
#: every method. 512 independent draws would give a probability with a standard error
#: of at most sqrt(0.25 / 512) = 0.022, which the actual error exceeds now and then;
#: pairs multiply it by sqrt(1 + r), r the correlation of the integrand within a pair.
NORMAL_PAIRS = 256


@functools.cache
def nodes(
    outputs: int, pairs: int = NORMAL_PAIRS
) -> tuple[Float[np.ndarray, "S C"], Float[np.ndarray, " S"]]:
    """Standard-normal nodes (S, C) and their weights (S,), the same at every call."""
    if outputs == 1:
        x, w = np.polynomial.hermite_e.hermegauss(HERMITE_NODES)
        return x[:, None], w / w.sum()
    half = np.random.default_rng(0).standard_normal((pairs, outputs))
    both = np.concatenate([half, -half])
    # rescale each column to unit variance, so that means and variances are exact
    both /= np.sqrt(np.mean(both**2, axis=0))
    return both, np.full(len(both), 1.0 / len(both))


def line(
    mean: Float[Array, "*batch 1"], variance: Float[Array, "*batch 1"]
) -> tuple[Float[Array, "S *batch 1"], Float[Array, " S"]]:
    """One output at the Gauss-Hermite nodes of N(mean, variance), and their weights."""
    points, weights = nodes(1)
    z = jnp.asarray(points[:, 0], mean.dtype).reshape((-1,) + (1,) * mean.ndim)
    scale = jnp.sqrt(jnp.clip(variance, 0.0))
    return mean + scale * z, jnp.asarray(weights, mean.dtype)


@functools.cache
def dense_line() -> tuple[Float[np.ndarray, " S"], Float[np.ndarray, " S"]]:
    """Equidistant standard-normal nodes and weights, for integrands with a peak.

    The trapezoidal rule on [-8, 8] in steps of h = 0.1 has an error of the order of
    exp(-2 pi a / h) for an integrand that is analytic within a of the real line: a
    density of scale s has a = s / (scale of the output), up to a factor. A Student-t
    density with 4 degrees of freedom that is ten times narrower than the uncertainty of
    the output is integrated to 3e-4, one three times narrower to 1e-8.
    """
    z = np.linspace(-8.0, 8.0, 161)
    w = np.exp(-0.5 * z**2)
    return z, w / w.sum()


@functools.cache
def plane() -> tuple[Float[np.ndarray, "S 2"], Float[np.ndarray, " S"]]:
    """Standard-normal nodes and weights in two dimensions: a grid of Gauss-Hermite."""
    points, weights = nodes(1)
    first, second = np.meshgrid(points[:, 0], points[:, 0], indexing="ij")
    grid = np.stack([first.ravel(), second.ravel()], axis=1)
    return grid, np.outer(weights, weights).ravel()


#: Smallest eigenvalue of a covariance between outputs, relative to the mean one.
FLOOR = 1e-9


@jax.jit
def root(covariance: Float[Array, "*batch C C"]) -> Float[Array, "*batch C C"]:
    """A lower-triangular factor L of covariances, L L^T = covariance.

    A covariance that was computed with rounding errors can have eigenvalues slightly
    below zero. All get `FLOOR` times their mean variance on the diagonal; where that
    is not enough, eigenvalues below it are raised to it.
    """
    size = jnp.trace(covariance, axis1=-2, axis2=-1) / covariance.shape[-1]
    tiny = jnp.finfo(covariance.dtype).tiny ** 0.5
    floor = FLOOR * size + tiny
    eye = jnp.eye(covariance.shape[-1], dtype=covariance.dtype)
    plain = jnp.linalg.cholesky(covariance + floor[..., None, None] * eye)

    def lifted() -> Array:
        values, vectors = jnp.linalg.eigh(covariance)
        values = jnp.maximum(values, floor[..., None])
        some = vectors * jnp.sqrt(values)[..., None, :]
        lower = jnp.swapaxes(jnp.linalg.qr(jnp.swapaxes(some, -1, -2)).R, -1, -2)
        sign = jnp.sign(jnp.diagonal(lower, axis1=-2, axis2=-1))
        return lower * sign[..., None, :]

    # eigenvalues cost some twenty times a factorization: only where one is needed
    return jax.lax.cond(jnp.isfinite(plain).all(), lambda: plain, lifted)
