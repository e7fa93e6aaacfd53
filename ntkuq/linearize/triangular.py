r"""Triangular factors in blocks: most of the work is matrix products.

XLA multiplies matrices on all cores; a substitution in LAPACK on the CPU is several
times slower, and a product of a triangle or of a matrix with itself does twice the work
that it needs. Blocks of halves, down to `BLOCK` rows, leave a small part to these.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkuq.linearize.multiply import exact_product


#: Rows of a block that is not halved any more; twice as many of one that is solved
#: with, which LAPACK does well (measured on two cores).
BLOCK = 512
#: With fewer right-hand sides a substitution reads the factor once, as a product would.
NARROW = 32


def solve_lower(lower: Float[Array, "N N"], rhs: Float[Array, "N M"]) -> Array:
    r"""$L^{-1} B$.

    $\begin{pmatrix} A & \\ C & D \end{pmatrix}^{-1} \begin{pmatrix} B_1 \\ B_2
    \end{pmatrix} = \begin{pmatrix} X_1 \\ D^{-1} (B_2 - C X_1) \end{pmatrix}$ with
    $X_1 = A^{-1} B_1$.

    >>> import jax.numpy as jnp
    >>> float(solve_lower(jnp.array([[2.0]]), jnp.array([[3.0]]))[0, 0])
    1.5
    """
    size = lower.shape[0]
    if size <= 2 * BLOCK or rhs.shape[1] < NARROW:
        return jax.scipy.linalg.solve_triangular(lower, rhs, lower=True)
    half = size // 2
    first = solve_lower(lower[:half, :half], rhs[:half])
    rest = rhs[half:] - exact_product(lower[half:, :half], first)
    return jnp.concatenate([first, solve_lower(lower[half:, half:], rest)])


def inverse_lower(lower: Float[Array, "N N"]) -> Float[Array, "N N"]:
    r"""$L^{-1}$, its upper triangle exact zeros.

    $\begin{pmatrix} A^{-1} & \\ -D^{-1} C A^{-1} & D^{-1} \end{pmatrix}$: a third of
    the operations of a solve with the identity.
    """
    size = lower.shape[0]
    if size <= BLOCK:
        eye = jnp.eye(size, dtype=lower.dtype)
        return jnp.tril(jax.scipy.linalg.solve_triangular(lower, eye, lower=True))
    half = size // 2
    first, last = inverse_lower(lower[:half, :half]), inverse_lower(lower[half:, half:])
    below = -exact_product(last, exact_product(lower[half:, :half], first))
    return jnp.block(
        [[first, jnp.zeros((half, size - half), lower.dtype)], [below, last]]
    )


def self_product(a: Float[Array, "K N"]) -> Float[Array, "N N"]:
    r"""$A^\top A$, exactly symmetric, by its upper blocks."""
    size = a.shape[1]
    if size <= BLOCK:
        return _mirrored(exact_product(a.T, a))
    half = size // 2
    left, right = a[:, :half], a[:, half:]
    return _symmetric(
        self_product(left), exact_product(left.T, right), self_product(right)
    )


def self_product_of_lower(w: Float[Array, "N N"]) -> Float[Array, "N N"]:
    r"""$W^\top W$ of a lower triangular W, without the products with its zeros."""
    size = w.shape[0]
    if size <= BLOCK:
        return _mirrored(exact_product(w.T, w))
    half = size // 2
    first, below, last = w[:half, :half], w[half:, :half], w[half:, half:]
    corner = self_product_of_lower(first) + self_product(below)
    return _symmetric(corner, exact_product(below.T, last), self_product_of_lower(last))


def _mirrored(a: Array) -> Array:
    """The lower triangle, and its mirror image: rounding may differ between them."""
    return jnp.tril(a) + jnp.tril(a, -1).T


def _symmetric(first: Array, beside: Array, last: Array) -> Array:
    return jnp.block([[first, beside], [beside.T, last]])
