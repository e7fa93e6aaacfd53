"""A symmetric matrix of pairs in tiles: half of the work, and little memory beside it.

Sums of several products of whole rows would each make a matrix of all pairs and read it
again; those of a tile stay in the cache.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree


class Grid(NamedTuple):
    """Blocks of equal size that cover N rows; the last may overlap the one before."""

    number: int
    side: int
    size: int

    def start(self, block: Array) -> Array:
        """The first row of a block."""
        return jnp.minimum(block * self.side, self.size - self.side)

    def new(self, block: Array) -> Array:
        """Which rows no block before has, (side,)."""
        return self.start(block) + jnp.arange(self.side) >= block * self.side

    def take(self, tree: PyTree, block: Array) -> PyTree:
        """The rows of one block, of leaves of leading axis N."""
        start = self.start(block)
        return jax.tree.map(
            lambda a: jax.lax.dynamic_slice_in_dim(a, start, self.side), tree
        )


def grid(size: int, side: int) -> Grid:
    """Blocks of at most `side` rows.

    >>> grid(1000, 256)
    Grid(number=4, side=250, size=1000)
    """
    number = max(1, math.ceil(size / side))
    return Grid(number, math.ceil(size / number), size)


def symmetric_tiles(
    tile: Callable[[PyTree, PyTree], Array],
    rows: PyTree,
    side: int,
    *,
    written_out: int = 1,
) -> Array:
    """The array of all pairs of N rows, from the tiles on and below its diagonal.

    Args:
        tile: values of rows against rows, (n, *R, m, *R).
        rows: leaves of leading axis N.
        side: rows of a tile, at most.
        written_out: up to so many tiles a side are no loop but one after the other in
            the program: faster where rows are long, which a loop copies.

    Returns:
        (N, *R, N, *R), equal to its transpose (*R and N as one axis each).
    """
    blocks = grid(jax.tree.leaves(rows)[0].shape[0], side)
    like = jax.eval_shape(tile, rows, rows)
    half = like.ndim // 2
    turn = (*range(half, 2 * half), *range(half))
    if blocks.number == 1:
        return _mean_of_both(tile(rows, rows), turn)
    if blocks.number <= written_out:
        return _written_out(tile, rows, blocks, turn)

    def step(found: Array, pair: Array) -> tuple[Array, None]:
        i, j = pair[0], pair[1]
        value = tile(blocks.take(rows, i), blocks.take(rows, j))
        value = jax.lax.cond(
            i == j, lambda v: _mean_of_both(v, turn), lambda v: v, value
        )
        row, column = blocks.start(i), blocks.start(j)
        corner = [jnp.zeros_like(row)] * (2 * half)
        corner[0], corner[half] = column, row
        found = jax.lax.dynamic_update_slice(found, value.transpose(turn), corner)
        corner[0], corner[half] = row, column
        return jax.lax.dynamic_update_slice(found, value, corner), None

    # the tile of the last block with itself comes last: it writes again, symmetrically,
    # what the block may share with the one before
    pairs = jnp.asarray(np.stack(np.tril_indices(blocks.number), axis=1))
    found, _ = jax.lax.scan(step, jnp.zeros(like.shape, like.dtype), pairs)
    return found


def _written_out(
    tile: Callable[[PyTree, PyTree], Array],
    rows: PyTree,
    blocks: Grid,
    turn: tuple[int, ...],
) -> Array:
    ends = [blocks.size * n // blocks.number for n in range(blocks.number + 1)]
    parts = [
        jax.tree.map(lambda a, i=i, j=j: a[i:j], rows)
        for i, j in itertools.pairwise(ends)
    ]
    found: list[list[Array]] = []
    for i, one in enumerate(parts):
        below = [tile(one, two) for two in parts[:i]]
        found.append([*below, _mean_of_both(tile(one, one), turn)])
        for j, value in enumerate(below):
            found[j].append(value.transpose(turn))
    wide = [jnp.concatenate(row, axis=len(turn) // 2) for row in found]
    return jnp.concatenate(wide)


def _mean_of_both(value: Array, turn: tuple[int, ...]) -> Array:
    """Two triangles that differ by rounding become one."""
    return 0.5 * (value + value.transpose(turn))
