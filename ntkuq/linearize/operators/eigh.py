"""Matrices by their eigendecomposition, dense or with Kronecker eigenvectors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkuq.linearize.operators.base import AbstractPSD


class Eigh(AbstractPSD):
    r"""$M = V \operatorname{diag}(\lambda) V^\top$ with orthonormal columns V.

    Args:
        values: eigenvalues λ ≥ 0, (n,).
        vectors: eigenvectors, one a column, (n, n).

    >>> matrix = Eigh.of(jnp.array([[2.0, 1.0], [1.0, 2.0]]))
    >>> matrix.values.round(4)
    Array([1., 3.], dtype=float32)
    >>> matrix.solve(jnp.array([3.0, 0.0])).round(4)
    Array([ 2., -1.], dtype=float32)
    """

    values: Float[Array, " n"]
    vectors: Float[Array, "n n"]

    @staticmethod
    def of(matrix: Float[Array, "n n"]) -> Eigh:
        """Decompose a positive semi-definite matrix, in its own floating-point type.

        Eigenvalues below zero, which it can have by rounding only, become zero.
        """
        values, vectors = jnp.linalg.eigh(matrix)
        return Eigh(jnp.maximum(values, 0), vectors)

    def mv(self, vector):
        return self.vectors @ (self.values * (self.vectors.T @ vector))

    def as_matrix(self):
        return (self.vectors * self.values) @ self.vectors.T

    def in_structure(self):
        return jax.ShapeDtypeStruct(self.values.shape, self.values.dtype)

    def half(self, white):
        return self.vectors @ (jnp.sqrt(self.values) * white)

    def inverse(self):
        return Eigh(1 / self.values, self.vectors)

    def log_det(self):
        return jnp.sum(jnp.log(self.values))

    def damped(self, damping):
        return Eigh(self.values + jnp.asarray(damping, self.values.dtype), self.vectors)


class KroneckerEigh(AbstractPSD):
    r"""$M = (U \otimes V) \operatorname{diag}(\lambda) (U \otimes V)^\top$.

    What a damped Kronecker product is, and KFAC with corrected eigenvalues (George et
    al. 2018, arXiv 1806.03884). Vectors are matrices (m, n) raveled row by row.

    Args:
        values: eigenvalues λ ≥ 0, (m, n).
        left, right: eigenvectors U (m, m) and V (n, n), one a column.

    >>> matrix = KroneckerEigh(jnp.array([[1.0, 2.0]]), jnp.eye(1), jnp.eye(2))
    >>> matrix.damped(1.0).mv(jnp.ones(2))
    Array([2., 3.], dtype=float32)
    """

    values: Float[Array, "m n"]
    left: Float[Array, "m m"]
    right: Float[Array, "n n"]

    def mv(self, vector):
        rotated = self.left.T @ vector.reshape(self.values.shape) @ self.right
        return self._back(self.values * rotated)

    def as_matrix(self):
        vectors = jnp.kron(self.left, self.right)
        return (vectors * self.values.reshape(-1)) @ vectors.T

    def in_structure(self):
        return jax.ShapeDtypeStruct((self.values.size,), self.values.dtype)

    def half(self, white):
        return self._back(jnp.sqrt(self.values) * white.reshape(self.values.shape))

    def inverse(self):
        return KroneckerEigh(1 / self.values, self.left, self.right)

    def log_det(self):
        return jnp.sum(jnp.log(self.values))

    def damped(self, damping):
        values = self.values + jnp.asarray(damping, self.values.dtype)
        return KroneckerEigh(values, self.left, self.right)

    def _back(self, rotated: Float[Array, "m n"]) -> Float[Array, " mn"]:
        return (self.left @ rotated @ self.right.T).reshape(-1)
