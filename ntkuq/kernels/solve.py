"""Cholesky factors of covariance matrices, with the jitter they needed."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkuq.linearize.triangular import inverse_lower, self_product_of_lower


#: Jitter, relative to the mean of the diagonal: 0, then FIRST times powers of ten.
FIRST, LAST = 1e-10, 1e-4
LADDER = (0.0, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4)


class NotPositiveDefinite(ValueError):
    """A matrix has no Cholesky factor, even with the largest jitter allowed."""


class Lower(NamedTuple):
    """A lower factor L with L L^T = K + jitter I.

    `jitter` is what was added to the diagonal, in the units of K; infinite where even
    the largest jitter failed (then `lower` holds NaN).
    """

    lower: Float[Array, "N N"]
    jitter: Float[Array, ""]


def cholesky(matrix: Float[Array, "N N"]) -> Lower:
    r"""Factor K + j I with the first j of a ladder that works.

    $j \in \bar k \{0, 10^{-10}, 10^{-9}, \ldots, 10^{-4}\}$ where $\bar k$ is the mean
    of the diagonal of K. May be called inside `jit`.

    Args:
        matrix: symmetric K.

    Returns:
        The factor and the jitter that was added.

    >>> import jax.numpy as jnp
    >>> float(cholesky(jnp.diag(jnp.array([4.0, 9.0]))).lower[1, 1])
    3.0
    """
    unit = jnp.mean(jnp.diagonal(matrix))
    at = jnp.arange(matrix.shape[0])

    def attempt(relative: Array) -> Lower:
        jitter = relative * unit
        shifted = matrix.at[at, at].add(jitter)
        lower = jnp.linalg.cholesky(shifted, symmetrize_input=False)
        return Lower(lower, jitter)

    def failed(state: tuple[Lower, Array]) -> Array:
        (lower, _), relative = state
        return ~jnp.isfinite(lower[-1, -1]) & (relative <= 1.1 * LAST)

    def climb(state: tuple[Lower, Array]) -> tuple[Lower, Array]:
        _, relative = state
        return attempt(relative), relative * 10.0

    def ladder(plain: Lower) -> Lower:
        first = jnp.asarray(FIRST, matrix.dtype)
        (lower, jitter), _ = jax.lax.while_loop(failed, climb, (plain, first))
        jitter = jnp.where(jnp.isfinite(lower[-1, -1]), jitter, jnp.inf)
        return Lower(lower, jitter)

    # the usual case, without the copies of a loop
    lower = jnp.linalg.cholesky(matrix, symmetrize_input=False)
    plain = Lower(lower, jnp.zeros((), matrix.dtype))
    works = jnp.isfinite(lower[-1, -1])
    return jax.lax.cond(works, lambda plain: plain, ladder, plain)


def check(jitter: Float[Array, "..."], what: str) -> float:
    """The largest jitter as a number.

    Args:
        jitter: what `cholesky` reports, of one or several factors.
        what: name of the matrix, for the message.

    Raises:
        NotPositiveDefinite: where a factorization failed.
    """
    largest = float(jnp.max(jitter))
    if not largest < float("inf"):
        raise NotPositiveDefinite(refusal(what))
    return largest


def refusal(what: str) -> str:
    """Why the matrix of this name was refused."""
    return (
        f"{what}: expected a positive definite matrix, but there is no Cholesky "
        f"factor even with {LAST:g} times its mean diagonal added; look for NaN or "
        "infinite inputs, or for inputs of wildly different scales"
    )


def solve(lower: Float[Array, "N N"], rhs: Float[Array, "N M"]) -> Array:
    """(L L^T)^-1 B."""
    return jax.scipy.linalg.cho_solve((lower, True), rhs)


def inverse(lower: Float[Array, "N N"]) -> Float[Array, "N N"]:
    """(L L^T)^-1, symmetric."""
    return self_product_of_lower(inverse_lower(lower))


def log_determinant(lower: Float[Array, "N N"]) -> Float[Array, ""]:
    """log |L L^T|."""
    return 2.0 * jnp.sum(jnp.log(jnp.diagonal(lower)))
