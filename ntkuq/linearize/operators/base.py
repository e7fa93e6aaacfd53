"""Symmetric positive semi-definite matrices with a structure, as lineax operators."""

from __future__ import annotations

import abc

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, ArrayLike, Float


class AbstractPSD(lx.AbstractLinearOperator):
    """A positive semi-definite matrix M that knows its root, inverse and determinant.

    It acts on arrays of one shape (vectors, unless it says otherwise). `solve`, and
    with it `inverse_half`, needs M positive definite: damp it first where it is not.
    """

    @abc.abstractmethod
    def half(self, white: Array) -> Array:
        """S z with S Sᵀ = M; z has the shape that M acts on."""

    @abc.abstractmethod
    def inverse(self) -> AbstractPSD:
        """M⁻¹, in the same structure; not finite where M is singular."""

    @abc.abstractmethod
    def log_det(self) -> Float[Array, ""]:
        """log det M; -inf where M is singular."""

    @abc.abstractmethod
    def damped(self, damping: ArrayLike) -> AbstractPSD:
        """M + λI for λ ≥ 0."""

    def solve(self, vector: Array) -> Array:
        """M⁻¹ b."""
        return self.inverse().mv(vector)

    def inverse_half(self, white: Array) -> Array:
        """S z with S Sᵀ = M⁻¹."""
        return self.inverse().half(white)

    def sample(self, shape: tuple[int, ...] = (), *, key: Array) -> Array:
        """Draws from N(0, M), (*shape, …): exact, by `half`."""
        like = self.in_structure()
        white = jax.random.normal(key, (*shape, *like.shape), like.dtype)
        flat = jax.vmap(self.half)(white.reshape(-1, *like.shape))
        return flat.reshape(white.shape)

    def transpose(self) -> AbstractPSD:
        return self

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return self.in_structure()


class Diagonal(AbstractPSD):
    """diag(values), values ≥ 0; acts on arrays of the shape of `values`.

    Unlike `lineax.DiagonalLinearOperator` it counts as positive semi-definite, so that
    `operator + Diagonal(noise)` can be solved with `lineax.CG`.

    Args:
        values: the diagonal, of any shape.

    >>> prior = Diagonal(jnp.array([4.0, 1.0]))
    >>> prior.half(jnp.ones(2)), prior.solve(jnp.ones(2))
    (Array([2., 1.], dtype=float32), Array([0.25, 1.  ], dtype=float32))
    """

    values: Float[Array, "..."]

    def mv(self, vector):
        return self.values * vector

    def as_matrix(self):
        return jnp.diag(self.values.reshape(-1))

    def in_structure(self):
        return jax.ShapeDtypeStruct(self.values.shape, self.values.dtype)

    def half(self, white):
        return jnp.sqrt(self.values) * white

    def inverse(self):
        return Diagonal(1 / self.values)

    def log_det(self):
        return jnp.sum(jnp.log(self.values))

    def damped(self, damping):
        return Diagonal(self.values + jnp.asarray(damping, self.values.dtype))
