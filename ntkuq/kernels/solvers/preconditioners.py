r"""Low-rank approximations of a kernel matrix, and the coordinates they whiten.

With $k(X, X) \approx F F^T$ the matrix $P = F F^T + D$ is near A. In the coordinates
$W$ with $W P W^T = I$ the matrix $B = W A W^T$ is near I, so that few products with it
say much about its inverse, $A^{-1} = W^T B^{-1} W$, and its determinant.
"""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ntkuq.kernels.solve import cholesky
from ntkuq.kernels.solvers.base import check_counts
from ntkuq.kernels.solvers.system import System
from ntkuq.linearize.triangular import solve_lower


class AbstractPreconditioner(eqx.Module):
    """How k(X, X) is approximated by a matrix of low rank."""

    rank: eqx.AbstractVar[int]

    @abc.abstractmethod
    def factor(self, system: System, *, key: Array) -> Float[Array, "N R"]:
        """F with k(X, X) near F F^T. May be called in `jit`."""


class PivotedCholesky(AbstractPreconditioner):
    """The first columns of a Cholesky factor, each at the largest variance left.

    Needs `rank` columns of the matrix.

    Args:
        rank: number of columns.

    References:
        Harbrecht, Peters and Schneider, *On the low-rank approximation by the pivoted
        Cholesky decomposition*, Applied Numerical Mathematics 2012; Gardner et al.,
        *GPyTorch*, NeurIPS 2018.

    >>> PivotedCholesky().rank
    100
    """

    rank: int = 100

    def __check_init__(self):
        check_counts(self, rank=self.rank)

    def factor(self, system, *, key):
        del key
        return pivoted_cholesky(system, self.rank)[0]


class Nystrom(AbstractPreconditioner):
    r"""Randomized Nyström: $Y (\Omega^T Y)^{-1} Y^T$, $Y = k(X, X)\,\Omega$.

    Needs one product of the matrix with `rank` vectors. Nearer to the best
    approximation of this rank than `PivotedCholesky`, and dearer where the matrix is
    not held.

    Args:
        rank: number of columns.

    References:
        Frangella, Tropp and Udell, *Randomized Nyström preconditioning*, SIAM Journal
        on Matrix Analysis and Applications 2023.

    >>> Nystrom(50)
    Nystrom(rank=50)
    """

    rank: int = 100

    def __check_init__(self):
        check_counts(self, rank=self.rank)

    def factor(self, system, *, key):
        shape = (system.size, min(self.rank, system.size))
        test, _ = jnp.linalg.qr(jax.random.normal(key, shape, system.noise.dtype))
        image = system.kernel_times(test)
        # so that the core is positive definite; a preconditioner need not be exact
        shift = jnp.finfo(image.dtype).eps * jnp.linalg.norm(image)
        image = image + shift * test
        core = test.T @ image
        lower, _ = cholesky(0.5 * (core + core.T))
        return solve_lower(lower, image.T).T


def pivoted_cholesky(
    system: System, rank: int
) -> tuple[Float[Array, "N R"], Int[Array, " R"]]:
    """The factor of `PivotedCholesky`, and the positions of its columns.

    Columns are 0 once no variance is left that rounding can tell.
    """
    rank = min(rank, system.size)
    diagonal = system.diagonal(system.x)
    least = jnp.finfo(diagonal.dtype).eps * jnp.max(diagonal)

    def body(step: Array, state: tuple) -> tuple:
        lower, left, pivots = state
        at = jnp.argmax(left).astype(jnp.int32)
        top = left[at]
        column = system.column(at) - lower @ lower[at]
        column = jnp.where(top > least, column / jnp.sqrt(jnp.maximum(top, least)), 0.0)
        left = jnp.maximum(left - column**2, 0.0).at[at].set(0.0)
        return lower.at[:, step].set(column), left, pivots.at[step].set(at)

    lower = jnp.zeros((system.size, rank), diagonal.dtype)
    pivots = jnp.zeros((rank,), jnp.int32)
    lower, _, pivots = jax.lax.fori_loop(0, rank, body, (lower, diagonal, pivots))
    return lower, pivots


#: Least entry of D in P, relative to the largest prior variance.
LEAST = 1e-10


class Whitening(eqx.Module):
    r"""$W = (I + G G^T)^{-1/2} D^{-1/2}$ with $G = D^{-1/2} F$, for $P = F F^T + D$.

    Args:
        scale: D^-1/2, (N,).
        vectors: left singular vectors of G, (N, R).
        values: squared singular values of G, (R,).
    """

    scale: Float[Array, " N"]
    vectors: Float[Array, "N R"]
    values: Float[Array, " R"]

    @staticmethod
    def of(
        preconditioner: AbstractPreconditioner | None, system: System, key: Array
    ) -> Whitening:
        """For a low-rank factor of the system, or D alone."""
        least = LEAST * jnp.max(system.diagonal(system.x))
        scale = 1.0 / jnp.sqrt(jnp.maximum(system.noise, least))
        if preconditioner is None:
            none = jnp.zeros((system.size, 0), scale.dtype)
            return Whitening(scale, none, none[0])
        factor = preconditioner.factor(system, key=key)
        basis, triangle = jnp.linalg.qr(scale[:, None] * factor)
        vectors, values, _ = jnp.linalg.svd(triangle)
        return Whitening(scale, basis @ vectors, values**2)

    def __call__(self, v: Float[Array, "N K"]) -> Float[Array, "N K"]:
        """W v."""
        return self._root(self.scale[:, None] * v)

    def transposed(self, v: Float[Array, "N K"]) -> Float[Array, "N K"]:
        """W^T v."""
        return self.scale[:, None] * self._root(v)

    def _root(self, v: Array) -> Array:
        shrink = 1.0 / jnp.sqrt(1.0 + self.values) - 1.0
        return v + self.vectors @ (shrink[:, None] * (self.vectors.T @ v))

    def system_times(self, system: System, v: Float[Array, "N K"]) -> Array:
        """B v = W A W^T v."""
        return self(system.times(self.transposed(v)))

    @property
    def log_determinant(self) -> Float[Array, ""]:
        """log |P| = -2 log |W|."""
        return jnp.sum(jnp.log1p(self.values)) - 2.0 * jnp.sum(jnp.log(self.scale))
