"""Block-diagonal matrices: one block a parameter array."""

from __future__ import annotations

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ntkuq.linearize.operators.base import AbstractPSD


class BlockDiagonal(AbstractPSD):
    """M = diag(M₁, M₂, …), on vectors.

    Args:
        blocks: the blocks, each on vectors of its own length.

    >>> from ntkuq.linearize import Diagonal
    >>> matrix = BlockDiagonal([Diagonal(jnp.ones(2)), Diagonal(jnp.full(1, 3.0))])
    >>> matrix.mv(jnp.ones(3))
    Array([1., 1., 3.], dtype=float32)
    """

    blocks: tuple[AbstractPSD, ...] = eqx.field(converter=tuple)

    def __check_init__(self):
        shapes = [block.in_structure().shape for block in self.blocks]
        if not shapes or any(len(shape) != 1 for shape in shapes):
            raise ValueError(
                "BlockDiagonal: expected one block or more, each on vectors, got "
                f"blocks on arrays of shape {shapes}"
            )

    def mv(self, vector):
        return self._each([block.mv for block in self.blocks], vector)

    def as_matrix(self):
        return jax.scipy.linalg.block_diag(*[b.as_matrix() for b in self.blocks])

    def in_structure(self):
        dtype = self.blocks[0].in_structure().dtype
        return jax.ShapeDtypeStruct((sum(self._sizes),), dtype)

    def half(self, white):
        return self._each([block.half for block in self.blocks], white)

    def inverse(self):
        return BlockDiagonal([block.inverse() for block in self.blocks])

    def log_det(self):
        return functools.reduce(jnp.add, [block.log_det() for block in self.blocks])

    def damped(self, damping):
        return BlockDiagonal([block.damped(damping) for block in self.blocks])

    @property
    def _sizes(self) -> list[int]:
        return [block.in_size() for block in self.blocks]

    def _each(self, fns: list[Callable], vector: Array) -> Array:
        stops = [sum(self._sizes[: n + 1]) for n in range(len(self.blocks) - 1)]
        parts = jnp.split(vector, stops)
        return jnp.concatenate([fn(v) for fn, v in zip(fns, parts, strict=True)])
