"""Kronecker-factored curvature: one block a leaf, A (x) B for a matrix.

For a weight matrix met once by each example, G = sum_n (g g^T) (x) (a a^T) is
approximated by  (sum_n g g^T) (x) (1/N sum_n a a^T): exact for one datum, and for deep
linear networks with a Gaussian likelihood. Positions at which a layer is shared are
treated as data of their own (KFAC-expand). Biases and other small leaves keep their
exact block; a large leaf that meets data in no known site keeps its exact diagonal.

References: Martens and Grosse 2015 (arXiv 1503.05671); Eschenhagen et al. 2023
(arXiv 2311.00636).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ntkuq.linearize.curvature.base import (
    AbstractCovariance,
    AbstractCurvature,
    Slopes,
    spectral_log_det,
    spectral_slopes,
)
from ntkuq.linearize.curvature.whiten import whiten
from ntkuq.linearize.jacobian import Dense, Factors, Jacobian, Outer
from ntkuq.linearize.products import factor_chunk_size, rows
from ntkuq.linearize.sites import Site
from ntkuq.models import AbstractLikelihood


#: Leaves without a Kronecker form keep their exact block up to this size.
BLOCK_LIMIT = 2048


class Kronecker(eqx.Module):
    """U (x) V with eigenvalues: sum over (o, i) of left_o right_i, prior variance v."""

    left: Float[Array, " O"]
    left_vectors: Float[Array, "O O"]
    right: Float[Array, " I"]
    right_vectors: Float[Array, "I I"]
    variance: Float[Array, ""]
    output_first: bool = eqx.field(static=True)

    def eigenvalues(self) -> Float[Array, "O I"]:
        return self.left[:, None] * self.right[None, :]

    def rotate(self, leaf: Outer) -> tuple[Array, Array]:
        """a and g in the eigenbases."""
        return leaf.a @ self.right_vectors, leaf.g @ self.left_vectors

    def marginal(self, leaf: Outer, scale: Float[Array, "O I"]) -> Array:
        a, g = self.rotate(leaf)
        if a.shape[1] == 1:
            per_output = (a[:, 0] ** 2) @ scale.T
            return jnp.einsum("nco,ndo,no->ncd", g[:, :, 0], g[:, :, 0], per_output)
        j = jnp.einsum("nti,ncto->ncoi", a, g)
        return jnp.einsum("ncoi,ndoi,oi->ncd", j, j, scale)

    def joint(self, leaf: Outer, scale: Array) -> Array:
        a, g = self.rotate(leaf)
        j = jnp.einsum("nti,ncto->ncoi", a, g) * jnp.sqrt(scale)
        flat = j.reshape(j.shape[0] * j.shape[1], -1)
        return flat @ flat.T

    def apply(self, vector: Float[Array, " P"], scale: Array) -> Array:
        m = vector.reshape(scale.shape if self.output_first else scale.shape[::-1])
        m = m if self.output_first else m.T
        inner = self.left_vectors.T @ m @ self.right_vectors
        w = self.left_vectors @ (inner * scale) @ self.right_vectors.T
        return (w if self.output_first else w.T).reshape(-1)

    def sample(self, white: Float[Array, "S P"], scale: Array) -> Array:
        z = white.reshape(-1, *scale.shape) * jnp.sqrt(scale)
        w = self.left_vectors @ z @ self.right_vectors.T
        w = w if self.output_first else jnp.swapaxes(w, -1, -2)
        return w.reshape(white.shape)


class Block(eqx.Module):
    """An exact block, by its eigendecomposition."""

    values: Float[Array, " P"]
    vectors: Float[Array, "P P"]
    variance: Float[Array, ""]

    def eigenvalues(self) -> Float[Array, " P"]:
        return self.values

    def _rotated(self, leaf: Outer | Dense, scale: Array) -> Array:
        return (leaf.dense() @ self.vectors) * jnp.sqrt(scale)

    def marginal(self, leaf, scale):
        j = self._rotated(leaf, scale)
        return jnp.einsum("ncp,ndp->ncd", j, j)

    def joint(self, leaf, scale):
        j = self._rotated(leaf, scale)
        flat = j.reshape(-1, j.shape[-1])
        return flat @ flat.T

    def apply(self, vector, scale):
        return self.vectors @ (scale * (self.vectors.T @ vector))

    def sample(self, white, scale):
        return (white * jnp.sqrt(scale)) @ self.vectors.T


class Diag(eqx.Module):
    """An exact diagonal, in the leaf's layout."""

    values: Float[Array, " P"]
    variance: Float[Array, ""]

    def eigenvalues(self) -> Float[Array, " P"]:
        return self.values

    def marginal(self, leaf, scale):
        if isinstance(leaf, Outer) and leaf.a.shape[1] == 1:
            g, a = leaf.g[:, :, 0], leaf.a[:, 0]
            shape = (g.shape[-1], a.shape[-1])
            two = (
                scale.reshape(shape)
                if leaf.output_first
                else (scale.reshape(shape[::-1]).T)
            )
            return jnp.einsum("nco,ndo,no->ncd", g, g, a**2 @ two.T)
        j = leaf.dense()
        return jnp.einsum("ncp,ndp,p->ncd", j, j, scale)

    def joint(self, leaf, scale):
        j = leaf.dense() * jnp.sqrt(scale)
        flat = j.reshape(-1, j.shape[-1])
        return flat @ flat.T

    def apply(self, vector, scale):
        return scale * vector

    def sample(self, white, scale):
        return white * jnp.sqrt(scale)


