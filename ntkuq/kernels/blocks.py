"""Gram matrices in blocks: half of a symmetric one, and little memory beside it."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ntkuq.linearize.tiles import Grid, grid


#: A block of one input's rows against another's: (rows, rows) -> matrices, a pytree.
Tile = Callable[[PyTree, PyTree], PyTree]

#: Rows and columns of a block: a few intermediates of a block stay in the cache of a
#: processor core, or keep an accelerator busy (8 MiB each in float64).
SIDE, WIDE_SIDE = 256, 1024


def default_side() -> int:
    """Rows of a block on this machine."""
    return SIDE if jax.default_backend() == "cpu" else WIDE_SIDE


def symmetric_blocks(
    tile: Tile, rows: PyTree, diagonals: PyTree, side: int | None = None
) -> PyTree:
    """The matrix of all pairs of one set of inputs, from its upper blocks.

    Memory beside the result is that of one block, in the derivative too, which computes
    each block again.

    Args:
        tile: values of a block; may close over static things only.
        rows: what the tile needs of each input, leaves of leading axis N.
        diagonals: the diagonal (N,) of each matrix that the tile returns.
        side: rows of a block.

    Returns:
        (N, N) for each, exactly symmetric.
    """
    blocks = grid(_rows(rows), side or default_side())
    if blocks.number == 1:
        return jax.tree.map(_symmetrized, tile(rows, rows), diagonals)
    above = np.stack(np.triu_indices(blocks.number), axis=1)

    def one(pair: Array, rows: PyTree, diagonals: PyTree) -> PyTree:
        i, j = pair[0], pair[1]
        values = tile(blocks.take(rows, i), blocks.take(rows, j))
        # The last block on the diagonal comes last, and writes again what the block
        # before it, which it may overlap, shares with it.
        return jax.lax.cond(
            i == j,
            lambda values: jax.tree.map(
                _symmetrized, values, blocks.take(diagonals, i)
            ),
            lambda values: values,
            values,
        )

    @jax.custom_vjp
    def run(rows: PyTree, diagonals: PyTree) -> PyTree:
        def step(n: Array, found: PyTree) -> PyTree:
            pair = jnp.asarray(above)[n]
            values = one(pair, rows, diagonals)
            found = _put(found, values, blocks, blocks, pair)
            turned = jax.tree.map(jnp.transpose, values)
            return _put(found, turned, blocks, blocks, pair[::-1])

        return jax.lax.fori_loop(0, len(above), step, _empty(tile, rows, rows))

    def forward(rows, diagonals):
        return run(rows, diagonals), rows

    def backward(rows, bar):
        def step(rows_bar: PyTree, pair: Array) -> tuple[PyTree, None]:
            i, j = pair[0], pair[1]

            def weigh(bar: Array) -> Array:
                here = _cut(bar, blocks, blocks, pair)
                here = here + _cut(bar, blocks, blocks, pair[::-1]).T
                row = blocks.start(i) + jnp.arange(blocks.side)
                column = blocks.start(j) + jnp.arange(blocks.side)
                counted = blocks.new(i)[:, None] & blocks.new(j)[None, :]
                return jnp.where(
                    counted & (row[:, None] < column[None, :]), here, 0.0
                ).astype(bar.dtype)

            _, pull = jax.vjp(tile, blocks.take(rows, i), blocks.take(rows, j))
            one_bar, two_bar = pull(jax.tree.map(weigh, bar))
            rows_bar = _add(rows_bar, one_bar, blocks, i)
            return _add(rows_bar, two_bar, blocks, j), None

        zero = jax.tree.map(jnp.zeros_like, rows)
        rows_bar, _ = jax.lax.scan(step, zero, jnp.asarray(above))
        return rows_bar, jax.tree.map(jnp.diagonal, bar)

    run.defvjp(forward, backward)
    return run(rows, diagonals)


def rectangular_blocks(
    tile: Tile, one: PyTree, two: PyTree, side: int | None = None
) -> PyTree:
    """The matrices (N, M) of all pairs of two sets of inputs, block by block.

    Args:
        tile: values of a block; may close over static things only.
        one, two: what the tile needs of each input, leaves of leading axis N and M.
        side: rows of a block.
    """
    side = side or default_side()
    above, beside = grid(_rows(one), side), grid(_rows(two), side)
    if above.number == beside.number == 1:
        return tile(one, two)
    pairs = np.stack(
        [n.ravel() for n in np.indices((above.number, beside.number))], axis=1
    )

    @jax.custom_vjp
    def run(one: PyTree, two: PyTree) -> PyTree:
        def step(n: Array, found: PyTree) -> PyTree:
            pair = jnp.asarray(pairs)[n]
            values = tile(above.take(one, pair[0]), beside.take(two, pair[1]))
            return _put(found, values, above, beside, pair)

        return jax.lax.fori_loop(0, len(pairs), step, _empty(tile, one, two))

    def forward(one, two):
        return run(one, two), (one, two)

    def backward(saved, bar):
        one, two = saved

        def step(bars: tuple[PyTree, PyTree], pair: Array):
            i, j = pair[0], pair[1]

            def weigh(bar: Array) -> Array:
                counted = above.new(i)[:, None] & beside.new(j)[None, :]
                return jnp.where(counted, _cut(bar, above, beside, pair), 0.0).astype(
                    bar.dtype
                )

            _, pull = jax.vjp(tile, above.take(one, i), beside.take(two, j))
            one_bar, two_bar = pull(jax.tree.map(weigh, bar))
            return (
                _add(bars[0], one_bar, above, i),
                _add(bars[1], two_bar, beside, j),
            ), None

        zero = jax.tree.map(jnp.zeros_like, saved)
        return jax.lax.scan(step, zero, jnp.asarray(pairs))[0]

    run.defvjp(forward, backward)
    return run(one, two)


def _rows(tree: PyTree) -> int:
    return jax.tree.leaves(tree)[0].shape[0]


def _empty(tile: Tile, one: PyTree, two: PyTree) -> PyTree:
    like = jax.eval_shape(tile, one, two)
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), like)


def _add(tree: PyTree, part: PyTree, blocks: Grid, block: Array) -> PyTree:
    """Add to the rows of one block."""
    start = blocks.start(block)

    def add(a: Array, b: Array) -> Array:
        there = jax.lax.dynamic_slice_in_dim(a, start, blocks.side)
        return jax.lax.dynamic_update_slice_in_dim(a, there + b, start, 0)

    return jax.tree.map(add, tree, part)


def _cut(matrix: Array, rows: Grid, columns: Grid, pair: Array) -> Array:
    corner = rows.start(pair[0]), columns.start(pair[1])
    return jax.lax.dynamic_slice(matrix, corner, (rows.side, columns.side))


def _put(
    matrices: PyTree, values: PyTree, rows: Grid, columns: Grid, pair: Array
) -> PyTree:
    corner = rows.start(pair[0]), columns.start(pair[1])
    return jax.tree.map(
        lambda a, b: jax.lax.dynamic_update_slice(a, b, corner), matrices, values
    )


def _symmetrized(value: Array, diagonal: Array) -> Array:
    """A block on the diagonal, the entries below from above, and with its diagonal."""
    # lest XLA compute the block anew for its transpose, and round it otherwise
    value = jax.lax.optimization_barrier(value)
    row, column = jnp.indices(value.shape, sparse=True)
    value = jnp.where(row > column, value.T, value)
    return jnp.where(row == column, diagonal[:, None], value)
