"""A few examples of each task, kept for later."""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from ntkuq.continual.strategies.base import Seen
from ntkuq.models import forward


class AbstractSelection(eqx.Module):
    """Which examples of a task are kept."""

    #: How many a task.
    points: eqx.AbstractVar[int]

    @abc.abstractmethod
    def rows(self, seen: Seen, *, key: Array) -> Int[np.ndarray, " M"]:
        """Row numbers, `points` of them or all where there are fewer."""


class RandomPoints(AbstractSelection):
    """Examples drawn at random, of classes as many each as possible.

    Args:
        points: how many a task.

    Raises:
        ValueError: for fewer than 1.

    >>> RandomPoints(40).points
    40
    """

    points: int = 200

    def __check_init__(self):
        if self.points < 1:
            raise ValueError(f"RandomPoints: expected points >= 1, got {self.points}")

    def rows(self, seen, *, key):
        y = np.asarray(seen.data.y)
        order = np.asarray(jax.random.permutation(key, len(y)))
        if not np.issubdtype(y.dtype, np.integer) or y.ndim != 1:
            return np.sort(order[: self.points])
        return np.sort(order[_round_robin(y[order])[: self.points]])


class UncertainPoints(AbstractSelection):
    """The examples whose labels the trained network is least sure of.

    By the trace of the likelihood's Hessian, sum_c p_c (1 - p_c) for classes: the
    "memorable past". Of each class as many as possible.

    Args:
        points: how many a task.

    References: Pan et al. 2020 (arXiv 2004.14070).

    >>> UncertainPoints(40).points
    40
    """

    points: int = 200

    def __check_init__(self):
        if self.points < 1:
            raise ValueError(
                f"UncertainPoints: expected points >= 1, got {self.points}"
            )

    def rows(self, seen, *, key):
        del key
        spread = _spread(seen.bnn.model, seen.bnn.likelihood, seen.x, seen.y)
        order = np.argsort(-np.asarray(spread), kind="stable")
        y = np.asarray(seen.data.y)
        if not np.issubdtype(y.dtype, np.integer) or y.ndim != 1:
            return np.sort(order[: self.points])
        return np.sort(order[_round_robin(y[order])[: self.points]])


@eqx.filter_jit
def _spread(model: PyTree, likelihood: PyTree, x: PyTree, y: PyTree) -> Array:
    def one(a: PyTree, b: PyTree) -> Array:
        return jnp.sum(likelihood.hessian_sqrt(forward(model, a), b) ** 2)

    return jax.lax.map(lambda pair: one(*pair), (x, y), batch_size=1024)


def _round_robin(y: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """Places in the order first of each class, second of each class, …."""
    rank = np.zeros(len(y), np.int64)
    for label in np.unique(y):
        mine = np.flatnonzero(y == label)
        rank[mine] = np.arange(len(mine))
    return np.argsort(rank, kind="stable")


class Buffer(eqx.Module):
    """Kept examples of all tasks, in arrays with room for more.

    The room doubles when it is full, so that a further task seldom compiles anew.

    Args:
        x, y: scaled inputs and targets, (M, …), the first `count` of them valid.
        extra: whatever else is kept of each, such as the outputs it had.
        count: how many there are.
    """

    x: PyTree
    y: PyTree
    extra: PyTree
    count: Int[Array, ""]

    @staticmethod
    def like(x: PyTree, y: PyTree, extra: PyTree, room: int) -> Buffer:
        """An empty buffer for examples such as these."""
        x, y, extra = jax.tree.map(
            lambda a: jnp.zeros((room, *a.shape[1:]), a.dtype), (x, y, extra)
        )
        return Buffer(x, y, extra, jnp.asarray(0, jnp.int32))

    def plus(self, x: PyTree, y: PyTree, extra: PyTree) -> Buffer:
        """The buffer with further examples."""
        have = int(self.count)
        size = jax.tree.leaves(x)[0].shape[0]
        room = jax.tree.leaves(self.x)[0].shape[0]
        new = room
        while new < have + size:
            new *= 2

        def joined(old: Array, more: Array) -> Array:
            if new > room:
                pad = jnp.zeros((new - room, *old.shape[1:]), old.dtype)
                old = jnp.concatenate([old, pad])
            return old.at[have : have + size].set(more)

        x, y, extra = jax.tree.map(joined, (self.x, self.y, self.extra), (x, y, extra))
        return Buffer(x, y, extra, jnp.asarray(have + size, jnp.int32))

    def draw(self, size: int, *, key: Array) -> tuple[PyTree, PyTree, PyTree]:
        """A batch drawn with replacement; the first row while there is none."""
        rows = jax.random.randint(key, (size,), 0, jnp.maximum(self.count, 1))
        return jax.tree.map(lambda a: a[rows], (self.x, self.y, self.extra))

    @property
    def any(self) -> Array:
        """1 where there is an example, else 0."""
        return (self.count > 0).astype(jnp.int32)