class Blocks(AbstractCurvature):
    """A block-diagonal curvature, one block a leaf (KFAC, diagonal)."""

    blocks: tuple[Kronecker | Block | Diag, ...]
    spectrum: np.ndarray

    @property
    def cheap(self) -> bool:
        return True

    def log_det(self, log_t: float) -> float:
        return spectral_log_det(self.spectrum, log_t)

    def slopes(self, log_t: float) -> Slopes:
        return spectral_slopes(self.spectrum, log_t)

    def covariance(self, tau: float, t: float) -> BlocksCovariance:
        scales = []
        for block in self.blocks:
            values = jnp.clip(block.eigenvalues(), 0.0)
            prior = 1.0 / block.variance
            scales.append(1.0 / (tau * (prior + t * values)))
        return BlocksCovariance(self.blocks, scales)


class BlocksCovariance(AbstractCovariance):
    """Block-diagonal covariance: the eigenvalues of each block in `scales`."""

    blocks: tuple[Kronecker | Block | Diag, ...]
    scales: list[Array]

    def _parts(self, factors: Factors) -> Iterator[tuple]:
        return zip(self.blocks, factors.leaves, self.scales, strict=True)

    def marginal(self, factors):
        n, c = factors.outputs.shape
        total = jnp.zeros((n, c, c), factors.outputs.dtype)
        for block, leaf, scale in self._parts(factors):
            total = total + block.marginal(leaf, scale)
        return total

    def joint(self, factors):
        size = factors.outputs.size
        total = jnp.zeros((size, size), factors.outputs.dtype)
        for block, leaf, scale in self._parts(factors):
            total = total + block.joint(leaf, scale)
        return total

    def apply(self, vector):
        return [
            block.apply(v, scale)
            for block, v, scale in zip(self.blocks, vector, self.scales, strict=True)
        ]

    def sample(self, shape, *, key):
        keys = jax.random.split(key, len(self.blocks))
        parts = []
        for block, scale, k in zip(self.blocks, self.scales, keys, strict=True):
            white = jax.random.normal(k, (*shape, scale.size), scale.dtype)
            parts.append(block.sample(white.reshape(-1, scale.size), scale))
        return jnp.concatenate(parts, axis=-1)


