"""Low rank plus diagonal, by the Woodbury identity."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkuq.linearize.operators.base import AbstractPSD


class LowRankPlusDiagonal(AbstractPSD):
    r"""$M = \operatorname{diag}(d) + U \operatorname{diag}(s) U^\top$.

    With $D^{-1/2} U = Q R$ and $R \operatorname{diag}(s) R^\top = E
    \operatorname{diag}(t) E^\top$ it is $D^{1/2} (I + F \operatorname{diag}(t) F^\top)
    D^{1/2}$, F = QE orthonormal: root, inverse (Woodbury) and determinant are functions
    of t. The cost is O(n r²), no n × n matrix is formed.

    Args:
        factors: U, (n, r), r ≤ n; its columns need not be orthonormal.
        weights: s, (r,); may be negative as long as M is positive semi-definite.
        diagonal: d > 0, (n,).

    >>> ones = jnp.ones((3, 1))
    >>> matrix = LowRankPlusDiagonal(ones, jnp.array([1.0]), jnp.ones(3))
    >>> matrix.mv(jnp.ones(3)), matrix.log_det().round(4)
    (Array([4., 4., 4.], dtype=float32), Array(1.3863, dtype=float32))
    """

    factors: Float[Array, "n r"]
    weights: Float[Array, " r"]
    diagonal: Float[Array, " n"]

    def mv(self, vector):
        inner = self.weights * (self.factors.T @ vector)
        return self.diagonal * vector + self.factors @ inner

    def as_matrix(self):
        return jnp.diag(self.diagonal) + (self.factors * self.weights) @ self.factors.T

    def in_structure(self):
        return jax.ShapeDtypeStruct(self.diagonal.shape, self.diagonal.dtype)

    def half(self, white):
        basis, t = self._spectrum()
        # (I + F t Fᵀ)^(1/2) = I + F (sqrt(1 + t) - 1) Fᵀ, without cancellation
        gain = jnp.expm1(0.5 * jnp.log1p(t))
        return jnp.sqrt(self.diagonal) * (white + basis @ (gain * (basis.T @ white)))

    def inverse(self):
        basis, t = self._spectrum()
        factors = basis / jnp.sqrt(self.diagonal)[:, None]
        return LowRankPlusDiagonal(factors, -t / (1 + t), 1 / self.diagonal)

    def log_det(self):
        t = self._spectrum().values
        return jnp.sum(jnp.log(self.diagonal)) + jnp.sum(jnp.log1p(t))

    def damped(self, damping):
        diagonal = self.diagonal + jnp.asarray(damping, self.diagonal.dtype)
        return LowRankPlusDiagonal(self.factors, self.weights, diagonal)

    def _spectrum(self) -> _Spectrum:
        q, r = jnp.linalg.qr(self.factors / jnp.sqrt(self.diagonal)[:, None])
        values, vectors = jnp.linalg.eigh((r * self.weights) @ r.T)
        return _Spectrum(q @ vectors, values)


class _Spectrum(NamedTuple):
    """F, (n, r) with orthonormal columns, and t, (r,)."""

    basis: Array
    values: Array
