"""`Cholesky`, the exact solver, and `SubsetOfData`, the same on fewer data."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ntkuq.kernels.solve import (
    LADDER,
    NotPositiveDefinite,
    log_determinant,
    refusal,
    solve,
)
from ntkuq.kernels.solvers.base import (
    WITHOUT_MATRIX,
    AbstractSolution,
    AbstractSolver,
    Conditioned,
    Work,
    check_counts,
    log_normal,
    positive,
)
from ntkuq.kernels.solvers.system import System
from ntkuq.linearize.triangular import self_product, solve_lower


class Exact(AbstractSolution):
    """L with L L^T = A (+ jitter), and A^-1 y."""

    iterates: ClassVar[bool] = False

    lower: Float[Array, "N N"]
    alpha: Float[Array, "N C"]
    jitter: Float[Array, ""]
    rows: Int[Array, " N"] | None

    def marginals(self, system, new):
        cross, prior = system.cross(new), system.diagonal(new)
        half = solve_lower(self.lower, cross.T)
        variance = prior - jnp.sum(half**2, axis=0)
        return cross @ self.alpha, positive(variance, prior)

    def joint(self, system, new):
        cross = system.cross(new)
        half = solve_lower(self.lower, cross.T)
        return cross @ self.alpha, system.prior(new) - self_product(half)


class Cholesky(AbstractSolver):
    r"""Exact: factor $A = k(X, X) + \sigma^2 I$, with jitter where it must.

    N^3 / 3 operations and three matrices N x N of memory.

    Args:
        tune_points: hyper-parameters are fitted on at most so many data, drawn at
            random; the posterior uses all.

    References:
        Rasmussen and Williams, *Gaussian Processes for Machine Learning*, 2006,
        algorithm 2.1.

    >>> Cholesky().tune_points
    2000
    """

    way_out: ClassVar[str] = WITHOUT_MATRIX

    tune_points: int = 2000

    def __check_init__(self):
        check_counts(self, tune_points=self.tune_points)

    def condition(self, system, y, *, key):
        del key
        self.need_memory(system.size, y.shape[1])
        return factored(system, y)

    def most_tuned(self):
        return self.tune_points

    def work(self, size, outputs):
        return _work(size, outputs)


class SubsetOfData(AbstractSolver):
    """Exact on some of the data, drawn at random; the others are not used.

    A baseline. The evidence is that of the subset, on which the hyper-parameters are
    fitted too.

    Args:
        points: how many data.

    >>> SubsetOfData(100).most_tuned()
    100
    """

    way_out: ClassVar[str] = "use fewer points"

    points: int = 2000

    def __check_init__(self):
        check_counts(self, points=self.points)

    def most_tuned(self):
        return self.points

    def condition(self, system, y, *, key):
        self.need_memory(system.size, y.shape[1])
        rows = draw(system.size, self.points, key)
        at = jnp.asarray(rows, jnp.int32)
        part = System(system.covariance, system.params, system.x[at], system.noise[at])
        solution, value, diagnostics = factored(part, y[at])
        solution = dataclasses.replace(solution, rows=at)
        return Conditioned(solution, value, {**diagnostics, "points": len(rows)})

    def work(self, size, outputs):
        return _work(min(size, self.points), outputs)


def draw(size: int, points: int, key: Array) -> Int[np.ndarray, " n"]:
    """Some of `size` positions, in order; all where there are no more.

    >>> draw(3, 5, jax.random.key(0))
    array([0, 1, 2])
    """
    if size <= points:
        return np.arange(size)
    return np.sort(np.asarray(jax.random.permutation(key, size))[:points])


def factored(system: System, y: Float[Array, "N C"]) -> Conditioned:
    """The exact solution, with the first jitter that works.

    The ladder is climbed outside of `jit`: inside, a loop would hold two matrices more.
    """
    for relative in LADDER:
        found, value = _factor(system, y, jnp.asarray(relative, y.dtype))
        if bool(jnp.isfinite(found.lower[-1, -1])):
            return Conditioned(found, float(value), {"jitter": float(found.jitter)})
    raise NotPositiveDefinite(refusal("GP covariance"))


@eqx.filter_jit
def _factor(system: System, y: Array, relative: Array) -> tuple[Exact, Array]:
    matrix = system.gram()
    jitter = relative * jnp.mean(jnp.diagonal(matrix) + system.noise)
    at = jnp.arange(system.size)
    matrix = matrix.at[at, at].add(system.noise + jitter)
    lower = jnp.linalg.cholesky(matrix, symmetrize_input=False)
    return _solved(lower, y, jitter)


def _solved(lower: Array, y: Array, jitter: Array) -> tuple[Exact, Array]:
    alpha = solve(lower, y)
    value = log_normal(jnp.sum(y * alpha), log_determinant(lower), *y.shape)
    return Exact(rows=None, lower=lower, alpha=alpha, jitter=jitter), value


def extended(old: Exact, system: System, y: Float[Array, "N C"]) -> Conditioned:
    r"""The exact solution for more rows, from that of the first ones.

    With $A = \begin{pmatrix} A_1 & B^T \\ B & A_2\end{pmatrix}$ and
    $A_1 = L_1 L_1^T$ the new rows of the factor are $B L_1^{-T}$ and the factor of
    $A_2 - B A_1^{-1} B^T$. Where that is not positive definite with the jitter of the
    old factor, all is factored anew.

    Args:
        old: of the first rows of `system`.
        system: old rows, then new ones.
        y: targets of all rows.
    """
    found, value = _extend(old, system, y)
    if not bool(jnp.isfinite(found.lower[-1, -1])):
        return factored(system, y)
    return Conditioned(found, float(value), {"jitter": float(found.jitter)})


@eqx.filter_jit
def _extend(old: Exact, system: System, y: Array) -> tuple[Exact, Array]:
    size = old.lower.shape[0]
    gram, params = system.covariance.gram, system.params
    first, new = system.x[:size], system.x[size:]
    half = solve_lower(old.lower, gram(params, first, new))
    own = gram(params, new) - self_product(half)
    at = jnp.arange(own.shape[0])
    own = own.at[at, at].add(system.noise[size:] + old.jitter)
    corner = jnp.linalg.cholesky(own, symmetrize_input=False)
    lower = jnp.block([[old.lower, jnp.zeros_like(half)], [half.T, corner]])
    return _solved(lower, y, old.jitter)


def _work(size: int, outputs: int) -> Work:
    # the factor, the kernel's own arithmetic, and solving for y
    flops = size**3 / 3 + 200.0 * size**2 + 2.0 * outputs * size**2
    return Work(flops, 8.0 * (3.0 * size**2 + 4.0 * outputs * size))
