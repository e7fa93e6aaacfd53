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
    ntkuq, which is fitted anew on the schedule.
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

    References: Zhang et al. 2021 (arXiv 2010.00827).
    """

    model: Any
    width: ArrayLike = 1.0

    def choose(self, mean, std, *, key):
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        return jnp.argmax(mean + jnp.asarray(self.width, mean.dtype) * std * noise)


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
        random = jax.random.randint(second, (), 0, mean.shape[0])
        explore = jax.random.uniform(first) < self.epsilon
        return jnp.where(explore, random, _largest(mean, third))


class Uniform(AbstractPolicy):
    """A random arm: the control that every other policy has to beat."""

    model: Any = None

    def choose(self, mean, std, *, key):
        return jax.random.randint(key, (), 0, mean.shape[0])


def _largest(score: Array, key: Array) -> Array:
    """The arm with the largest score, ties broken at random."""
    best = score >= jnp.max(score)
    return jnp.argmax(jnp.where(best, jax.random.uniform(key, score.shape), -1.0))
