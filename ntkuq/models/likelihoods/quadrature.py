"""Nodes for integrals over Gaussian network outputs that have no closed form."""

from __future__ import annotations

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


def nodes(outputs: int) -> tuple[Float[np.ndarray, "S C"], Float[np.ndarray, " S"]]:
    """Standard-normal nodes (S, C) and their weights (S,), the same at every call."""
    if outputs == 1:
        x, w = np.polynomial.hermite_e.hermegauss(HERMITE_NODES)
        return x[:, None], w / w.sum()
    half = np.random.default_rng(0).standard_normal((NORMAL_PAIRS, outputs))
    both = np.concatenate([half, -half])
    # rescale each column to unit variance, so that means and variances are exact
    both /= np.sqrt(np.mean(both**2, axis=0))
    return both, np.full(len(both), 1.0 / len(both))


def spread(
    mean: Float[Array, "N C"], covariance: Float[Array, "N C C"]
) -> tuple[Float[Array, "S N C"], Float[Array, " S"]]:
    """Outputs at the nodes of N(mean, covariance), and their weights."""
    points, weights = nodes(mean.shape[-1])
    values, vectors = jnp.linalg.eigh(covariance)
    root = vectors * jnp.sqrt(jnp.clip(values, 0.0))[:, None, :]
    points = jnp.asarray(points, mean.dtype)
    shifts = jax.vmap(lambda z: root @ z)(points)
    return mean + shifts, jnp.asarray(weights, mean.dtype)
