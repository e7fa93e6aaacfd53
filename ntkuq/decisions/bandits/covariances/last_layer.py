"""The exact covariance of the last layer."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkuq.decisions.bandits.covariances.base import (
    AbstractCovariance,
    Chunk,
    by_block,
    each,
    same_block,
)


class LastState(NamedTuple):
    """Sums of features by head, the inverse with lambda, and the weights."""

    gram: Float[Array, "B i i"]
    moment: Float[Array, "B i"]
    square: Float[Array, ""]
    inverse: Float[Array, "B i i"]


class LastLayer(AbstractCovariance):
    """Exact Bayesian regression on the last layer's features, after each round.

    Mean and variance follow every reward at once by a rank-one update; the features
    change with a training only. With depth 0 this is linear UCB or linear Thompson.

    References: Riquelme, Tucker, Snoek 2018 (arXiv 1802.09127); Li et al. 2010.
    """

    def init(self, shapes, rounds):
        blocks, _, size = shapes[-1]
        gram = jnp.zeros((blocks, size, size))
        return LastState(gram, jnp.zeros((blocks, size)), jnp.zeros(()), gram)

    def refit(self, state, seen, ratio):
        def step(s: LastState, chunk: Chunk) -> LastState:
            factor = chunk.values.factors[-1]
            one = by_block(factor, s.gram.shape[0]) * chunk.weight[:, None]
            h = factor.inputs
            return LastState(
                s.gram + jnp.einsum("nk,ni,nj->kij", one, h, h),
                s.moment + jnp.einsum("nk,n,ni->ki", one, chunk.reward, h),
                s.square + jnp.sum(chunk.weight * chunk.reward**2),
                s.inverse,
            )

        s = each(seen, jax.tree.map(jnp.zeros_like, state), step)
        eye = jnp.eye(s.gram.shape[-1], dtype=s.gram.dtype)
        chol = jnp.linalg.cholesky(s.gram + ratio * eye)
        lower = jax.vmap(
            lambda c: jax.scipy.linalg.solve_triangular(c, eye, lower=True)
        )(chol)
        return s._replace(inverse=jnp.einsum("kai,kaj->kij", lower, lower))

    def add(self, state, values, reward, ratio, known=None):
        factor = values.factors[-1]
        h, k = factor.inputs[0], factor.block[0]
        u = state.inverse[k] @ h
        down = jnp.outer(u, u) / (1.0 + h @ u)
        # of many seeds at once a scatter is slower than this
        one = by_block(factor, state.gram.shape[0])[0]
        return LastState(
            state.gram + one[:, None, None] * jnp.outer(h, h),
            state.moment + one[:, None] * (reward[0] * h),
            state.square + reward[0] ** 2,
            state.inverse - one[:, None, None] * down,
        )

    def mean(self, state, values):
        factor = values.factors[-1]
        weights = jnp.einsum("kij,kj->ki", state.inverse, state.moment)
        return jnp.sum(weights[factor.block] * factor.inputs, axis=1)

    def variance(self, state, values, ratio):
        h, k = values.factors[-1].inputs, values.factors[-1].block
        if state.inverse.shape[0] == 1:
            return jnp.sum((h @ state.inverse[0]) * h, axis=1)
        return jnp.einsum("ni,nij,nj->n", h, state.inverse[k], h)

    def cross(self, state, values, ratio):
        factor = values.factors[-1]
        h = factor.inputs
        along = jnp.einsum("nij,nj->ni", state.inverse[factor.block], h)
        return same_block(factor) * (along @ h.T)

    def eigenvalues(self, state):
        return jnp.maximum(jnp.linalg.eigvalsh(state.gram), 0.0).reshape(-1)

    def misfit(self, state, rss, penalty, ratio):
        values, vectors = jnp.linalg.eigh(state.gram)
        along = jnp.einsum("kij,ki->kj", vectors, state.moment) ** 2
        e = jnp.maximum(values, 0.0)[None] + ratio[:, None, None]
        return jnp.maximum(state.square - jnp.sum(along[None] / e, axis=(1, 2)), 1e-6)
