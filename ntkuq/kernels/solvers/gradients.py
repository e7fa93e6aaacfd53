"""`ConjugateGradients`: linear systems by products with the matrix alone."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ntkuq.kernels.solvers.base import (
    AbstractSolution,
    AbstractSolver,
    Conditioned,
    Work,
    check_counts,
    log_normal,
    positive,
)
from ntkuq.kernels.solvers.lanczos import LogDeterminant, log_determinant
from ntkuq.kernels.solvers.preconditioners import (
    AbstractPreconditioner,
    PivotedCholesky,
    Whitening,
)
from ntkuq.kernels.solvers.system import BLOCK_BYTES, System


class Solved(NamedTuple):
    """A^-1 b for each column b, by conjugate gradients.

    residual: largest |W(b - A x)| / |W b| over the columns. steps: products with A.
    """

    x: Float[Array, "N C"]
    residual: Float[Array, ""]
    steps: Int[Array, ""]


def conjugate_gradients(
    system: System,
    whitening: Whitening,
    rhs: Float[Array, "N C"],
    *,
    tolerance: float,
    max_steps: int,
) -> Solved:
    """Preconditioned conjugate gradients from 0, each column with steps of its own.

    From 0 the value b^T x rises towards b^T A^-1 b, so a variance that subtracts it
    is never too small.

    Args:
        system: A.
        whitening: coordinates in which A is near I.
        rhs: right-hand sides b.
        tolerance: of the residual, relative to b, in these coordinates.
        max_steps: most products with A.
    """
    b = whitening(rhs)
    size = jnp.sum(b**2, axis=0)
    least = tolerance**2 * size

    def going(state: tuple) -> Array:
        _, _, _, rho, step, stuck = state
        return jnp.any((rho > least) & ~stuck) & (step < max_steps)

    def body(state: tuple) -> tuple:
        u, r, p, rho, step, stuck = state
        image = whitening.system_times(system, p)
        curvature = jnp.sum(p * image, axis=0)
        moves = (rho > least) & ~stuck & (curvature > 0.0)
        length = jnp.where(moves, rho / jnp.where(moves, curvature, 1.0), 0.0)
        u, r = u + length * p, r - length * image
        now = jnp.where(moves, jnp.sum(r**2, axis=0), rho)
        ratio = now / jnp.where(rho > 0.0, rho, 1.0)
        p = jnp.where(moves, r + ratio * p, p)
        stuck = stuck | ~(curvature > 0.0) & (rho > least)
        return u, r, p, now, step + 1, stuck

    none = jnp.zeros(b.shape[1], bool)
    start = (jnp.zeros_like(b), b, b, size, jnp.zeros((), jnp.int32), none)
    u, _, _, rho, steps, _ = jax.lax.while_loop(going, body, start)
    residual = jnp.sqrt(jnp.max(rho / jnp.where(size > 0.0, size, 1.0)))
    return Solved(whitening.transposed(u), residual, steps)


class Iterative(AbstractSolution):
    """A^-1 y; variances solve a system for each new input."""

    iterates: ClassVar[bool] = True

    alpha: Float[Array, "N C"]
    whitening: Whitening
    tolerance: float
    max_steps: int
    rows: None

    def marginals(self, system, new):
        cross, prior = system.cross(new), system.diagonal(new)
        explained = jnp.sum(cross.T * self._solve(system, cross.T), axis=0)
        return cross @ self.alpha, positive(prior - explained, prior)

    def joint(self, system, new):
        cross = system.cross(new)
        explained = cross @ self._solve(system, cross.T)
        covariance = system.prior(new) - 0.5 * (explained + explained.T)
        return cross @ self.alpha, covariance

    def _solve(self, system: System, rhs: Array) -> Array:
        return conjugate_gradients(
            system,
            self.whitening,
            rhs,
            tolerance=self.tolerance,
            max_steps=self.max_steps,
        ).x


class ConjugateGradients(AbstractSolver):
    r"""Preconditioned conjugate gradients: exact to a tolerance, without a factor.

    The matrix k(X, X) is held where it takes less than half of the free memory, else
    its rows are computed again for each product. The log-determinant in the evidence
    is an estimate (Lanczos quadrature); `diagnostics` has the standard error of the
    evidence. Predictive variances solve a system for each new input: use
    `ComputationAware` where there are many. Where the steps run out, means are not yet
    those of the posterior (`diagnostics["solver converged"]` is `False`) and variances
    are too large, never too small.

    Args:
        tolerance: of the residual, relative to the targets, in whitened coordinates.
        max_steps: most products with the matrix.
        preconditioner: `PivotedCholesky(rank)`, `Nystrom(rank)`, or `None` for the
            noise alone.
        probes: random vectors for the log-determinant, at least 2.
        quadrature_steps: products with the matrix for each of them.
        tune_points: hyper-parameters are fitted on at most so many data, drawn at
            random, exactly.

    References:
        Gardner et al., *GPyTorch: Blackbox matrix-matrix Gaussian process inference
        with GPU acceleration*, NeurIPS 2018.

    >>> ConjugateGradients().tolerance
    1e-08
    """

    way_out: ClassVar[str] = (
        "use SubsetOfData(points), fewer probes or a smaller rank, or fewer rows"
    )

    tolerance: float = 1e-8
    max_steps: int = 1000
    preconditioner: AbstractPreconditioner | None = PivotedCholesky()
    probes: int = 16
    quadrature_steps: int = 50
    tune_points: int = 2000

    def __check_init__(self):
        check_counts(
            self,
            max_steps=self.max_steps,
            quadrature_steps=self.quadrature_steps,
            tune_points=self.tune_points,
        )
        if not (0.0 < self.tolerance < 1.0 and self.probes >= 2):
            raise ValueError(
                "ConjugateGradients: expected 0 < tolerance < 1 and probes >= 2, got "
                f"{self.tolerance} and {self.probes}"
            )

    def condition(self, system, y, *, key):
        self.need_memory(system.size, y.shape[1])
        whitening_key, probes_key = jax.random.split(key)
        system = system.held()
        whitening = whiten(self.preconditioner, system, whitening_key)
        solved, quadratic = _solve(system, whitening, y, self.tolerance, self.max_steps)
        determinant = log_determinant_of(
            system, whitening, self.probes, self.quadrature_steps, probes_key
        )
        value, diagnostics = evidence(quadratic, determinant, *y.shape)
        residual = float(solved.residual)
        return Conditioned(
            Iterative(
                rows=None,
                alpha=solved.x,
                whitening=whitening,
                tolerance=self.tolerance,
                max_steps=self.max_steps,
            ),
            value,
            {
                **diagnostics,
                "solver converged": residual <= self.tolerance,
                "solver residual": residual,
                "solver steps": int(solved.steps),
            },
        )

    def most_tuned(self):
        return self.tune_points

    def work(self, size, outputs):
        # a guess at the steps: they depend on the spectrum
        products = 100.0 * outputs + self.probes * self.quadrature_steps
        return iterative_work(size, outputs, products, self)


def iterative_work(
    size: int, outputs: int, products: float, solver: Any, kept: float = 0.0
) -> Work:
    """What so many products need, with the matrix held or not."""
    rank = 0 if solver.preconditioner is None else solver.preconditioner.rank
    flops = 2.0 * products * size**2 + 200.0 * size**2 + 4.0 * size * rank**2
    numbers = size * (3.0 * rank + 8.0 * outputs + kept)
    numbers += size * solver.probes * (solver.quadrature_steps + 4.0)
    return Work(flops, 8.0 * numbers + 8.0 * BLOCK_BYTES)


@eqx.filter_jit
def whiten(
    preconditioner: AbstractPreconditioner | None, system: System, key: Array
) -> Whitening:
    """The coordinates of a preconditioner."""
    return Whitening.of(preconditioner, system, key)


@eqx.filter_jit
def _solve(system, whitening, y, tolerance: float, max_steps: int):
    solved = conjugate_gradients(
        system, whitening, y, tolerance=tolerance, max_steps=max_steps
    )
    return solved, jnp.sum(y * solved.x)


@eqx.filter_jit
def log_determinant_of(
    system: System, whitening: Whitening, probes: int, steps: int, key: Array
) -> LogDeterminant:
    """log |A| = log |P| + log |B|, the second by Lanczos quadrature."""
    value, se = log_determinant(
        lambda v: whitening.system_times(system, v),
        system.size,
        probes=probes,
        steps=steps,
        key=key,
    )
    return LogDeterminant(whitening.log_determinant + value, se)


def evidence(
    quadratic: Array, determinant: LogDeterminant, size: int, outputs: int
) -> tuple[float, dict[str, float]]:
    """The log evidence and, for the diagnostics, its standard error."""
    value = log_normal(quadratic, determinant.value, size, outputs)
    return float(value), {
        "evidence standard error": 0.5 * outputs * float(determinant.se)
    }
