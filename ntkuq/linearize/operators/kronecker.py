"""Kronecker products of two positive semi-definite matrices."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ntkuq.linearize.operators.base import AbstractPSD
from ntkuq.linearize.operators.eigh import Eigh, KroneckerEigh


def _as_eigh(value: Eigh | Array) -> Eigh:
    return value if isinstance(value, Eigh) else Eigh.of(value)


class Kronecker(AbstractPSD):
    r"""$M = A \otimes B$; on a matrix (m, n) raveled row by row, $W \mapsto A W B$.

    KFAC's block of a weight matrix (out, in), Equinox's layout: A of the output
    gradients, B of the inputs (Martens, Grosse 2015, arXiv 1503.05671).

    Args:
        left, right: A (m, m) and B (n, n), as `Eigh` or as arrays, which are decomposed
            in their own floating-point type.

    >>> matrix = Kronecker(jnp.diag(jnp.array([1.0, 2.0])), 3.0 * jnp.eye(1))
    >>> matrix.mv(jnp.ones(2))
    Array([3., 6.], dtype=float32)
    >>> type(matrix.damped(0.1)).__name__
    'KroneckerEigh'
    """

    left: Eigh = eqx.field(converter=_as_eigh)
    right: Eigh = eqx.field(converter=_as_eigh)

    def mv(self, vector):
        return _apply(self.left.mv, self.right.mv, vector, self._shape)

    def as_matrix(self):
        return jnp.kron(self.left.as_matrix(), self.right.as_matrix())

    def in_structure(self):
        size = self._shape[0] * self._shape[1]
        return jax.ShapeDtypeStruct((size,), self.left.values.dtype)

    def half(self, white):
        return _apply(self.left.half, self.right.half, white, self._shape)

    def inverse(self):
        return Kronecker(self.left.inverse(), self.right.inverse())

    def log_det(self):
        m, n = self._shape
        return n * self.left.log_det() + m * self.right.log_det()

    def damped(self, damping):
        return self.eigh().damped(damping)

    def eigh(self) -> KroneckerEigh:
        """The same matrix with its eigenvalues multiplied out, (m, n)."""
        values = jnp.outer(self.left.values, self.right.values)
        return KroneckerEigh(values, self.left.vectors, self.right.vectors)

    @property
    def _shape(self) -> tuple[int, int]:
        return self.left.values.size, self.right.values.size


def _apply(left, right, vector: Array, shape: tuple[int, int]) -> Array:
    rows = jax.vmap(right)(vector.reshape(shape))
    return jax.vmap(left, in_axes=1, out_axes=1)(rows).reshape(-1)
