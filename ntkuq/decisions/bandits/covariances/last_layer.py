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
    resolved,
    same_block,
)


class LastState(NamedTuple):
    """Sums by head of features and of rewards times features, the inverse, lambda.

    Lambda is the larger one where rounding has raised it.
    """

    gram: Float[Array, "B i i"]
    moment: Float[Array, "B i"]
    inverse: Float[Array, "B i i"]
    ratio: Float[Array, ""]


class LastLayer(AbstractCovariance):
    """Exact Bayesian regression on the last layer's features, after each round.

    Mean and variance follow every reward at once by a rank-one update; the features
    change with a training only. With depth 0 this is linear UCB or linear Thompson.

    References: Riquelme, Tucker, Snoek 2018 (arXiv 1802.09127); Li et al. 2010.
    """

    def init(self, shapes, rounds):
        blocks, _, size = shapes[-1]
        gram = jnp.zeros((blocks, size, size))
        zero = jnp.zeros(())
        return LastState(gram, jnp.zeros((blocks, size)), gram, zero)

    def refit(self, state, seen, ratio):
        def step(s: LastState, chunk: Chunk) -> LastState:
            factor = chunk.values.factors[-1]
            one = by_block(factor, s.gram.shape[0]) * chunk.weight[:, None]
            h = factor.inputs
            return LastState(
                s.gram + jnp.einsum("nk,ni,nj->kij", one, h, h),
                s.moment + jnp.einsum("nk,n,ni->ki", one, chunk.reward, h),
                s.inverse,
                s.ratio,
            )

        s = each(seen, jax.tree.map(jnp.zeros_like, state), step)
        ratio = jnp.max(jax.vmap(resolved, (0, None))(s.gram, ratio))
        # no Cholesky factor: in float32 there may be none, and NaN would stay for good
        values, vectors = jnp.linalg.eigh(s.gram)
        e = jnp.maximum(values, 0.0) + ratio
        inverse = jnp.einsum("kij,kj,klj->kil", vectors, 1.0 / e, vectors)
        return s._replace(inverse=inverse, ratio=ratio)

    def add(self, state, values, reward, ratio, known=None):
        factor = values.factors[-1]
        h, k = factor.inputs[0], factor.block[0]
        u = state.inverse[k] @ h
        down = jnp.outer(u, u) / (1.0 + jnp.maximum(h @ u, 0.0))
        # of many seeds at once a scatter is slower than this
        one = by_block(factor, state.gram.shape[0])[0]
        return LastState(
            state.gram + one[:, None, None] * jnp.outer(h, h),
            state.moment + one[:, None] * (reward[0] * h),
            state.inverse - one[:, None, None] * down,
            state.ratio,
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
        # Not y'y - b'(G + lambda I)^-1 b, whose terms cancel where the fit is good: the
        # misfit where the residuals were measured, and the change from there.
        values, vectors = jnp.linalg.eigh(state.gram)
        along = jnp.einsum("kij,ki->kj", vectors, state.moment) ** 2
        e, here = jnp.maximum(values, 0.0), state.ratio
        start = rss + here * jnp.sum(along / (e + here) ** 2)
        there = ratio[:, None, None]
        change = along / ((e + here) * (e + there)) * (there - here)
        return jnp.maximum(start + jnp.sum(change, axis=(1, 2)), 1e-6)
