"""`ComputationAware`: a posterior whose variance includes that it was stopped early."""

from __future__ import annotations

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkuq.kernels.solve import check, cholesky
from ntkuq.kernels.solvers.base import (
    AbstractSolution,
    AbstractSolver,
    Conditioned,
    check_counts,
    positive,
)
from ntkuq.kernels.solvers.gradients import (
    evidence,
    iterative_work,
    log_determinant_of,
    whiten,
)
from ntkuq.kernels.solvers.lanczos import krylov
from ntkuq.kernels.solvers.preconditioners import (
    AbstractPreconditioner,
    PivotedCholesky,
)
from ntkuq.linearize.triangular import solve_lower


class Aware(AbstractSolution):
    """C = H H^T in the place of A^-1, and C y."""

    iterates: ClassVar[bool] = False

    half: Float[Array, "N K"]
    alpha: Float[Array, "N C"]
    rows: None

    def marginals(self, system, new):
        cross, prior = system.cross(new), system.diagonal(new)
        variance = prior - jnp.sum((cross @ self.half) ** 2, axis=1)
        return cross @ self.alpha, positive(variance, prior)

    def joint(self, system, new):
        cross = system.cross(new)
        half = cross @ self.half
        return cross @ self.alpha, system.prior(new) - half @ half.T


class ComputationAware(AbstractSolver):
    r"""Condition on a few combinations $S^T y$ of the data, and on nothing else.

    $C = S (S^T A S)^{-1} S^T$ takes the place of $A^{-1}$: mean $k_*^T C y$, variance
    $k_{**} - k_*^T C k_*$, the exact posterior given $S^T y$. The variance is never
    below that given all data; what is above it is the uncertainty that more
    computation would remove. The columns of S are those of the preconditioner, which
    bring the variance down where the kernel is large, then the residuals of
    preconditioned conjugate gradients, which bring the mean to y; all are
    orthogonalized in full.

    Predictions need no products with the matrix. The evidence is that of all data: its
    quadratic term is that of the steps made, which makes it too high by at most
    $\frac12 |W r|^2$ (r the residual, $W A W^T \succeq I$); its log-determinant is an
    estimate. `diagnostics` has both, the bound and the standard error.

    Args:
        steps: products with the matrix after the first; each adds one combination for
            each output. No more than there are data are made.
        preconditioner: `PivotedCholesky(rank)`, `Nystrom(rank)`, or `None` for the
            noise alone.
        probes: random vectors for the log-determinant, at least 2.
        quadrature_steps: products with the matrix for each of them.
        tune_points: hyper-parameters are fitted on at most so many data, drawn at
            random, exactly.

    References:
        Wenger, Pleiss, Pförtner, Hennig and Cunningham, *Posterior and computational
        uncertainty in Gaussian processes*, NeurIPS 2022.

    >>> ComputationAware(steps=64).steps
    64
    """

    way_out: ClassVar[str] = (
        "use fewer steps, fewer probes or a smaller rank, SubsetOfData(points), or "
        "fewer rows"
    )

    steps: int = 256
    preconditioner: AbstractPreconditioner | None = PivotedCholesky()
    probes: int = 16
    quadrature_steps: int = 50
    tune_points: int = 2000

    def __check_init__(self):
        check_counts(
            self,
            steps=self.steps,
            quadrature_steps=self.quadrature_steps,
            tune_points=self.tune_points,
        )
        if self.probes < 2:
            raise ValueError(
                f"ComputationAware: expected probes >= 2, got {self.probes}"
            )

    def condition(self, system, y, *, key):
        self.need_memory(system.size, y.shape[1])
        whitening_key, probes_key = jax.random.split(key)
        system = system.held()
        whitening = whiten(self.preconditioner, system, whitening_key)
        left = system.size - whitening.values.shape[0]
        steps = min(self.steps, math.ceil(left / y.shape[1]))
        found, quadratic, misfit, residual, jitter = _actions(
            system, whitening, y, steps
        )
        check(jitter, "ComputationAware: the compressed covariance")
        determinant = log_determinant_of(
            system, whitening, self.probes, self.quadrature_steps, probes_key
        )
        value, diagnostics = evidence(quadratic, determinant, *y.shape)
        return Conditioned(
            found,
            value,
            {
                **diagnostics,
                "evidence too high by at most": 0.5 * float(misfit),
                "solver steps": steps,
                "solver residual": float(residual),
                "actions": found.half.shape[1],
            },
        )

    def most_tuned(self):
        return self.tune_points

    def work(self, size, outputs):
        rank = 0 if self.preconditioner is None else self.preconditioner.rank
        actions = min(rank + self.steps * outputs, size)
        products = float(actions + self.probes * self.quadrature_steps)
        work = iterative_work(size, outputs, products, self, kept=4.0 * actions)
        return work._replace(flops=work.flops + 8.0 * size * actions**2)


@eqx.filter_jit
def _actions(system, whitening, y, steps: int):
    start = whitening(y)[:, : min(y.shape)]
    space = krylov(
        lambda v: whitening.system_times(system, v), whitening.vectors, start, steps
    )
    lower, jitter = cholesky(space.compressed)
    half = solve_lower(lower, whitening.transposed(space.vectors).T).T
    alpha = half @ (half.T @ y)
    left, whole = whitening(y - system.times(alpha)), whitening(y)
    size = jnp.linalg.norm(whole, axis=0)
    relative = jnp.linalg.norm(left, axis=0) / jnp.where(size > 0.0, size, 1.0)
    found = Aware(rows=None, half=half, alpha=alpha)
    quadratic, residual = jnp.sum(y * alpha), jnp.max(relative)
    return found, quadratic, jnp.sum(left**2), residual, jitter
