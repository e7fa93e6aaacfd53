"""Chunks of examples inside jit: memory stays bounded, one compilation."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ntkuq.linearize.chunks import rows


def map_rows(fn: Callable, data: PyTree, size: int) -> PyTree:
    """fn of a batch, for at most `size` rows of `data` at a time; results joined."""
    whole, rest = _split(data, size)
    parts = []
    if whole is not None:
        done = jax.lax.map(fn, whole)
        parts.append(jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), done))
    if rest is not None:
        parts.append(fn(rest))
    return jax.tree.map(lambda *a: jnp.concatenate(a), *parts)


def sum_rows(fn: Callable, data: PyTree, size: int) -> PyTree:
    """The sum of fn over batches of at most `size` rows of `data`."""
    whole, rest = _split(data, size)
    parts = []
    if whole is not None:
        first = jax.tree.map(lambda a: a[0], whole)
        zero = jax.tree.map(
            lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(fn, first)
        )

        def step(total: PyTree, batch: PyTree) -> tuple[PyTree, None]:
            return jax.tree.map(jnp.add, total, fn(batch)), None

        parts.append(jax.lax.scan(step, zero, whole)[0])
    if rest is not None:
        parts.append(fn(rest))
    return parts[0] if len(parts) == 1 else jax.tree.map(jnp.add, *parts)


def _split(data: PyTree, size: int) -> tuple[PyTree | None, PyTree | None]:
    """Chunks (number, size, …) and the rows left over; no loop over one chunk.

    XLA runs convolutions inside a loop on one thread of a CPU, so that a loop of
    length one would not be free.
    """
    total = rows(data)
    count = total // size if size < total else 0
    if count == 0:
        return None, data
    cut = count * size
    whole = jax.tree.map(lambda a: a[:cut].reshape(count, size, *a.shape[1:]), data)
    rest = jax.tree.map(lambda a: a[cut:], data) if cut < total else None
    return whole, rest
