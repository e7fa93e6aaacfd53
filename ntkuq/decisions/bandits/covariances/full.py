"""The full covariance of all weights as a matrix over weights."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkuq.decisions.bandits.covariances.base import (
    AbstractCovariance,
    by_block,
    each,
    resolved,
)


class FullState(NamedTuple):
    """Gradients' outer products at the last training, and the inverse with lambda.

    `blocks` has an empty array a layer, (blocks, 0): a number that is static. `ratio`
    is lambda, the larger one where rounding has raised it.
    """

    gram: Float[Array, "P P"]
    inverse: Float[Array, "P P"]
    blocks: tuple[Float[Array, "B 0"], ...]
    ratio: Float[Array, ""]


class Full(AbstractCovariance):
    r"""The full covariance of all weights, P x P, by rank-one updates.

    $Z^{-1} \leftarrow Z^{-1} - \frac{u u^\top}{1 + \phi^\top u}$ with
    $u = Z^{-1} \phi$; after a training, gradients of all rounds are taken anew. For
    networks of few weights; with more weights than rounds `FunctionSpace` is smaller.

    References: Sherman and Morrison 1950 (doi 10.1214/aoms/1177729893).
    """

    def init(self, shapes, rounds):
        size = sum(blocks * out * inputs for blocks, out, inputs in shapes)
        blocks = tuple(jnp.zeros((count, 0)) for count, _, _ in shapes)
        none = jnp.zeros((size, size))
        return FullState(none, none, blocks, jnp.zeros(()))

    def refit(self, state, seen, ratio):
        def step(gram, chunk):
            phi = _dense(chunk.values.factors, state)
            return gram + (phi * chunk.weight[:, None]).T @ phi

        gram = each(seen, jnp.zeros_like(state.gram), step)
        eye = jnp.eye(gram.shape[0], dtype=gram.dtype)
        ratio = resolved(gram, ratio)
        chol = jnp.linalg.cholesky(gram + ratio * eye)
        lower = jax.scipy.linalg.solve_triangular(chol, eye, lower=True)
        return FullState(gram, lower.T @ lower, state.blocks, ratio)

    def add(self, state, values, reward, ratio, known=None):
        phi = _dense(values.factors, state)[0]
        u = state.inverse @ phi
        down = jnp.outer(u, u) / (1.0 + phi @ u)
        return state._replace(inverse=state.inverse - down)

    def mean(self, state, values):
        return values.reward

    def variance(self, state, values, ratio):
        phi = _dense(values.factors, state)
        return jnp.sum((phi @ state.inverse) * phi, axis=1)

    def cross(self, state, values, ratio):
        phi = _dense(values.factors, state)
        return phi @ state.inverse @ phi.T

    def eigenvalues(self, state):
        return jnp.maximum(jnp.linalg.eigvalsh(state.gram), 0.0)

    def log_determinant(self, state, ratio):
        logs = jnp.linalg.slogdet(state.inverse)[1]
        return -logs - state.gram.shape[0] * jnp.log(jnp.maximum(ratio, state.ratio))

    def misfit(self, state, rss, penalty, ratio):
        return rss + ratio * penalty


def _dense(factors, state) -> Float[Array, "n P"]:
    """Gradients by all weights, layer after layer."""
    rows = []
    for f, kind in zip(factors, state.blocks, strict=True):
        one = by_block(f, kind.shape[0])
        each_block = jnp.einsum("nk,no,ni->nkoi", one, f.delta, f.inputs)
        rows.append(each_block.reshape(one.shape[0], -1))
    return jnp.concatenate(rows, axis=1)
