"""The Gauss-Newton matrix of a last layer, from its inputs and the Hessians alone.

Outputs W a + b: with a~ = (a, 1), G[(c, i), (d, j)] = sum_n H_n[c, d] a~_ni a~_nj. One
matrix product for each pair c <= d; nothing of size C x P for an example.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkuq.linearize.jacobian import Factors, Jacobian, Readout


def extended(factors: Factors, deviations: list[Array]) -> Float[Array, "N E"]:
    """The inputs of all leaves of a last layer side by side, each scaled: a~."""
    parts = [
        leaf.a.astype(deviation.dtype) * deviation
        for leaf, deviation in zip(_leaves(factors), deviations, strict=True)
    ]
    return jnp.concatenate(parts, axis=-1)


def places(jacobian: Jacobian, outputs: int) -> tuple[tuple[int, ...], ...]:
    """Where parameter (c, e) of the extended matrix lies in the raveled leaves."""
    found, start = [], 0
    for leaf, size in zip(jacobian.subset, jacobian.sizes, strict=True):
        site = jacobian.site(leaf)
        order = np.arange(start, start + size)
        if site is None or site.output_first:
            found.append(order.reshape(outputs, -1))
        else:
            found.append(order.reshape(-1, outputs).T)
        start += size
    rows = np.concatenate(found, axis=1)
    return tuple(tuple(int(n) for n in row) for row in rows)


def readout_pairs(
    factors: Factors, hessian: Float[Array, "N C C"], deviations: list[Array]
) -> Float[Array, "Q E E"]:
    """sum_n H_n[c, d] a~ a~^T of a chunk, for each of the Q = C (C + 1) / 2 pairs."""
    dtype = deviations[0].dtype
    a = extended(factors, deviations).astype(dtype)
    upper = np.triu_indices(hessian.shape[-1])
    weights = hessian[:, upper[0], upper[1]].astype(dtype)
    # one pair after the other: all at once would hold Q times the inputs
    return jax.lax.map(lambda weight: (a * weight[:, None]).T @ a, weights.T)


@functools.partial(jax.jit, static_argnums=1)
def assembled(
    pairs: Float[Array, "Q E E"], order: tuple[tuple[int, ...], ...]
) -> Float[Array, "P P"]:
    """D G D in the order of the raveled leaves.

    order: `places`, as a tuple of rows.
    """
    where = np.asarray(order)
    c, e = where.shape
    upper = np.triu_indices(c)
    blocks = jnp.zeros((c, c, e, e), pairs.dtype)
    blocks = blocks.at[upper].set(pairs)
    blocks = blocks.at[upper[1], upper[0]].set(pairs)
    square = jnp.transpose(blocks, (0, 2, 1, 3)).reshape(c * e, c * e)
    # from the order (c, e) to that of the leaves
    back = np.argsort(where.reshape(-1))
    return square[back][:, back]


def _leaves(factors: Factors) -> list[Readout]:
    leaves = [leaf for leaf in factors.leaves if isinstance(leaf, Readout)]
    if len(leaves) != len(factors.leaves):
        raise TypeError("expected the factors of a last layer, got others")
    return leaves
