"""The Gauss-Newton matrix of a last layer, from its inputs and the Hessians alone.

Outputs W a + b: with a~ = (a, 1), G[(c, i), (d, j)] = sum_n H_n[c, d] a~_ni a~_nj. One
matrix product for each pair c <= d; nothing of size C x P for an example. Where H 1 = 0
(classes), the blocks of the last output are minus the sums of the others.
"""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkuq.linearize.jacobian import Factors, Jacobian, Readout


#: Rows of a strip of a symmetric product: narrower ones have fewer operations, wider
#: ones are faster each (measured on two cores).
STRIP = 86
#: Inputs of a chunk that stay in a processor's cache while all pairs are made (2 MiB),
#: and examples that are worth adding up all pairs for.
CACHED, WORTH = 2**18, 512


def chunk_rows(inputs: int, fitting: int) -> int:
    """Examples of a chunk for `readout_pairs`, at most so many as fit."""
    if jax.default_backend() != "cpu":
        return fitting
    return min(fitting, max(WORTH, CACHED // inputs))


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
    factors: Factors,
    hessian: Float[Array, "N C C"],
    deviations: list[Array],
    *,
    invariant: bool,
) -> tuple[Float[Array, "Q _ _"], ...]:
    """sum_n H_n[c, d] a~ a~^T of a chunk, for each of the Q = C (C + 1) / 2 pairs.

    Without the pairs of the last output where H 1 = 0 (`invariant`). Strips of the
    upper half of each, every one from the diagonal on: sums over further chunks are
    taken of these, and `assembled` once.
    """
    dtype = deviations[0].dtype
    a = extended(factors, deviations).astype(dtype)
    upper = np.triu_indices(hessian.shape[-1] - invariant)
    weights = hessian[:, upper[0], upper[1]].astype(dtype)
    size = a.shape[1]
    ends = np.linspace(0, size, 1 + max(1, size // STRIP)).astype(int)

    def one(weight: Float[Array, " N"]) -> tuple[Float[Array, "_ _"], ...]:
        return tuple(
            (a[:, start:end] * weight[:, None]).T @ a[:, start:]
            for start, end in itertools.pairwise(ends)
        )

    # one pair after the other: all at once would hold Q times the inputs
    return jax.lax.map(one, weights.T)


@functools.partial(jax.jit, static_argnums=(1, 2))
def assembled(
    strips: tuple[Float[Array, "Q _ _"], ...],
    order: tuple[tuple[int, ...], ...],
    invariant: bool,
) -> Float[Array, "P P"]:
    """D G D in the order of the raveled leaves.

    strips, invariant: of `readout_pairs`.
    order: `places`, as a tuple of rows.
    """
    where = np.asarray(order)
    c, e = where.shape
    pairs = jnp.concatenate(
        [jnp.pad(s, ((0, 0), (0, 0), (e - s.shape[2], 0))) for s in strips], axis=1
    )
    # rows below a strip's first one are mirror images too
    pairs = jnp.triu(pairs) + jnp.triu(pairs, 1).mT
    upper = np.triu_indices(c - invariant)
    blocks = jnp.zeros((c, c, e, e), pairs.dtype)
    blocks = blocks.at[upper].set(pairs)
    blocks = blocks.at[upper[1], upper[0]].set(pairs)
    if invariant:
        last = -jnp.sum(blocks, axis=0)
        blocks = blocks.at[-1].set(last).at[:, -1].set(last)
        blocks = blocks.at[-1, -1].set(-jnp.sum(last[:-1], axis=0))
    square = jnp.transpose(blocks, (0, 2, 1, 3)).reshape(c * e, c * e)
    # from the order (c, e) to that of the leaves
    back = np.argsort(where.reshape(-1))
    return square[back][:, back]


def _leaves(factors: Factors) -> list[Readout]:
    leaves = [leaf for leaf in factors.leaves if isinstance(leaf, Readout)]
    if len(leaves) != len(factors.leaves):
        raise TypeError("expected the factors of a last layer, got others")
    return leaves
