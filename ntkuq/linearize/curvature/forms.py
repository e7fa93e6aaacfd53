"""The blocks of a block-diagonal curvature, one a leaf, each with its eigenbasis.

Every block offers `values`, the eigenvalues of its part of G in the block's basis, and
what a covariance with eigenvalues `scale` in that basis does to the leaf's factor.
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkuq.linearize.jacobian import Dense, Factor, Outer, Readout, Rows


class Rotated(eqx.Module):
    """A matrix leaf: eigenvectors U of the output side and V of the input side.

    Args:
        values: eigenvalues (O, I): products of the sides' (KFAC), or the exact second
            moments along U (x) V (EKFAC).
        left: U, (O, O).
        right: V, (I, I); `None` for the unit vectors (an embedding's rows).
        output_first: does the leaf ravel to (out, in)?
    """

    values: Float[Array, "O I"]
    left: Float[Array, "O O"]
    right: Float[Array, "I I"] | None
    output_first: bool = eqx.field(static=True)

    def _into(self, a: Float[Array, "*b I"]) -> Float[Array, "*b I"]:
        return a if self.right is None else a @ self.right

    def turned(self, leaf: Factor) -> Outer | Rows | Dense:
        """The factor in the eigenbases: in the layout (O, I), or of rows (I, O)."""
        if isinstance(leaf, Readout):
            leaf = leaf.outer()
        if isinstance(leaf, Dense):
            raise TypeError(
                "expected a layer's factor, got a dense Jacobian: the factors are not "
                "those of the network that was fitted"
            )
        g = leaf.g @ self.left
        if isinstance(leaf, Outer):
            return Outer(self._into(leaf.a), g, True)
        rows = Rows(leaf.ids, g, leaf.size)
        return rows if self.right is None else _turned_rows(rows, self.right)

    def _jacobian(self, leaf: Factor) -> Float[Array, "N K O I"]:
        turned = self.turned(leaf)
        j, (out, into) = turned.dense(), self.values.shape
        if isinstance(turned, Rows):
            return jnp.swapaxes(j.reshape(*j.shape[:-1], into, out), -1, -2)
        return j.reshape(*j.shape[:-1], out, into)

    def marginal(self, leaf: Factor, scale: Float[Array, "O I"]) -> Array:
        if isinstance(leaf, Readout):
            each = self._into(leaf.a) ** 2 @ scale.T
            return (self.left * each[:, None, :]) @ self.left.T
        if isinstance(leaf, Rows) and self.right is None:
            return _row_marginal(Rows(leaf.ids, leaf.g @ self.left, leaf.size), scale.T)
        if isinstance(leaf, Outer) and leaf.once:
            a, g = self._into(leaf.a), leaf.g @ self.left
            each = a[:, 0] ** 2 @ scale.T
            return jnp.einsum("nko,nlo,no->nkl", g[:, :, 0], g[:, :, 0], each)
        j = self._jacobian(leaf)
        return jnp.einsum("nkoi,nloi,oi->nkl", j, j, scale)

    def variance(self, leaf: Factor, scale: Float[Array, "O I"]) -> Array:
        if isinstance(leaf, Readout):
            return (self._into(leaf.a) ** 2 @ scale.T) @ (self.left**2).T
        if isinstance(leaf, Rows) and self.right is None:
            return _row_variance(Rows(leaf.ids, leaf.g @ self.left, leaf.size), scale.T)
        if isinstance(leaf, Outer) and leaf.once:
            a, g = self._into(leaf.a), leaf.g @ self.left
            return jnp.einsum("nko,no->nk", g[:, :, 0] ** 2, a[:, 0] ** 2 @ scale.T)
        return jnp.einsum("nkoi,oi->nk", self._jacobian(leaf) ** 2, scale)

    def joint(self, leaf: Factor, scale: Array) -> Array:
        j = self._jacobian(leaf) * jnp.sqrt(scale)
        flat = j.reshape(j.shape[0] * j.shape[1], -1)
        return flat @ flat.T

    def _turn(self, m: Array) -> Array:
        """From the eigenbases to the leaf, (S, O, I) -> (S, P)."""
        w = self.left @ m
        w = w if self.right is None else w @ self.right.T
        w = w if self.output_first else jnp.swapaxes(w, -1, -2)
        return w.reshape(w.shape[0], -1)

    def apply(self, vector: Float[Array, " P"], scale: Array) -> Array:
        o, i = scale.shape
        m = vector.reshape((o, i) if self.output_first else (i, o))
        m = m if self.output_first else m.T
        inner = self._into(self.left.T @ m)
        return self._turn((inner * scale)[None])[0]

    def sample(self, white: Float[Array, "S P"], scale: Array) -> Array:
        return self._turn(white.reshape(-1, *scale.shape) * jnp.sqrt(scale))


def _turned_rows(rows: Rows, right: Float[Array, "V V"]) -> Outer | Dense:
    """Unit vectors times V, in the layout (O, I)."""
    _, outputs, positions, out = rows.g.shape
    # not more than the Jacobian itself takes, which is one of all positions
    if positions <= outputs * out:
        return Outer(right[rows.ids], rows.g, True)
    j = rows.dense()
    j = j.reshape(*j.shape[:-1], rows.size, out)
    turned = jnp.einsum("nkvo,vi->nkoi", j, right)
    return Dense(turned.reshape(*turned.shape[:2], -1))


def _row_marginal(leaf: Rows, scale: Float[Array, "V O"]) -> Float[Array, "N K K"]:
    """J diag(scale) J^T of each example: only equal rows have a product."""
    leaf = leaf.merged()
    return jnp.einsum("nkto,nlto,nto->nkl", leaf.g, leaf.g, scale[leaf.ids])


def _row_variance(leaf: Rows, scale: Float[Array, "V O"]) -> Float[Array, "N K"]:
    """The diagonal of `_row_marginal`."""
    leaf = leaf.merged()
    return jnp.einsum("nkto,nto->nk", leaf.g**2, scale[leaf.ids])


class Block(eqx.Module):
    """An exact block, by its eigendecomposition."""

    values: Float[Array, " P"]
    vectors: Float[Array, "P P"]

    def _rotated(self, leaf: Factor, scale: Array) -> Array:
        return (leaf.dense() @ self.vectors) * jnp.sqrt(scale)

    def marginal(self, leaf, scale):
        if isinstance(leaf, Readout) and leaf.a.shape[-1] == 1:
            # a bias: one matrix for all examples
            return leaf.a[:, :, None] ** 2 * ((self.vectors * scale) @ self.vectors.T)
        j = self._rotated(leaf, scale)
        return jnp.einsum("nkp,nlp->nkl", j, j)

    def variance(self, leaf, scale):
        if isinstance(leaf, Readout) and leaf.a.shape[-1] == 1:
            return (leaf.a**2 * scale) @ (self.vectors**2).T
        return jnp.sum(self._rotated(leaf, scale) ** 2, axis=-1)

    def joint(self, leaf, scale):
        j = self._rotated(leaf, scale)
        flat = j.reshape(-1, j.shape[-1])
        return flat @ flat.T

    def apply(self, vector, scale):
        return self.vectors @ (scale * (self.vectors.T @ vector))

    def sample(self, white, scale):
        return (white * jnp.sqrt(scale)) @ self.vectors.T


class Diag(eqx.Module):
    """A diagonal, in the leaf's layout."""

    values: Float[Array, " P"]

    def _matrix(self, leaf: Outer | Readout, scale: Array) -> Array:
        into = leaf.a.shape[-1]
        if leaf.output_first:
            return scale.reshape(-1, into)
        return scale.reshape(into, -1).T

    def marginal(self, leaf, scale):
        if isinstance(leaf, Readout):
            each = leaf.a**2 @ self._matrix(leaf, scale).T
            return each[:, :, None] * jnp.eye(leaf.outputs, dtype=each.dtype)
        if isinstance(leaf, Rows):
            return _row_marginal(leaf, scale.reshape(leaf.size, -1))
        if isinstance(leaf, Outer) and leaf.once:
            g, a = leaf.g[:, :, 0], leaf.a[:, 0]
            each = a**2 @ self._matrix(leaf, scale).T
            return jnp.einsum("nko,nlo,no->nkl", g, g, each)
        j = leaf.dense()
        return jnp.einsum("nkp,nlp,p->nkl", j, j, scale)

    def variance(self, leaf, scale):
        if isinstance(leaf, Readout):
            return leaf.a**2 @ self._matrix(leaf, scale).T
        if isinstance(leaf, Rows):
            return _row_variance(leaf, scale.reshape(leaf.size, -1))
        if isinstance(leaf, Outer) and leaf.once:
            each = leaf.a[:, 0] ** 2 @ self._matrix(leaf, scale).T
            return jnp.einsum("nko,no->nk", leaf.g[:, :, 0] ** 2, each)
        return leaf.dense() ** 2 @ scale

    def joint(self, leaf, scale):
        j = leaf.dense() * jnp.sqrt(scale)
        flat = j.reshape(-1, j.shape[-1])
        return flat @ flat.T

    def apply(self, vector, scale):
        return scale * vector

    def sample(self, white, scale):
        return white * jnp.sqrt(scale)
