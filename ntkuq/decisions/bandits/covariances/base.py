"""How much of the covariance of the weights is kept, and what it answers."""

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

    def reweighted(self, state: Any, seen: Seen, ratio: Array) -> Any:
        """The state right after `refit`, for another lambda."""
        return self.refit(state, seen, ratio)

    @abc.abstractmethod
    def add(
        self,
        state: Any,
        values: Values,
        reward: Array,
        ratio: Array,
        known: Array | None = None,
    ) -> Any:
        """The state with one more round; leading axis 1.

        Args:
            state: before.
            values, reward: of the round.
            ratio: lambda.
            known: what `look` found besides the variance of this round, if it looked.
        """

    def look(
        self, state: Any, values: Values, ratio: Array
    ) -> tuple[Float[Array, " K"], Array | None]:
        """The variances, and rows (K, …) that `add` can use again."""
        return self.variance(state, values, ratio), None

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
    def cross(self, state: Any, values: Values, ratio: Array) -> Float[Array, "K K"]:
        """The covariance of the arms' expected rewards at noise 1."""

    def log_determinant(self, state: Any, ratio: Array) -> Float[Array, ""]:
        r"""$\ln(\det Z / \det \lambda I)$ of this state."""
        return jnp.sum(jnp.log1p(self.eigenvalues(state) / ratio))

    def growth(
        self, state: Any, values: Values, variance: Array, ratio: Array
    ) -> Float[Array, ""]:
        """What `add` adds to the log-determinant; leading axis 1.

        ln(1 + variance) where `add` is the exact rank-one update.
        """
        return jnp.log1p(jnp.maximum(variance[0], 0.0))

    def grown(self, state: Any, rounds: int) -> Any:
        """The same state with room for more rounds."""
        return state

    @abc.abstractmethod
    def misfit(self, state: Any, rss: Array, penalty: Array, ratio: Array) -> Array:
        r"""$\mathrm{RSS} + \lambda \|\theta - \theta_0\|^2$ for each lambda, (G,)."""


def each(seen: Seen, state: Any, step: Callable[[Any, Chunk], Any]) -> Any:
    """The state after one step for each chunk."""
    return jax.lax.fori_loop(0, seen.chunks, lambda i, s: step(s, seen.at(i)), state)


def resolved(gram: Float[Array, "n n"], ratio: Array) -> Array:
    """Lambda, or what rounding leaves of it beside this matrix.

    A smaller one is lost in the rounding of the largest eigenvalue, which the trace
    bounds: the Cholesky factor would not be there.
    """
    return jnp.maximum(ratio, jnp.finfo(gram.dtype).eps * jnp.trace(gram))


def same_block(factor: Factor) -> Float[Array, "K K"]:
    """1 where two arms share a matrix of this layer, else 0."""
    return (factor.block[:, None] == factor.block[None]).astype(factor.delta.dtype)


def by_block(factor: Factor, blocks: int) -> Float[Array, "n B"]:
    """1 at the matrix that each row uses, else 0."""
    return jax.nn.one_hot(factor.block, blocks, dtype=factor.delta.dtype)
