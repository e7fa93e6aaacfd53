"""The diagonal of the covariance of the weights."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp

from ntkuq.decisions.bandits.covariances.base import (
    AbstractCovariance,
    by_block,
    each,
    same_block,
)


class Diagonal(AbstractCovariance):
    """The diagonal only, as the published experiments of NeuralUCB keep it.

    Args:
        relinearize: take gradients of earlier rounds anew after a training; the
            published algorithm keeps those of the round itself.
    """

    relinearize: bool = eqx.field(static=True, default=True)

    def init(self, shapes, rounds):
        return tuple(jnp.zeros(shape) for shape in shapes)

    def _plus(self, state, factors, weight):
        new = []
        for s, factor in zip(state, factors, strict=True):
            d, h = factor.delta**2 * weight[:, None], factor.inputs**2
            if s.shape[0] == 1:
                new.append(s + (d.T @ h)[None])
            elif d.shape[0] == 1:
                # of many seeds at once a scatter is slower than this
                one = by_block(factor, s.shape[0])[0]
                new.append(s + one[:, None, None] * (d.T @ h))
            else:
                one = by_block(factor, s.shape[0])
                new.append(s + jnp.einsum("nk,no,ni->koi", one, d, h))
        return tuple(new)

    def refit(self, state, seen, ratio):
        if not self.relinearize:
            return state
        zero = jax.tree.map(jnp.zeros_like, state)
        return each(seen, zero, lambda s, c: self._plus(s, c.values.factors, c.weight))

    def add(self, state, values, reward, ratio, known=None):
        return self._plus(state, values.factors, jnp.ones_like(values.reward))

    def mean(self, state, values):
        return values.reward

    def variance(self, state, values, ratio):
        total = jnp.zeros_like(values.reward)
        for s, factor in zip(state, values.factors, strict=True):
            inverse = 1.0 / (ratio + s)
            d, h = factor.delta**2, factor.inputs**2
            if s.shape[0] == 1:
                total += jnp.sum((d @ inverse[0]) * h, axis=1)
            else:
                total += jnp.einsum("no,noi,ni->n", d, inverse[factor.block], h)
        return total

    def cross(self, state, values, ratio):
        size = values.reward.shape[0]
        total = jnp.zeros((size, size), values.reward.dtype)
        for s, f in zip(state, values.factors, strict=True):
            inverse = (1.0 / (ratio + s))[f.block]
            weighted = f.delta[:, :, None] * inverse * f.inputs[:, None]
            all_pairs = jnp.einsum("noi,mo,mi->nm", weighted, f.delta, f.inputs)
            total += same_block(f) * all_pairs
        return total

    def growth(self, state, values, variance, ratio):
        total = jnp.zeros((), values.reward.dtype)
        for s, f in zip(state, values.factors, strict=True):
            square = f.delta[0, :, None] ** 2 * f.inputs[0] ** 2
            total += jnp.sum(jnp.log1p(square / (ratio + s[f.block[0]])))
        return total

    def eigenvalues(self, state):
        return jnp.concatenate([s.reshape(-1) for s in state])

    def misfit(self, state, rss, penalty, ratio):
        return rss + ratio * penalty
