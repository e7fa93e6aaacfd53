"""Gaussian process regression on arrays: evidence, conditioning, moments.

Everything here is float64 (call it where `jax.enable_x64(True)` holds) and takes the
covariance as a matrix, whichever kernel it came from.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkuq.kernels.solve import cholesky, inverse, log_determinant, solve
from ntkuq.linearize.triangular import self_product, solve_lower


class Evidence(NamedTuple):
    """A log marginal likelihood, its derivatives, and the jitter it needed."""

    value: Float[Array, ""]
    kernel_bar: Float[Array, "N N"]
    noise_bar: Float[Array, ""]
    jitter: Float[Array, ""]


def evidence(
    kernel: Float[Array, "N N"],
    y: Float[Array, "N C"],
    noise_variance: Float[Array, ""],
) -> Evidence:
    r"""$\log N(y; 0, K + \sigma^2 I)$, summed over the columns of y.

    With $A = (K + \sigma^2 I)^{-1}$ and $\alpha = A y$ the derivatives are
    $\partial/\partial K = \frac12(\alpha\alpha^T - C A)$ and its trace for $\sigma^2$.

    Args:
        kernel: K.
        y: targets minus the prior mean; C outputs share K.
        noise_variance: sigma^2.

    References:
        Rasmussen and Williams, *Gaussian Processes for Machine Learning*, 2006,
        eq. 2.30 and 5.9.
    """
    size, columns = y.shape
    lower, jitter = cholesky(_plus(kernel, noise_variance))
    alpha = solve(lower, y)
    value = -0.5 * (
        jnp.sum(y * alpha)
        + columns * (log_determinant(lower) + size * jnp.log(2.0 * jnp.pi))
    )
    bar = 0.5 * (alpha @ alpha.T - columns * inverse(lower))
    return Evidence(value, bar, jnp.trace(bar), jitter)


class Factors(NamedTuple):
    """What conditioning on data leaves behind.

    lower: Cholesky factor of K + sigma^2 I (+ jitter). alpha: (K + sigma^2 I)^-1 y.
    """

    lower: Float[Array, "N N"]
    alpha: Float[Array, "N C"]
    jitter: Float[Array, ""]


def condition(
    kernel: Float[Array, "N N"],
    y: Float[Array, "N C"],
    noise_variance: Float[Array, ""],
) -> Factors:
    """Factor the covariance of the observations once."""
    lower, jitter = cholesky(_plus(kernel, noise_variance))
    return Factors(lower, solve(lower, y), jitter)


def log_density(factors: Factors, y: Float[Array, "N C"]) -> Float[Array, ""]:
    """The log marginal likelihood from the factors."""
    size, columns = y.shape
    return -0.5 * (
        jnp.sum(y * factors.alpha)
        + columns * (log_determinant(factors.lower) + size * jnp.log(2.0 * jnp.pi))
    )


def marginals(
    factors: Factors, cross: Float[Array, "M N"], diagonal: Float[Array, " M"]
) -> tuple[Float[Array, "M C"], Float[Array, " M"]]:
    """Posterior mean and variance of each function value.

    Args:
        factors: from `condition`.
        cross: covariance of new and training inputs.
        diagonal: prior variance of the new inputs.

    Returns:
        Means, and variances that all outputs share; a variance that rounding has made
        negative, or smaller than rounding can tell, is set to that size.
    """
    half = solve_lower(factors.lower, cross.T)
    variance = diagonal - jnp.sum(half**2, axis=0)
    floor = jnp.finfo(diagonal.dtype).eps * diagonal
    return cross @ factors.alpha, jnp.maximum(variance, floor)


def joint(
    factors: Factors, cross: Float[Array, "M N"], prior: Float[Array, "M M"]
) -> tuple[Float[Array, "M C"], Float[Array, "M M"]]:
    """Posterior mean and covariance across inputs, which all outputs share."""
    half = solve_lower(factors.lower, cross.T)
    return cross @ factors.alpha, prior - self_product(half)


def _plus(kernel: Array, noise_variance: Array) -> Array:
    return kernel + noise_variance * jnp.eye(kernel.shape[0], dtype=kernel.dtype)


def independent(variance: Float[Array, " M"], outputs: int) -> Float[Array, "M C C"]:
    """The covariance of independent outputs that share their variance."""
    eye = jnp.eye(outputs, dtype=variance.dtype)
    return variance[:, None, None] * eye[None]
