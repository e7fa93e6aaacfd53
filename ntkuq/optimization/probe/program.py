"""Programs that are called with little overhead, so that small steps can be timed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree


class _Static:
    """What a program depends on besides arrays; its hash is computed once."""

    def __init__(self, rest: PyTree, structure: Any):
        leaves, shape = jax.tree.flatten(rest)
        self._value = (tuple(leaves), shape, structure)
        self._hash = hash(self._value)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, _Static) and self._value == other._value

    def arguments(self, leaves: list) -> PyTree:
        """The arguments with these arrays."""
        rest, shape, structure = self._value
        arrays = jax.tree.unflatten(structure, leaves)
        return eqx.combine(arrays, jax.tree.unflatten(shape, rest))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(function: Callable, static: _Static, leaves: list) -> PyTree:
    return function(*static.arguments(leaves))


def prepared(function: Callable[..., PyTree], *arguments: PyTree) -> Callable:
    """The call function(*arguments), compiled once for arguments of the same kind.

    The arguments are taken apart here and not in the call, which is what is timed.

    >>> import jax.numpy as jnp
    >>> prepared(jnp.add, jnp.ones(2), jnp.ones(2))()
    Array([2., 2.], dtype=float32)
    """
    arrays, rest = eqx.partition(arguments, _is_array)
    leaves, structure = jax.tree.flatten(arrays)
    static = _Static(rest, structure)
    return functools.partial(_run, function, static, leaves)


def _is_array(leaf: object) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)
