"""Which arm to choose, given mean and standard deviation of each arm's reward."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int


class AbstractPolicy(eqx.Module):
    """A rule over a model of the rewards.

    The model is a `NeuralRewards`, whose loop is compiled whole, or any method of
    ntkuq, which is fitted anew on a schedule. An arm that is not offered has mean
    -inf, and no rule may choose it.
    """

    model: eqx.AbstractVar[Any]

    @abc.abstractmethod
    def choose(
        self, mean: Float[Array, " K"], std: Float[Array, " K"], *, key: Array
    ) -> Int[Array, ""]:
        """The arm."""


class UCB(AbstractPolicy):
    r"""The largest $m + w\,s$: optimism.

    Args:
        model: of the rewards; its coefficient is part of s.
        width: w.

    References: Zhou, Li, Gu 2020 (arXiv 1911.04462).

    >>> rule = UCB(None, width=2.0)
    >>> mean, std = jnp.array([0.0, 1.0]), jnp.array([1.0, 0.1])
    >>> rule.choose(mean, std, key=jax.random.key(0)).item()
    0
    """

    model: Any
    width: ArrayLike = 1.0

    def choose(self, mean, std, *, key):
        return _largest(mean + jnp.asarray(self.width, mean.dtype) * std, key)


class Thompson(AbstractPolicy):
    r"""The largest of independent draws $m + w\,s\,\epsilon$ (NeuralTS).

    `JointThompson` draws all arms together.

    References: Zhang et al. 2021 (arXiv 2010.00827).
    """

    model: Any
    width: ArrayLike = 1.0

    def choose(self, mean, std, *, key):
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        return jnp.argmax(mean + jnp.asarray(self.width, mean.dtype) * std * noise)


class JointThompson(AbstractPolicy):
    r"""The largest of one draw of the reward function, all arms together.

    Arms whose rewards are uncertain for the same reason move together, as in a draw of
    the weights. With `NeuralRewards` a function is drawn each round, from the
    covariance of the arms' rewards; with a method of ntkuq one is drawn after each fit,
    by `sample_functions` (pathwise) or from its joint covariance, and followed until
    the next.

    Args:
        model: of the rewards.
        width: factor w of the deviation from the mean.

    References: Thompson 1933 (doi 10.2307/2332286); Wilson et al. 2020 (arXiv
    2002.09309).
    """

    model: Any
    width: ArrayLike = 1.0

    def choose(self, mean, std, *, key):
        return Thompson(self.model, self.width).choose(mean, std, key=key)

    def choose_jointly(
        self, mean: Float[Array, " K"], cov: Float[Array, "K K"], *, key: Array
    ) -> Int[Array, ""]:
        """The arm, for arms with this covariance."""
        # eigenvectors: the matrix is singular where arms have the same gradient
        values, vectors = jnp.linalg.eigh(cov)
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        draw = vectors @ (jnp.sqrt(jnp.maximum(values, 0.0)) * noise)
        return jnp.argmax(mean + jnp.asarray(self.width, mean.dtype) * draw)


class Greedy(AbstractPolicy):
    """The largest mean."""

    model: Any

    def choose(self, mean, std, *, key):
        return _largest(mean, key)


class EpsilonGreedy(AbstractPolicy):
    """A random arm with probability epsilon, else the largest mean."""

    model: Any
    epsilon: ArrayLike = 0.05

    def choose(self, mean, std, *, key):
        first, second, third = jax.random.split(key, 3)
        random = _any(mean, second)
        explore = jax.random.uniform(first) < self.epsilon
        return jnp.where(explore, random, _largest(mean, third))


class Uniform(AbstractPolicy):
    """A random arm: the control that every other policy has to beat."""

    model: Any = None

    def choose(self, mean, std, *, key):
        return _any(mean, key)


def _any(mean: Array, key: Array) -> Array:
    """A random arm among those offered."""
    offered = jnp.isfinite(mean)
    return jnp.argmax(jnp.where(offered, jax.random.uniform(key, mean.shape), -1.0))


def _largest(score: Array, key: Array) -> Array:
    """The arm with the largest score, ties broken at random."""
    best = score >= jnp.max(score)
    return jnp.argmax(jnp.where(best, jax.random.uniform(key, score.shape), -1.0))
