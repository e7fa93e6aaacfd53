"""The Gauss-Newton matrix of a last layer, from its inputs and the Hessians alone.

Outputs W a + b: with a~ = (a, 1), G[(c, i), (d, j)] = sum_n H_n[c, d] a~_ni a~_nj. One
matrix product for each pair c <= d; nothing of size C x P for an example.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkuq.linearize.jacobian import Factors, Readout


def extended(factors: Factors, deviations: list[Array]) -> Float[Array, "N E"]:
    """The inputs of all leaves of a last layer side by side, each scaled: a~."""
    parts = [
        leaf.a * deviation
        for leaf, deviation in zip(_leaves(factors), deviations, strict=True)
    ]
    return jnp.concatenate(parts, axis=-1)


def places(factors: Factors) -> np.ndarray:
    """Where parameter (c, e) of the extended matrix lies in the raveled leaves, (C, E)."""
    found, start = [], 0
    for leaf in _leaves(factors):
        shape = (leaf.outputs, leaf.a.shape[-1])
        order = np.arange(start, start + shape[0] * shape[1])
        found.append(
            order.reshape(shape) if leaf.output_first else order.reshape(shape[::-1]).T
        )
        start += order.size
    return np.concatenate(found, axis=1)


def readout_gauss_newton(
    factors: Factors, hessian: Float[Array, "N C C"], deviations: list[Array]
) -> Float[Array, "P P"]:
    """D G D of a chunk, in the order of the raveled leaves."""
    dtype = deviations[0].dtype
    a = extended(factors, deviations).astype(dtype)
    n, e = a.shape
    c = hessian.shape[-1]
    upper = np.triu_indices(c)
    weights = hessian[:, upper[0], upper[1]].astype(dtype)
    weighed = (weights[:, :, None] * a[:, None, :]).reshape(n, -1)
    pairs = (weighed.T @ a).reshape(-1, e, e)
    blocks = jnp.zeros((c, c, e, e), dtype)
    blocks = blocks.at[upper].set(pairs)
    blocks = blocks.at[upper[1], upper[0]].set(pairs)
    square = jnp.transpose(blocks, (0, 2, 1, 3)).reshape(c * e, c * e)
    # from the order (c, e) to that of the leaves
    order = np.argsort(places(factors).reshape(-1))
    return square[order][:, order]


def _leaves(factors: Factors) -> list[Readout]:
    leaves = [leaf for leaf in factors.leaves if isinstance(leaf, Readout)]
    if len(leaves) != len(factors.leaves):
        raise TypeError("expected the factors of a last layer, got others")
    return leaves
