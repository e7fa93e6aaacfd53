"""The leading directions of the covariance of all weights."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkuq.decisions.bandits.covariances.base import (
    AbstractCovariance,
    by_block,
    each,
    same_block,
)


class LowRankState(NamedTuple):
    """Orthonormal directions by layer, (r, blocks, out, in), and their eigenvalues."""

    vectors: tuple[Array, ...]
    values: Float[Array, " r"]


class LowRank(AbstractCovariance):
    r"""$\lambda I + V E V^\top$ with the leading eigenpairs, renewed at each training.

    The variance is $(\|\phi\|^2 - \sum_i \frac{e_i}{e_i + \lambda}
    (v_i^\top \phi)^2) / \lambda$, never below that of the full covariance of the same
    rounds. The pairs come from subspace iteration on $\Phi^\top \Phi$, which starts at
    those of the training before; no P x P matrix is made. Rewards between two trainings
    enter at the next one.

    Args:
        rank: r.
        iterations: of the subspace, at each training.

    References: Halko, Martinsson, Tropp 2011 (doi 10.1137/090771806), algorithm 4.4.

    >>> LowRank(5).init([(1, 2, 3), (1, 1, 3)], 10).values.shape
    (5,)
    """

    rank: int = eqx.field(static=True, default=20)
    iterations: int = eqx.field(static=True, default=3)

    def __check_init__(self):
        if self.rank < 1 or self.iterations < 1:
            raise ValueError(
                "LowRank: expected rank and iterations of 1 or more, got "
                f"{self.rank} and {self.iterations}"
            )

    def init(self, shapes, rounds):
        sizes = [blocks * out * inputs for blocks, out, inputs in shapes]
        rank = min(self.rank, sum(sizes))
        start = jax.random.normal(jax.random.key(0), (rank, sum(sizes)))
        return LowRankState(
            _split(jnp.linalg.qr(start.T)[0].T, shapes), jnp.zeros(rank)
        )

    def _along(self, vectors, factors):
        r"""$v_i^\top \phi_n$, (n, r)."""
        total = jnp.zeros((factors[0].delta.shape[0], vectors[0].shape[0]))
        for v, f in zip(vectors, factors, strict=True):
            if v.shape[1] == 1:
                inner = jnp.einsum("roi,ni->nro", v[:, 0], f.inputs)
            elif f.block.shape[0] <= v.shape[1]:
                inner = jnp.einsum("rnoi,ni->nro", v[:, f.block], f.inputs)
            else:
                one = by_block(f, v.shape[1])
                every = jnp.einsum("rkoi,ni->nkro", v, f.inputs)
                inner = jnp.einsum("nk,nkro->nro", one, every)
            total += jnp.einsum("nro,no->nr", inner, f.delta)
        return total

    def refit(self, state, seen, ratio):
        shapes = [v.shape[1:] for v in state.vectors]

        def applied(vectors):
            def step(total, chunk):
                along = self._along(vectors, chunk.values.factors)
                along *= chunk.weight[:, None]
                return tuple(
                    t
                    + jnp.einsum(
                        "nr,nk,no,ni->rkoi",
                        along,
                        by_block(f, t.shape[1]),
                        f.delta,
                        f.inputs,
                    )
                    for t, f in zip(total, chunk.values.factors, strict=True)
                )

            zero = jax.tree.map(jnp.zeros_like, vectors)
            return each(seen, zero, step)

        def iterate(_, vectors):
            found = _flat(applied(vectors))
            # a little of the subspace before keeps all directions independent
            found += 1e-6 * (1.0 + jnp.linalg.norm(found)) * _flat(vectors)
            return _split(jnp.linalg.qr(found.T)[0].T, shapes)

        vectors = jax.lax.fori_loop(0, self.iterations, iterate, state.vectors)
        # Rayleigh-Ritz in the subspace
        flat = _flat(vectors)
        projected = flat @ _flat(applied(vectors)).T
        values, turn = jnp.linalg.eigh(0.5 * (projected + projected.T))
        return LowRankState(
            _split(turn.T @ flat, shapes), jnp.maximum(values, 0.0).astype(flat.dtype)
        )

    def add(self, state, values, reward, ratio, known=None):
        return state

    def mean(self, state, values):
        return values.reward

    def variance(self, state, values, ratio):
        own = sum(
            jnp.sum(f.delta**2, axis=1) * jnp.sum(f.inputs**2, axis=1)
            for f in values.factors
        )
        along = self._along(state.vectors, values.factors) ** 2
        kept = along @ (state.values / (state.values + ratio))
        return jnp.maximum(own - kept, 0.0) / ratio

    def cross(self, state, values, ratio):
        own = sum(
            same_block(f) * (f.delta @ f.delta.T) * (f.inputs @ f.inputs.T)
            for f in values.factors
        )
        along = self._along(state.vectors, values.factors)
        return (
            own - (along * (state.values / (state.values + ratio))) @ along.T
        ) / ratio

    def growth(self, state, values, variance, ratio):
        # nothing is added between trainings
        return jnp.zeros((), values.reward.dtype)

    def eigenvalues(self, state):
        return state.values

    def misfit(self, state, rss, penalty, ratio):
        return rss + ratio * penalty


def _flat(vectors):
    return jnp.concatenate([v.reshape(v.shape[0], -1) for v in vectors], axis=1)


def _split(flat, shapes):
    sizes = [blocks * out * inputs for blocks, out, inputs in shapes]
    ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
    return tuple(
        flat[:, end - size : end].reshape(-1, *shape)
        for end, size, shape in zip(ends, sizes, shapes, strict=True)
    )
