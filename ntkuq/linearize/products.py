"""Products of structured Jacobians, without P-sized objects where not needed."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ntkuq.linearize.jacobian import Factors, Jacobian, Outer


#: Bytes that one chunk of factors may take (a chunk is what is alive at once).
CHUNK_BYTES = 2**28


def gram(
    left: Factors, right: Factors, variances: list[Array]
) -> Float[Array, "N C M D"]:
    """J1 diag(variance) J2^T, the empirical NTK for a prior variance a leaf.

    For a dense layer met once this is (a a') (g g'), without any P-sized object.

    Args:
        left, right: factors of N and M examples.
        variances: one number, (), for each leaf.
    """
    shape = (*left.outputs.shape, *right.outputs.shape)
    total = jnp.zeros(shape, left.outputs.dtype)
    for one, two, variance in zip(left.leaves, right.leaves, variances, strict=True):
        if isinstance(one, Outer) and isinstance(two, Outer) and one.once:
            inner = one.a[:, 0] @ two.a[:, 0].T
            outer = jnp.einsum("nco,mdo->ncmd", one.g[:, :, 0], two.g[:, :, 0])
            term = inner[:, None, :, None] * outer
        else:
            term = jnp.einsum("ncp,mdp->ncmd", one.dense(), two.dense())
        total = total + variance * term
    return total


def push(factors: Factors, tangent: list[Array]) -> Float[Array, "N C"]:
    """J v for v given as raveled leaves."""
    total = jnp.zeros_like(factors.outputs)
    for leaf, v in zip(factors.leaves, tangent, strict=True):
        if isinstance(leaf, Outer):
            matrix = _matrix(leaf, v)
            total = total + jnp.einsum("ncto,oi,nti->nc", leaf.g, matrix, leaf.a)
        else:
            total = total + leaf.j @ v
    return total


def pull(factors: Factors, cotangent: Float[Array, "N C"]) -> list[Array]:
    """J^T u as raveled leaves."""
    out = []
    for leaf in factors.leaves:
        if isinstance(leaf, Outer):
            pattern = "nc,ncto,nti->oi" if leaf.output_first else "nc,ncto,nti->io"
            value = jnp.einsum(pattern, cotangent, leaf.g, leaf.a)
            out.append(value.reshape(-1))
        else:
            out.append(jnp.einsum("nc,ncp->p", cotangent, leaf.j))
    return out


def _matrix(leaf: Outer, v: Float[Array, " P"]) -> Float[Array, "O I"]:
    shape = (leaf.g.shape[-1], leaf.a.shape[-1])
    return v.reshape(shape) if leaf.output_first else v.reshape(shape[::-1]).T


def dense(factors: Factors, deviations: list[Array]) -> Float[Array, "N C P"]:
    """J diag(deviation): the explicit Jacobian, each leaf scaled by one number."""
    parts = [
        leaf.dense() * deviation
        for leaf, deviation in zip(factors.leaves, deviations, strict=True)
    ]
    return jnp.concatenate(parts, axis=-1)


def chunk_size(jacobian: Jacobian, outputs: int, itemsize: int) -> int:
    """Examples whose dense Jacobian rows fit into `CHUNK_BYTES`.

    A row costs C (A + P) numbers: C backward passes through A activations, and the
    row itself.
    """
    numbers = outputs * (jacobian.plan.activations + jacobian.size)
    return max(1, CHUNK_BYTES // max(1, numbers * itemsize))


def factor_chunk_size(jacobian: Jacobian, outputs: int, itemsize: int) -> int:
    """Examples whose factors fit into `CHUNK_BYTES`.

    A dense layer met once costs I + C O numbers; every other leaf is counted dense,
    C P, which some of its products need.
    """
    numbers = outputs * jacobian.plan.activations
    for leaf in jacobian.subset:
        shape, site = jacobian.plan.shapes[leaf], jacobian.site(leaf)
        if site is None or site.positions > 1:
            numbers += outputs * math.prod(shape)
        else:
            out, into = shape if site.output_first else shape[::-1]
            numbers += into + outputs * out
    return max(1, CHUNK_BYTES // max(1, numbers * itemsize))


def rows(x: PyTree) -> int:
    """The number of examples in x."""
    return jax.tree.leaves(x)[0].shape[0]


def map_chunks(fn: Callable, x: PyTree, size: int) -> PyTree:
    """Apply a batched `fn` to x in chunks of at most `size` rows; join the results."""
    total = rows(x)
    if size >= total:
        return fn(x)
    parts = [
        fn(jax.tree.map(lambda leaf, s=start: leaf[s : s + size], x))
        for start in range(0, total, size)
    ]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
