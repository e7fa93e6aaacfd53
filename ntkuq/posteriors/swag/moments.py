"""SGD at a constant rate that collects the moments of the weights it goes through."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from ntkuq.models.train.jobs import AbstractRecord


class Moments(AbstractRecord):
    r"""Moments of the weights $\theta_1, \dots, \theta_n$ collected so far.

    $\bar\theta_i = \bar\theta_{i-1} + (\theta_i - \bar\theta_{i-1})/i$ and
    $S_i = S_{i-1} + \frac{i-1}{i} (\theta_i - \bar\theta_{i-1})^2$ (Welford 1962): sums
    of squares, so that no variance is negative, in float32 or wider.

    Args:
        seen: updates so far.
        collected: n.
        mean: theta-bar_n, like the parameters.
        squares: S_n, like the parameters: n times the variance.
        deviations: the last R of theta_i - theta-bar_i, by leaf (R, …), in no order.
    """

    seen: Int[Array, ""]
    collected: Int[Array, ""]
    mean: PyTree
    squares: PyTree
    deviations: PyTree

    @staticmethod
    def start(parameters: PyTree, rank: int) -> Moments:
        """Nothing collected yet.

        >>> Moments.start({"w": jnp.ones(3)}, rank=2).deviations["w"].shape
        (2, 3)
        """

        def zeros(leaf: Array, *leading: int) -> Array:
            wide = leaf.dtype if leaf.dtype.itemsize >= 4 else jnp.float32
            return jnp.zeros((*leading, *leaf.shape), wide)

        return Moments(
            jnp.zeros((), jnp.int32),
            jnp.zeros((), jnp.int32),
            jax.tree.map(zeros, parameters),
            jax.tree.map(zeros, parameters),
            jax.tree.map(lambda leaf: zeros(leaf, rank), parameters),
        )

    def note(self):
        return None

    def after(self, parameters: PyTree, every: Int[Array, ""]) -> Moments:
        """The moments after one more update, which is collected if it is its turn."""
        seen = self.seen + 1
        taken = seen % every == 0
        collected = self.collected + taken.astype(jnp.int32)

        def share(leaf: Array) -> Array:
            """1/i."""
            return 1.0 / jnp.maximum(collected, 1).astype(leaf.dtype)

        def mean(old: Array, theta: Array) -> Array:
            step = jnp.where(taken, share(old), jnp.zeros((), old.dtype))
            return old + step * (theta.astype(old.dtype) - old)

        def squares(total: Array, old: Array, theta: Array) -> Array:
            part = jnp.where(taken, 1.0 - share(old), jnp.zeros((), old.dtype))
            return total + part * (theta.astype(old.dtype) - old) ** 2

        def deviations(held: Array, new: Array, theta: Array) -> Array:
            rank = held.shape[0]
            if rank == 0:
                return held
            # one row too far is dropped: no branch, which would copy what is held
            row = jnp.where(taken, (collected - 1) % rank, rank)
            return held.at[row].set(theta.astype(held.dtype) - new, mode="drop")

        now = jax.tree.map(mean, self.mean, parameters)
        return Moments(
            seen,
            collected,
            now,
            jax.tree.map(squares, self.squares, self.mean, parameters),
            jax.tree.map(deviations, self.deviations, now, parameters),
        )


class Collecting(eqx.Module):
    r"""$\theta \leftarrow \theta - h g$, and the moments of every so many theta.

    Args:
        rate: h, ().
        every: updates between weights that are collected, ().
        rank: R, deviations that are kept.

    Its numbers are arrays, and `transformation` keeps them as such: other values do
    not compile anew.
    """

    rate: Float[Array, ""]
    every: Int[Array, ""]
    rank: int = eqx.field(static=True)

    def transformation(self) -> optax.GradientTransformation:
        """As an optax transformation, whose state is a `Moments`."""
        made: Any = self
        return optax.GradientTransformation(made.init, made.update)

    def init(self, parameters: PyTree) -> Moments:
        """The first state."""
        return Moments.start(parameters, self.rank)

    def update(
        self, gradient: PyTree, state: Moments, parameters: PyTree
    ) -> tuple[PyTree, Moments]:
        """What is added to the parameters, and the next state."""
        steps = jax.tree.map(lambda g: -self.rate.astype(g.dtype) * g, gradient)
        # rounded as the training does it
        new = optax.apply_updates(parameters, steps)
        return steps, state.after(new, self.every)
