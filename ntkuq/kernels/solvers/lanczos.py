r"""What a few products with B say: its log-determinant, and a part of its inverse.

Every vector is orthogonalized against all earlier ones, twice: without that, Lanczos
vectors lose their orthogonality as soon as an eigenvalue has converged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkuq.kernels.solve import solve


#: (N, K) -> (N, K): products with a symmetric positive definite matrix.
Product = Callable[[Array], Array]


class LogDeterminant(NamedTuple):
    """An estimate and its standard error."""

    value: Float[Array, ""]
    se: Float[Array, ""]


def log_determinant(
    product: Product,
    size: int,
    *,
    probes: int,
    steps: int,
    key: Array,
) -> LogDeterminant:
    r"""$\log|B| = E\,z^T \log(B)\,z$ over random signs z, by Lanczos quadrature.

    $z^T \log(B)\,z \approx N \sum_j \omega_j^2 \log\theta_j$ with the eigenvalues
    $\theta_j$ of the tridiagonal matrix that Lanczos finds from z, and the first
    entries $\omega_j$ of its eigenvectors. The standard error has the spread over
    probes, and what the last quarter of the steps changed.

    Args:
        product: with B.
        size: N.
        probes: number of z.
        steps: products a probe.
        key: for z.

    References:
        Ubaru, Chen and Saad, *Fast estimation of tr(f(A)) via stochastic Lanczos
        quadrature*, SIAM Journal on Matrix Analysis and Applications 2017.
    """
    steps = min(steps, size)
    signs = jax.random.rademacher(key, (size, probes)).astype(jnp.float64)
    diagonal, off = _tridiagonal(product, signs / jnp.sqrt(1.0 * size), steps)
    each = size * _quadrature(diagonal, off)
    value = jnp.mean(each)
    se = jnp.std(each, ddof=1) / jnp.sqrt(1.0 * probes)
    fewer = max(1, (3 * steps) // 4)
    before = size * jnp.mean(_quadrature(diagonal[:fewer], off[:fewer]))
    return LogDeterminant(value, jnp.hypot(se, value - before))


def _tridiagonal(
    product: Product, start: Float[Array, "N M"], steps: int
) -> tuple[Float[Array, "K M"], Float[Array, "K M"]]:
    """Diagonals and off-diagonals from unit vectors; a probe that ends early gets 1."""

    def body(step: Array, state: tuple) -> tuple:
        vectors, diagonal, off = state
        v = vectors[step]
        w = product(v)
        alpha = jnp.sum(v * w, axis=0)
        scale = jnp.linalg.norm(w, axis=0)
        for _ in range(2):
            along = jnp.einsum("knm,nm->km", vectors, w)
            w = w - jnp.einsum("knm,km->nm", vectors, along)
        beta = jnp.linalg.norm(w, axis=0)
        lives = beta > 1e-10 * scale
        beta = jnp.where(lives, beta, 0.0)
        w = jnp.where(lives, w / jnp.where(lives, beta, 1.0), 0.0)
        # log 1 = 0: what is beyond the end adds nothing
        alpha = jnp.where(scale > 0.0, alpha, 1.0)
        return (
            vectors.at[step + 1].set(w, mode="drop"),
            diagonal.at[step].set(alpha),
            off.at[step].set(beta),
        )

    vectors = jnp.zeros((steps, *start.shape), start.dtype).at[0].set(start)
    empty = jnp.zeros((steps, start.shape[1]), start.dtype)
    _, diagonal, off = jax.lax.fori_loop(0, steps, body, (vectors, empty, empty))
    return diagonal, off


def _quadrature(diagonal: Array, off: Array) -> Float[Array, " M"]:
    """The first entry of log T of each tridiagonal matrix T."""

    def one(diagonal: Array, off: Array) -> Array:
        beside = jnp.diag(off[:-1], 1)
        values, vectors = jnp.linalg.eigh(jnp.diag(diagonal) + beside + beside.T)
        tiny = jnp.finfo(values.dtype).tiny
        return jnp.sum(vectors[0] ** 2 * jnp.log(jnp.maximum(values, tiny)))

    return jax.vmap(one, in_axes=1)(diagonal, off)


class Subspace(NamedTuple):
    """Orthonormal vectors Q and T = Q^T B Q; vectors that would repeat are 0."""

    vectors: Float[Array, "N K"]
    compressed: Float[Array, "K K"]


def krylov(
    product: Product,
    first: Float[Array, "N R"],
    start: Float[Array, "N C"],
    steps: int,
) -> Subspace:
    r"""The span of R vectors U, and of what conjugate gradients add for C columns.

    Those begin with U deflated: with $M = I - B U (U^T B U)^{-1} U^T$ they span
    $M b, (M B) M b, (M B)^2 M b, \ldots$, the residuals. (B in the place of M B would
    span a space that holds little of the solution.)

    Args:
        product: with B.
        first: U, orthonormal.
        start: the columns b; C <= N.
        steps: number of blocks of C.

    References:
        Saad, Yeung, Erhel and Guyomarc'h, *A deflated version of the conjugate gradient
        algorithm*, SIAM Journal on Scientific Computing 2000.
    """
    (size, width), rank = start.shape, first.shape[1]

    def fresh(block: Array, vectors: Array) -> Array:
        """An orthonormal basis of a block, orthogonal to the vectors before it."""
        for _ in range(2):
            block = block - vectors @ (vectors.T @ block)
        block, _ = jnp.linalg.qr(block)
        block = block - vectors @ (vectors.T @ block)
        # a column that rounding made, of the span of the others, loses its length here
        length = jnp.linalg.norm(block, axis=0)
        return jnp.where(length > 0.5, block / jnp.maximum(length, 0.5), 0.0)

    def body(step: Array, state: tuple) -> tuple:
        block, vectors, compressed = state
        at = (jnp.zeros_like(step), rank + step * width)
        vectors = jax.lax.dynamic_update_slice(vectors, block, at)
        image = product(block)
        compressed = jax.lax.dynamic_update_slice(compressed, vectors.T @ image, at)
        return fresh(deflated(image), vectors), vectors, compressed

    total = rank + steps * width
    vectors = jnp.zeros((size, total), start.dtype).at[:, :rank].set(first)
    compressed = jnp.zeros((total, total), start.dtype)
    seen = lower = first
    if rank:
        seen = product(first)
        core = first.T @ seen
        compressed = compressed.at[:rank, :rank].set(core)
        lower = jnp.linalg.cholesky(core, symmetrize_input=True)

    def deflated(block: Array) -> Array:
        """M block."""
        return block - seen @ solve(lower, first.T @ block) if rank else block

    block = fresh(deflated(start), vectors)
    _, vectors, upper = jax.lax.fori_loop(0, steps, body, (block, vectors, compressed))
    compressed = jnp.triu(upper) + jnp.triu(upper, 1).T
    none = jnp.sum(vectors**2, axis=0) < 0.5
    return Subspace(vectors, compressed + jnp.diag(none.astype(start.dtype)))
