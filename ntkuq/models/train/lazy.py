"""Optimizer states whose shapes only the first update knows."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree


class Unmade(eqx.Module):
    """A part of an optimizer's state that its first update makes.

    An optax transformation is initialized from the parameters alone. One whose state
    depends on the examples has this in its place; its first update then behaves as if
    it were zeros of the shapes that it returns.
    """


def made(state: PyTree, update: Callable[[PyTree], PyTree]) -> PyTree:
    """The state with zeros for what the first update would make.

    Args:
        state: as initialized.
        update: from a state to the next one; only its shapes are computed.

    >>> made(Unmade(), lambda _: jnp.ones(2))
    Array([0., 0.], dtype=float32)
    """

    def is_unmade(node: PyTree) -> bool:
        return isinstance(node, Unmade)

    if not any(map(is_unmade, jax.tree.leaves(state, is_leaf=is_unmade))):
        return state

    def fill(now: PyTree, after: PyTree) -> PyTree:
        if not is_unmade(now):
            return now
        return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), after)

    after = eqx.filter_eval_shape(update, state)
    return jax.tree.map(fill, state, after, is_leaf=is_unmade)
