"""The covariance of all weights as a matrix over rounds."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkuq.decisions.bandits.covariances.base import (
    AbstractCovariance,
    each,
    resolved,
    same_block,
)
from ntkuq.decisions.bandits.network import Factor


#: Rows and columns that are read together: only blocks of rounds so far are touched.
BLOCK = 256


class FunctionState(NamedTuple):
    """Factors of the rounds, their number, the inverse Cholesky factor, its lambda.

    The factor is transposed, as XLA multiplies few rows by a matrix much faster than by
    a transpose. Lambda is the larger one where rounding has raised it.
    """

    delta: tuple[Array, ...]
    inputs: tuple[Array, ...]
    block: tuple[Array, ...]
    inverse: Float[Array, "T T"]
    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    ratio: Array


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
        rounds = _room(rounds)
        return FunctionState(
            tuple(jnp.zeros((rounds, o)) for _, o, _ in shapes),
            tuple(jnp.zeros((rounds, i)) for _, _, i in shapes),
            tuple(jnp.zeros(rounds, jnp.int32) for _ in shapes),
            jnp.zeros((rounds, rounds)),
            jnp.zeros((), jnp.int32),
            jnp.zeros(()),
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
            return state

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
        s, _ = each(seen, (zero, jnp.zeros((), jnp.int32)), step)
        return self._inverted(s, ratio)

    def reweighted(self, state, seen, ratio):
        return self._inverted(state, ratio)

    def _inverted(self, s, ratio):
        """The state with the inverse Cholesky factor for this ratio."""
        every = [
            Factor(d, i, b) for d, i, b in zip(s.delta, s.inputs, s.block, strict=True)
        ]
        eye = jnp.eye(s.inverse.shape[0], dtype=s.inverse.dtype)
        kernel = self._cross(s, every)
        ratio = resolved(kernel, ratio)
        chol = jnp.linalg.cholesky(kernel + ratio * eye)
        inverse = jax.scipy.linalg.solve_triangular(chol, eye, trans=1, lower=True)
        live = jnp.arange(eye.shape[0], dtype=jnp.int32) < s.count
        return s._replace(inverse=jnp.where(live, inverse, 0.0), ratio=ratio)

    def add(self, state, values, reward, ratio, known=None):
        factors, at = values.factors, state.count
        ratio = jnp.maximum(ratio, state.ratio)
        if known is None:
            _, known = self.look(state, values, ratio)
        along = known[0]
        last = jnp.sqrt(
            jnp.maximum(
                jnp.asarray(self._own(factors))[0] + ratio - along @ along, 1e-3 * ratio
            )
        )
        column = -_times_transpose(along[None], state.inverse, at)[0] / last
        column = column.at[at].set(1.0 / last)
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
            state.inverse.at[:, at].set(column),
            at + 1,
            state.ratio,
        )

    def mean(self, state, values):
        return values.reward

    def variance(self, state, values, ratio):
        return self.look(state, values, ratio)[0]

    def look(self, state, values, ratio):
        cross = self._cross(state, values.factors)
        along = _times(cross, state.inverse, state.count)
        rest = self._own(values.factors) - jnp.sum(along**2, axis=1)
        return jnp.maximum(rest, 0.0) / jnp.maximum(ratio, state.ratio), along

    def cross(self, state, values, ratio):
        _, along = self.look(state, values, ratio)
        own = sum(
            same_block(f) * (f.delta @ f.delta.T) * (f.inputs @ f.inputs.T)
            for f in values.factors
        )
        return (own - along @ along.T) / jnp.maximum(ratio, state.ratio)

    def log_determinant(self, state, ratio):
        ratio = jnp.maximum(ratio, state.ratio)
        # det(K + lambda I) from the diagonal of the inverse Cholesky factor
        diagonal = jnp.diagonal(state.inverse)
        live = jnp.arange(diagonal.shape[0], dtype=jnp.int32) < state.count
        logs = jnp.log(jnp.where(live, diagonal, 1.0))
        return -2.0 * jnp.sum(logs) - state.count.astype(logs.dtype) * jnp.log(ratio)

    def grown(self, state, rounds):
        rounds = _room(rounds)

        def padded(buffer, axes=1):
            more = rounds - buffer.shape[0]
            width = [(0, more)] * axes + [(0, 0)] * (buffer.ndim - axes)
            return jnp.pad(buffer, width)

        return FunctionState(
            tuple(padded(b) for b in state.delta),
            tuple(padded(b) for b in state.inputs),
            tuple(padded(b) for b in state.block),
            padded(state.inverse, 2),
            state.count,
            state.ratio,
        )

    def eigenvalues(self, state):
        every = [
            Factor(d, i, b)
            for d, i, b in zip(state.delta, state.inputs, state.block, strict=True)
        ]
        return jnp.maximum(jnp.linalg.eigvalsh(self._cross(state, every)), 0.0)

    def misfit(self, state, rss, penalty, ratio):
        return rss + ratio * penalty


def _room(rounds: int) -> int:
    return -(-rounds // BLOCK) * BLOCK


def _times(rows: Array, upper: Array, count: Array) -> Array:
    """`rows @ upper`, (n, T), of the leading `count` columns of an upper triangle."""
    return _by_blocks(rows, upper, count, transposed=False)


def _times_transpose(rows: Array, upper: Array, count: Array) -> Array:
    """`rows @ upper.T`, (n, T), of the leading `count` columns of an upper triangle."""
    return _by_blocks(rows, upper, count, transposed=True)


def _by_blocks(rows: Array, upper: Array, count: Array, *, transposed: bool) -> Array:
    # reads count^2 / 2 numbers where the plain product reads T^2
    used = -(-count // BLOCK)
    zero = jnp.zeros((rows.shape[0], BLOCK), rows.dtype)

    def at(i):
        return (i * BLOCK).astype(jnp.int32)

    def outer(i, out):
        def inner(j, total):
            corner = (at(i), at(j)) if transposed else (at(j), at(i))
            block = jax.lax.dynamic_slice(upper, corner, (BLOCK, BLOCK))
            part = jax.lax.dynamic_slice_in_dim(rows, at(j), BLOCK, axis=1)
            return total + part @ (block.T if transposed else block)

        first, last = (i, used) if transposed else (0, i + 1)
        total = jax.lax.fori_loop(first, last, inner, zero)
        return jax.lax.dynamic_update_slice_in_dim(out, total, at(i), axis=1)

    return jax.lax.fori_loop(0, used, outer, jnp.zeros_like(rows))
