"""Kronecker-factored covariance, layer by layer."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ntkuq.decisions.bandits.covariances.base import (
    AbstractCovariance,
    by_block,
    each,
    same_block,
)


class KroneckerState(NamedTuple):
    """Sums of the two factors by layer and block, their eigenvectors and values."""

    left: tuple[Array, ...]
    right: tuple[Array, ...]
    count: tuple[Array, ...]  # pyright: ignore[reportIncompatibleMethodOverride]
    left_vectors: tuple[Array, ...]
    right_vectors: tuple[Array, ...]
    values: tuple[Array, ...]


class Kronecker(AbstractCovariance):
    r"""Layer by layer $\lambda I + n\, A \otimes B$ (KFAC), renewed at each training.

    A and B are the mean outer products of a layer's inputs and output derivatives;
    each arm's matrix has its own. Rewards between two trainings enter at the next one.
    """

    def init(self, shapes, rounds):
        eyes = [
            (
                jnp.broadcast_to(jnp.eye(o), (b, o, o)),
                jnp.broadcast_to(jnp.eye(i), (b, i, i)),
            )
            for b, o, i in shapes
        ]
        return KroneckerState(
            tuple(jnp.zeros((b, o, o)) for b, o, _ in shapes),
            tuple(jnp.zeros((b, i, i)) for b, _, i in shapes),
            tuple(jnp.zeros(b) for b, _, _ in shapes),
            tuple(left for left, _ in eyes),
            tuple(right for _, right in eyes),
            tuple(jnp.zeros(shape) for shape in shapes),
        )

    def refit(self, state, seen, ratio):
        def step(s, chunk):
            left, right, count = [], [], []
            for layer, factor in enumerate(chunk.values.factors):
                one = by_block(factor, s.count[layer].shape[0])
                one *= chunk.weight[:, None]
                d, h = factor.delta, factor.inputs
                left.append(s.left[layer] + jnp.einsum("nk,no,np->kop", one, d, d))
                right.append(s.right[layer] + jnp.einsum("nk,ni,nj->kij", one, h, h))
                count.append(s.count[layer] + one.sum(axis=0))
            return s._replace(left=tuple(left), right=tuple(right), count=tuple(count))

        s = each(seen, jax.tree.map(jnp.zeros_like, state), step)
        lefts, rights, values = [], [], []
        for a, b, n in zip(s.left, s.right, s.count, strict=True):
            ea, va = jnp.linalg.eigh(a)
            eb, vb = jnp.linalg.eigh(b)
            product = jnp.maximum(ea, 0.0)[:, :, None] * jnp.maximum(eb, 0.0)[:, None]
            lefts.append(va)
            rights.append(vb)
            values.append(product / jnp.maximum(n, 1.0)[:, None, None])
        return s._replace(
            left_vectors=tuple(lefts),
            right_vectors=tuple(rights),
            values=tuple(values),
        )

    def add(self, state, values, reward, ratio, known=None):
        return state

    def mean(self, state, values):
        return values.reward

    def variance(self, state, values, ratio):
        total = jnp.zeros_like(values.reward)
        for layer, f in enumerate(values.factors):
            left = state.left_vectors[layer][f.block]
            right = state.right_vectors[layer][f.block]
            d = jnp.einsum("nop,no->np", left, f.delta) ** 2
            h = jnp.einsum("nij,ni->nj", right, f.inputs) ** 2
            inverse = 1.0 / (ratio + state.values[layer][f.block])
            total += jnp.einsum("no,noi,ni->n", d, inverse, h)
        return total

    def cross(self, state, values, ratio):
        size = values.reward.shape[0]
        total = jnp.zeros((size, size), values.reward.dtype)
        for layer, f in enumerate(values.factors):
            d = jnp.einsum("nop,no->np", state.left_vectors[layer][f.block], f.delta)
            h = jnp.einsum("nij,ni->nj", state.right_vectors[layer][f.block], f.inputs)
            inverse = 1.0 / (ratio + state.values[layer][f.block])
            weighted = d[:, :, None] * inverse * h[:, None]
            total += same_block(f) * jnp.einsum("noi,mo,mi->nm", weighted, d, h)
        return total

    def growth(self, state, values, variance, ratio):
        # nothing is added between trainings
        return jnp.zeros((), values.reward.dtype)

    def eigenvalues(self, state):
        return jnp.concatenate([v.reshape(-1) for v in state.values])

    def misfit(self, state, rss, penalty, ratio):
        return rss + ratio * penalty