class _Pair(NamedTuple):
    """Sums of g g^T (O, O) and of a a^T (I, I)."""

    gradients: Array
    inputs: Array


def _kronecker(leaf: Outer) -> _Pair:
    a, g = leaf.a, leaf.g
    flat_a, flat_g = a.reshape(-1, a.shape[-1]), g.reshape(-1, g.shape[-1])
    return _Pair(flat_g.T @ flat_g, flat_a.T @ flat_a)


def _block(leaf: Outer | Dense) -> Array:
    j = leaf.dense()
    flat = j.reshape(-1, j.shape[-1])
    return flat.T @ flat


def diagonal(leaf: Outer | Dense) -> Float[Array, " P"]:
    """The exact diagonal of sum_n J_n^T J_n for one leaf."""
    if isinstance(leaf, Outer) and leaf.a.shape[1] == 1:
        # sum_n,c (g_o a_i)^2 = (sum_c g_o^2)^T (a_i^2)
        g, a = jnp.sum(leaf.g[:, :, 0] ** 2, axis=1), leaf.a[:, 0] ** 2
        values = g.T @ a
        return (values if leaf.output_first else values.T).reshape(-1)
    return jnp.sum(leaf.dense() ** 2, axis=(0, 1))


def _form(leaf: Outer | Dense, size: int, *, kronecker: bool) -> str:
    if not kronecker:
        return "diagonal"
    if isinstance(leaf, Outer):
        return "kronecker"
    return "block" if size <= BLOCK_LIMIT else "diagonal"


@eqx.filter_jit
def _accumulate(jacobian, likelihood, x, kronecker: bool):
    factors = whiten(jacobian.factors(x), likelihood)
    out = []
    for leaf, array in zip(factors.leaves, jacobian.leaves, strict=True):
        form = _form(leaf, array.size, kronecker=kronecker)
        if isinstance(leaf, Outer) and form == "kronecker":
            out.append(_kronecker(leaf))
        elif form == "block":
            out.append(_block(leaf))
        else:
            out.append(diagonal(leaf))
    return out


def blocks(
    jacobian: Jacobian,
    likelihood: AbstractLikelihood,
    x: PyTree,
    variances: list[Array],
    outputs: int,
    *,
    kronecker: bool,
) -> Blocks:
    """One pass over x in chunks; only the factors stay in memory."""
    itemsize = variances[0].dtype.itemsize
    size = factor_chunk_size(jacobian, outputs, itemsize)
    total: Any = None
    for start in range(0, rows(x), size):
        part = jax.tree.map(lambda leaf, s=start: leaf[s : s + size], x)
        new = _accumulate(jacobian, likelihood, part, kronecker)
        total = new if total is None else jax.tree.map(jnp.add, total, new)
    made, spectrum = [], []
    for leaf, value, variance in zip(jacobian.subset, total, variances, strict=True):
        block = _decompose(value, variance, jacobian.site(leaf), rows(x))
        made.append(block)
        values = np.clip(np.asarray(block.eigenvalues(), np.float64), 0.0, None)
        spectrum.append(values.ravel() * float(variance))
    return Blocks(tuple(made), np.concatenate(spectrum))


def _decompose(
    value: Any, variance: Array, site: Site | None, data: int
) -> Kronecker | Block | Diag:
    """Eigendecompose a block in float64; keep it in the network's dtype."""
    dtype = variance.dtype

    def eigh(matrix: Array | np.ndarray) -> tuple[Array, Array]:
        values, vectors = np.linalg.eigh(np.asarray(matrix, np.float64))
        return jnp.asarray(values.clip(0), dtype), jnp.asarray(vectors, dtype)

    if site is not None and not isinstance(value, Array):
        right = np.asarray(value.inputs, np.float64) / (data * site.positions)
        return Kronecker(
            *eigh(value.gradients), *eigh(right), variance, site.output_first
        )
    if value.ndim == 2:
        return Block(*eigh(value), variance)
    return Diag(value, variance)
