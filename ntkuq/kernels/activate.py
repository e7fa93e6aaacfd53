r"""The dual map of a nonlinearity on covariances with positions.

The entries of K are pairs of (input, position). In a kernel object of neural-tangents
the positions of both come as (height, height', width, width'), or of the same position
only as (height, width).
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkuq.kernels.duals import AbstractDual, reciprocal, root


#: What rounding can make of 1 - rho where two inputs are equal, over epsilon.
_ROUNDING = 32.0


def activate(dual: AbstractDual, kernel: Any, *, same: bool) -> Any:
    """The kernel object after a nonlinearity.

    Args:
        dual: of the nonlinearity.
        kernel: `neural_tangents.Kernel`.
        same: the only pair is an input with itself, so that equal positions are equal:
            their entries are then exact to rounding.
    """
    sides = len(kernel.shape1) - 2
    if sides and not kernel.diagonal_spatial:
        made = _all_positions(dual, kernel, sides, same)
    elif sides:
        made = _same_positions(dual, kernel, same)
    else:
        q1, q2 = kernel.cov1, kernel.cov1 if kernel.cov2 is None else kernel.cov2
        found = _exact(dual, q1) if same else pairs(dual, kernel.nngp, q1, q2)
        made = (*found, dual.diagonal(q1)[0], dual.diagonal(q2)[0])
    nngp, slopes, cov1, cov2 = made
    return kernel.replace(
        nngp=nngp,
        ntk=kernel.ntk * slopes,
        cov1=cov1,
        cov2=None if kernel.cov2 is None else cov2,
        is_gaussian=False,
    )


def pairs(
    dual: AbstractDual,
    k: Float[Array, "N M"],
    q1: Float[Array, " N"],
    q2: Float[Array, " M"],
) -> tuple[Float[Array, "N M"], Float[Array, "N M"]]:
    """E[phi(u) phi(v)] and E[phi'(u) phi'(v)]; equal but for rounding is equal."""
    gap = 1.0 - k * reciprocal(root(q1))[:, None] * reciprocal(root(q2))[None, :]
    gap = jnp.where(gap > _ROUNDING * jnp.finfo(gap.dtype).eps, gap, 0.0)
    gap = jnp.where(gap < 2.0, gap, 2.0)
    e1, e2 = root(dual.diagonal(q1)[0]), root(dual.diagonal(q2)[0])
    value = 1.0 - dual.gaps(gap, dual.points(q1), dual.points(q2))
    slopes = dual.slopes(gap, dual.slope_points(q1), dual.slope_points(q2))
    return e1[:, None] * e2[None, :] * value, slopes


def _exact(dual: AbstractDual, q: Array) -> tuple[Array, Array]:
    """Of one input with itself, (1, 1) each."""
    value, slopes = dual.diagonal(q)
    return value[:, None], slopes[:, None]


def _same_positions(
    dual: AbstractDual, kernel: Any, same: bool
) -> tuple[Array, Array, Array, Array]:
    """Arrays (N, M, *positions) and variances (N, *positions)."""

    def flat(array: Array, batch: int) -> Array:
        return jnp.reshape(array, (*array.shape[:batch], -1))

    q1 = flat(kernel.cov1, 1)
    q2 = q1 if kernel.cov2 is None else flat(kernel.cov2, 1)
    if same:
        nngp, slopes = jax.vmap(lambda q: _exact(dual, q), 1, 2)(q1)
    else:
        k = flat(kernel.nngp, 2)
        nngp, slopes = jax.vmap(lambda *a: pairs(dual, *a), (2, 1, 1), 2)(k, q1, q2)
    cov1, cov2 = (jax.vmap(lambda q: dual.diagonal(q)[0])(q) for q in (q1, q2))
    shape, sides = kernel.nngp.shape, kernel.nngp.shape[2:]
    return (
        jnp.reshape(nngp, shape),
        jnp.reshape(slopes, shape),
        jnp.reshape(cov1, (-1, *sides)),
        jnp.reshape(cov2, (-1, *sides)),
    )


def _all_positions(
    dual: AbstractDual, kernel: Any, sides: int, same: bool
) -> tuple[Array, Array, Array, Array]:
    """Arrays (N, M, h, h', w, w', ...) and covariances (N, h, h', w, w', ...)."""
    shape = kernel.nngp.shape[2:]
    lengths = shape[::2]
    size = math.prod(lengths)

    def apart(array: Array, batch: int) -> Array:
        """(..., positions, positions')."""
        first = [batch + 2 * n for n in range(sides)]
        order = [*range(batch), *first, *[n + 1 for n in first]]
        moved = jnp.transpose(array, order)
        return jnp.reshape(moved, (*array.shape[:batch], size, size))

    def together(array: Array) -> Array:
        batch = array.ndim - 2
        split = jnp.reshape(array, (*array.shape[:batch], *lengths, *lengths))
        order = [batch + n + half for n in range(sides) for half in (0, sides)]
        return jnp.transpose(split, [*range(batch), *order])

    def within(cov: Float[Array, "P P"], q: Float[Array, " P"]) -> tuple[Array, Array]:
        """Of the positions of one input; equal positions are exact."""
        equal = jnp.asarray(np.eye(size, dtype=bool))
        made = zip(dual.diagonal(q), pairs(dual, cov, q, q))
        nngp, slopes = (jnp.where(equal, one[:, None], two) for one, two in made)
        return nngp, slopes

    c1 = apart(kernel.cov1, 1)
    c2 = c1 if kernel.cov2 is None else apart(kernel.cov2, 1)
    q1, q2 = (jnp.diagonal(c, axis1=1, axis2=2) for c in (c1, c2))
    new1, slopes1 = jax.vmap(within)(c1, q1)
    new2 = new1 if kernel.cov2 is None else jax.vmap(within)(c2, q2)[0]
    if same:
        nngp, slopes = new1[:, None], slopes1[:, None]
    else:
        number, other = q1.shape[0], q2.shape[0]
        k = jnp.transpose(apart(kernel.nngp, 2), (0, 2, 1, 3))
        k = jnp.reshape(k, (number * size, other * size))
        found = pairs(dual, k, jnp.ravel(q1), jnp.ravel(q2))
        nngp, slopes = (
            jnp.transpose(jnp.reshape(a, (number, size, other, size)), (0, 2, 1, 3))
            for a in found
        )
    return together(nngp), together(slopes), together(new1), together(new2)
