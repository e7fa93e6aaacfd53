r"""Variance of a reward, $\phi^\top (\lambda I + \sum \phi \phi^\top)^{-1} \phi$."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkuq.decisions.bandits.network import Factor, Values


class Chunk(NamedTuple):
    """Some observed rounds: values and factors now, rewards, and 1 or 0 for each."""

    values: Values
    reward: Float[Array, " n"]
    weight: Float[Array, " n"]


class Seen(NamedTuple):
    """All observed rounds, chunk by chunk: `at(i)` for i below `chunks`."""

    at: Callable[[Array], Chunk]
    chunks: Array


class AbstractCovariance(eqx.Module):
    """How much of the covariance of the weights is kept.

    `refit` is called after a training, `add` after each observed reward.
    """

    @abc.abstractmethod
    def init(self, shapes: Sequence[tuple[int, int, int]], rounds: int) -> Any:
        """The state without data, for layers (blocks, out, in)."""

    @abc.abstractmethod
    def refit(self, state: Any, seen: Seen, ratio: Array) -> Any:
        """The state of all observed rounds at the present weights, with lambda."""

    @abc.abstractmethod
    def add(self, state: Any, values: Values, reward: Array, ratio: Array) -> Any:
        """The state with one more round; leading axis 1."""

    @abc.abstractmethod
    def mean(self, state: Any, values: Values) -> Float[Array, " K"]:
        """The expected rewards of the arms."""

    @abc.abstractmethod
    def variance(self, state: Any, values: Values, ratio: Array) -> Float[Array, " K"]:
        """The variance of each arm's reward at noise 1."""

    @abc.abstractmethod
    def eigenvalues(self, state: Any) -> Float[Array, " p"]:
        """Of the sum of the outer products, for the evidence."""

    @abc.abstractmethod
    def misfit(self, state: Any, rss: Array, penalty: Array, ratio: Array) -> Array:
        r"""$\mathrm{RSS} + \lambda \|\theta - \theta_0\|^2$ for each lambda, (G,)."""


def _each(seen: Seen, state: Any, step: Callable[[Any, Chunk], Any]) -> Any:
    return jax.lax.fori_loop(0, seen.chunks, lambda i, s: step(s, seen.at(i)), state)


def _by_block(factor: Factor, blocks: int) -> Array:
    return jax.nn.one_hot(factor.block, blocks, dtype=factor.delta.dtype)


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
                new.append(s.at[factor.block[0]].add(d.T @ h))
            else:
                one = _by_block(factor, s.shape[0])
                new.append(s + jnp.einsum("nk,no,ni->koi", one, d, h))
        return tuple(new)

    def refit(self, state, seen, ratio):
        if not self.relinearize:
            return state
        zero = jax.tree.map(jnp.zeros_like, state)
        return _each(seen, zero, lambda s, c: self._plus(s, c.values.factors, c.weight))

    def add(self, state, values, reward, ratio):
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

    def eigenvalues(self, state):
        return jnp.concatenate([s.reshape(-1) for s in state])

    def misfit(self, state, rss, penalty, ratio):
        return rss + ratio * penalty


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
            one = _by_block(factor, s.gram.shape[0]) * chunk.weight[:, None]
            h = factor.inputs
            return LastState(
                s.gram + jnp.einsum("nk,ni,nj->kij", one, h, h),
                s.moment + jnp.einsum("nk,n,ni->ki", one, chunk.reward, h),
                s.square + jnp.sum(chunk.weight * chunk.reward**2),
                s.inverse,
            )

        s = _each(seen, jax.tree.map(jnp.zeros_like, state), step)
        eye = jnp.eye(s.gram.shape[-1], dtype=s.gram.dtype)
        chol = jnp.linalg.cholesky(s.gram + ratio * eye)
        lower = jax.vmap(
            lambda c: jax.scipy.linalg.solve_triangular(c, eye, lower=True)
        )(chol)
        return s._replace(inverse=jnp.einsum("kai,kaj->kij", lower, lower))

    def add(self, state, values, reward, ratio):
        factor = values.factors[-1]
        h, k = factor.inputs[0], factor.block[0]
        u = state.inverse[k] @ h
        down = jnp.outer(u, u) / (1.0 + h @ u)
        return LastState(
            state.gram.at[k].add(jnp.outer(h, h)),
            state.moment.at[k].add(reward[0] * h),
            state.square + reward[0] ** 2,
            state.inverse.at[k].add(-down),
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

    def eigenvalues(self, state):
        return jnp.maximum(jnp.linalg.eigvalsh(state.gram), 0.0).reshape(-1)

    def misfit(self, state, rss, penalty, ratio):
        values, vectors = jnp.linalg.eigh(state.gram)
        along = jnp.einsum("kij,ki->kj", vectors, state.moment) ** 2
        e = jnp.maximum(values, 0.0)[None] + ratio[:, None, None]
        return jnp.maximum(state.square - jnp.sum(along[None] / e, axis=(1, 2)), 1e-6)


class FunctionState(NamedTuple):
    """Factors of the rounds, their number, and the inverse Cholesky factor."""

    delta: tuple[Array, ...]
    inputs: tuple[Array, ...]
    block: tuple[Array, ...]
    inverse: Float[Array, "T T"]
    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]


