"""Queries that score or place points one by one."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ntkuq.decisions.acquisition import BALD, AbstractAcquisition, Random
from ntkuq.decisions.active import classes
from ntkuq.decisions.active.base import (
    AbstractQuery,
    best,
    need_number,
    rows,
    selection,
)
from ntkuq.decisions.pool import select


class Top(AbstractQuery):
    """The n points of largest acquisition, scored one by one.

    Args:
        acquisition: such as `BALD()` or `Random()`.

    >>> Top().acquisition
    BALD()
    """

    acquisition: AbstractAcquisition = BALD()

    def __call__(self, posterior, pool_x, n, *, labeled_x=None, key):
        return select(self.acquisition, posterior, pool_x, n, key=key)


class Uniform(AbstractQuery):
    """Points at random: the control.

    >>> Uniform()
    Uniform()
    """

    def __call__(self, posterior, pool_x, n, *, labeled_x=None, key):
        return select(Random(), posterior, pool_x, n, key=key)


class MaxEntropy(AbstractQuery):
    """The n points whose observation is most uncertain, noise included.

    References: Lewis and Gale 1994.

    >>> MaxEntropy()
    MaxEntropy()
    """

    def __call__(self, posterior, pool_x, n, *, labeled_x=None, key):
        need_number(n, rows(pool_x))
        p = posterior.predict(pool_x)
        if p.is_classification:
            return best(classes.entropy(p.mean), n)
        variance = jnp.asarray(p.observed.variance)
        return best(0.5 * jnp.log(2 * jnp.pi * jnp.e * variance), n)


class CoreSet(AbstractQuery):
    """Points that cover the pool: each the farthest from all points with labels.

    k-center greedy in the inputs, scaled as the problem scales them.

    References: Sener and Savarese 2018 (arXiv 1708.00489).

    >>> CoreSet()
    CoreSet()
    """

    def __call__(self, posterior, pool_x, n, *, labeled_x=None, key):
        size = rows(pool_x)
        need_number(n, size)
        scaled = posterior.bnn.inputs
        pool = jnp.reshape(jax.tree.leaves(scaled(pool_x))[0], (size, -1))
        if labeled_x is None or rows(labeled_x) == 0:
            distance = jnp.linalg.norm(pool - pool.mean(axis=0), axis=1)
        else:
            known = jax.tree.leaves(scaled(labeled_x))[0]
            known = jnp.reshape(known, (known.shape[0], -1))
            distance = jnp.min(_distances(pool, known), axis=1)
        return selection(*_centers(pool, distance, n))


def _distances(a: Array, b: Array) -> Array:
    square = jnp.sum(a**2, 1)[:, None] + jnp.sum(b**2, 1) - 2.0 * a @ b.T
    return jnp.sqrt(jnp.maximum(square, 0.0))


@eqx.filter_jit
def _centers(pool: Array, distance: Array, n: int):
    def step(carry, _):
        row = jnp.argmax(carry)
        new = jnp.linalg.norm(pool - pool[row], axis=1)
        # -1: not to be chosen twice
        least = jnp.minimum(carry, new).at[row].set(-1.0)
        return least, (row, carry[row])

    return jax.lax.scan(step, distance, None, length=n)[1]
