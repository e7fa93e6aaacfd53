"""`Inducing`: the variational sparse approximation, in closed form."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ntkuq.kernels.solve import check, cholesky, log_determinant
from ntkuq.kernels.solvers.base import (
    AbstractSolution,
    AbstractSolver,
    Conditioned,
    Work,
    check_counts,
    positive,
)
from ntkuq.kernels.solvers.preconditioners import pivoted_cholesky
from ntkuq.kernels.solvers.system import System
from ntkuq.linearize.triangular import self_product, solve_lower


class Sparse(AbstractSolution):
    r"""$L L^T = K_{uu}$ and $M M^T = I + L^{-1} K_{uf} D^{-1} K_{fu} L^{-T}$."""

    iterates: ClassVar[bool] = False

    lower: Float[Array, "P P"]
    inner: Float[Array, "P P"]
    alpha: Float[Array, "P C"]
    rows: Int[Array, " P"]

    def marginals(self, system, new):
        cross, prior = system.cross(new), system.diagonal(new)
        half, seen = self._halves(cross)
        variance = prior - jnp.sum(half**2, axis=0) + jnp.sum(seen**2, axis=0)
        return cross @ self.alpha, positive(variance, prior)

    def joint(self, system, new):
        cross = system.cross(new)
        half, seen = self._halves(cross)
        covariance = system.prior(new) - self_product(half) + self_product(seen)
        return cross @ self.alpha, covariance

    def _halves(self, cross: Array) -> tuple[Array, Array]:
        half = solve_lower(self.lower, cross.T)
        return half, solve_lower(self.inner, half)


class Inducing(AbstractSolver):
    r"""All data through the values of the function at some of their inputs.

    The variational posterior of Titsias with inducing inputs Z, and its lower bound of
    the log evidence in the place of the evidence:
    $\log N(y; 0, Q + D) - \frac12 \mathrm{tr}\,D^{-1}(K - Q)$,
    $Q = K_{fu} K_{uu}^{-1} K_{uf}$. A baseline; N P^2 operations for P points. Z are
    the inputs of largest remaining variance, one after the other (the pivots of
    `PivotedCholesky`).

    Args:
        points: number of inducing inputs P.
        tune_points: hyper-parameters are fitted on at most so many data, drawn at
            random, exactly.

    References:
        Titsias, *Variational learning of inducing variables in sparse Gaussian
        processes*, AISTATS 2009; Burt, Rasmussen and van der Wilk, *Convergence of
        sparse variational inference in Gaussian processes regression*, JMLR 2020.

    >>> Inducing(points=50).points
    50
    """

    way_out: ClassVar[str] = "use fewer points, or fewer rows"

    points: int = 500
    tune_points: int = 2000

    def __check_init__(self):
        check_counts(self, points=self.points, tune_points=self.tune_points)

    def condition(self, system, y, *, key):
        del key
        self.need_memory(system.size, y.shape[1])
        solution, value, jitter = _sparse(system, y, self.points)
        return Conditioned(
            solution,
            float(value),
            {
                "jitter": check(jitter, "Inducing: the covariance of the points"),
                "points": solution.rows.shape[0],
                "evidence": "a lower bound",
            },
        )

    def most_tuned(self):
        return self.tune_points

    def work(self, size, outputs):
        points = min(self.points, size)
        flops = 4.0 * size * points**2 + 200.0 * size * points
        return Work(flops, 8.0 * size * (5.0 * points + 4.0 * outputs))


@eqx.filter_jit
def _sparse(system: System, y: Array, points: int) -> tuple[Sparse, Array, Array]:
    (size, outputs), noise = y.shape, system.noise
    _, rows = pivoted_cholesky(system, points)
    z, gram = system.x[rows], system.covariance.gram
    lower, jitter = cholesky(gram(system.params, z))
    half = solve_lower(lower, gram(system.params, z, system.x))
    explained = jnp.sum(half**2, axis=0)
    scaled = half / jnp.sqrt(noise)
    at = jnp.arange(rows.shape[0])
    inner, more = cholesky((scaled @ scaled.T).at[at, at].add(1.0))
    seen = solve_lower(inner, scaled @ (y / jnp.sqrt(noise)[:, None]))
    left = jnp.maximum(system.diagonal(system.x) - explained, 0.0)
    determinant = log_determinant(inner) + jnp.sum(jnp.log(noise))
    value = -0.5 * (
        outputs * (size * jnp.log(2.0 * jnp.pi) + determinant + jnp.sum(left / noise))
        + jnp.sum(y**2 / noise[:, None])
        - jnp.sum(seen**2)
    )
    alpha = _back(lower, _back(inner, seen))
    found = Sparse(rows=rows, lower=lower, inner=inner, alpha=alpha)
    return found, value, jnp.maximum(jitter, more)


def _back(lower: Array, rhs: Array) -> Array:
    """L^-T B."""
    return jax.scipy.linalg.solve_triangular(lower, rhs, lower=True, trans=1)