class FunctionSpace(AbstractCovariance):
    r"""The full covariance of all weights, kept as a t x t matrix.

    $\phi_*^\top (\lambda I + \Phi^\top \Phi)^{-1} \phi_*
    = (k_{**} - k_*^\top (K + \lambda I)^{-1} k_*) / \lambda$ with $K = \Phi \Phi^\top$,
    whose entries come from the factors: no gradient of length P is ever made. Memory
    is T x T for T rounds.

    Args:
        relinearize: as in `Diagonal`; each training then costs T^3.
    """

    relinearize: bool = eqx.field(static=True, default=False)

    def init(self, shapes, rounds):
        return FunctionState(
            tuple(jnp.zeros((rounds, o)) for _, o, _ in shapes),
            tuple(jnp.zeros((rounds, i)) for _, _, i in shapes),
            tuple(jnp.zeros(rounds, jnp.int32) for _ in shapes),
            jnp.zeros((rounds, rounds)),
            jnp.zeros((), jnp.int32),
        )

    def _cross(self, state, factors):
        total = jnp.zeros((factors[0].delta.shape[0], state.inverse.shape[0]))
        for layer, factor in enumerate(factors):
            block = factor.block.astype(jnp.int32)
            same = block[:, None] == state.block[layer][None]
            kernel = factor.delta @ state.delta[layer].T
            total += jnp.where(
                same, kernel * (factor.inputs @ state.inputs[layer].T), 0.0
            )
        return total

    def _own(self, factors):
        return sum(
            jnp.sum(f.delta**2, axis=1) * jnp.sum(f.inputs**2, axis=1) for f in factors
        )

    def refit(self, state, seen, ratio):
        if not self.relinearize:
            # the gradients stay, but the ratio may be another one
            return self._inverted(state, ratio)

        def step(carry, chunk):
            s, start = carry
            size = chunk.weight.shape[0]

            def put(buffer, new):
                return jax.lax.dynamic_update_slice_in_dim(buffer, new, start, 0)

            factors = chunk.values.factors
            on = chunk.weight[:, None]
            s = s._replace(
                delta=tuple(
                    put(b, f.delta * on) for b, f in zip(s.delta, factors, strict=True)
                ),
                inputs=tuple(
                    put(b, f.inputs) for b, f in zip(s.inputs, factors, strict=True)
                ),
                block=tuple(
                    put(b, f.block.astype(jnp.int32))
                    for b, f in zip(s.block, factors, strict=True)
                ),
                count=s.count + chunk.weight.sum().astype(jnp.int32),
            )
            return s, start + size

        zero = jax.tree.map(jnp.zeros_like, state)
        s, _ = _each(seen, (zero, jnp.zeros((), jnp.int32)), step)
        return self._inverted(s, ratio)

    def _inverted(self, s, ratio):
        """The state with the inverse Cholesky factor for this ratio."""
        every = [
            Factor(d, i, b) for d, i, b in zip(s.delta, s.inputs, s.block, strict=True)
        ]
        eye = jnp.eye(s.inverse.shape[0], dtype=s.inverse.dtype)
        chol = jnp.linalg.cholesky(self._cross(s, every) + ratio * eye)
        inverse = jax.scipy.linalg.solve_triangular(chol, eye, lower=True)
        live = jnp.arange(eye.shape[0], dtype=jnp.int32) < s.count
        return s._replace(inverse=jnp.where(live[:, None], inverse, 0.0))

    def add(self, state, values, reward, ratio):
        factors, at = values.factors, state.count
        cross = jnp.asarray(self._cross(state, factors))[0]
        along = state.inverse @ cross
        last = jnp.sqrt(
            jnp.maximum(
                jnp.asarray(self._own(factors))[0] + ratio - along @ along, 1e-3 * ratio
            )
        )
        row = (-(along @ state.inverse) / last).at[at].set(1.0 / last)
        return FunctionState(
            tuple(
                b.at[at].set(f.delta[0])
                for b, f in zip(state.delta, factors, strict=True)
            ),
            tuple(
                b.at[at].set(f.inputs[0])
                for b, f in zip(state.inputs, factors, strict=True)
            ),
            tuple(
                b.at[at].set(f.block[0].astype(b.dtype))
                for b, f in zip(state.block, factors, strict=True)
            ),
            state.inverse.at[at].set(row),
            at + 1,
        )

    def mean(self, state, values):
        return values.reward

    def variance(self, state, values, ratio):
        along = self._cross(state, values.factors) @ state.inverse.T
        rest = self._own(values.factors) - jnp.sum(along**2, axis=1)
        return jnp.maximum(rest, 0.0) / ratio

    def eigenvalues(self, state):
        every = [
            Factor(d, i, b)
            for d, i, b in zip(state.delta, state.inputs, state.block, strict=True)
        ]
        return jnp.maximum(jnp.linalg.eigvalsh(self._cross(state, every)), 0.0)

    def misfit(self, state, rss, penalty, ratio):
        return rss + ratio * penalty


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
                one = _by_block(factor, s.count[layer].shape[0])
                one *= chunk.weight[:, None]
                d, h = factor.delta, factor.inputs
                left.append(s.left[layer] + jnp.einsum("nk,no,np->kop", one, d, d))
                right.append(s.right[layer] + jnp.einsum("nk,ni,nj->kij", one, h, h))
                count.append(s.count[layer] + one.sum(axis=0))
            return s._replace(left=tuple(left), right=tuple(right), count=tuple(count))

        s = _each(seen, jax.tree.map(jnp.zeros_like, state), step)
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

    def add(self, state, values, reward, ratio):
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

    def eigenvalues(self, state):
        return jnp.concatenate([v.reshape(-1) for v in state.values])

    def misfit(self, state, rss, penalty, ratio):
        return rss + ratio * penalty
