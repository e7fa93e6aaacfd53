"""The interface of solvers: how a GP is conditioned on data, and what remains of it."""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ntkuq.kernels.solvers.memory import need_memory
from ntkuq.kernels.solvers.system import System


class AbstractSolution(eqx.Module):
    """A GP conditioned on data, without its prior mean.

    `rows` are the positions of the data that predictions need (`None`: of all); the
    systems that the methods get have these rows alone. Call them in `jit`, where
    float64 is enabled.
    """

    #: Do predictions multiply with the matrix of the system?
    iterates: eqx.AbstractClassVar[bool]
    rows: eqx.AbstractVar[Int[Array, " N"] | None]

    @abc.abstractmethod
    def marginals(
        self, system: System, new: Array
    ) -> tuple[Float[Array, "M C"], Float[Array, " M"]]:
        """Means, and variances that all outputs share, at new inputs (M, ...)."""

    @abc.abstractmethod
    def joint(
        self, system: System, new: Array
    ) -> tuple[Float[Array, "M C"], Float[Array, "M M"]]:
        """Means, and the covariance across inputs that all outputs share."""


class Conditioned(NamedTuple):
    """What a solver found.

    solution: for predictions. log_evidence: log N(y; 0, A), summed over outputs, or
    what the solver has in its place. diagnostics: how it went.
    """

    solution: AbstractSolution
    log_evidence: float
    diagnostics: dict[str, Any]


class Work(NamedTuple):
    """Floating-point operations and peak bytes of conditioning."""

    flops: float
    bytes: float


class AbstractSolver(eqx.Module):
    """How a GP with Gaussian noise is conditioned on N data."""

    #: What to do where the solver does not fit into memory.
    way_out: eqx.AbstractClassVar[str]

    @abc.abstractmethod
    def condition(
        self, system: System, y: Float[Array, "N C"], *, key: Array
    ) -> Conditioned:
        """Condition on y = f(X) + noise; C outputs share the system.

        Args:
            system: the covariance of the observations.
            y: targets minus the prior mean.
            key: for what is drawn at random.

        Raises:
            NotEnoughMemory: before anything is made that would not fit.
            NotPositiveDefinite: where the covariance is not.
        """

    @abc.abstractmethod
    def most_tuned(self) -> int:
        """The most data, drawn at random, on which hyper-parameters are fitted."""

    @abc.abstractmethod
    def work(self, size: int, outputs: int) -> Work:
        """What `condition` needs for so many data and outputs."""

    def need_memory(self, size: int, outputs: int) -> None:
        """Raise `NotEnoughMemory` where `condition` would not fit."""
        what = f"{type(self).__name__}: {size:,} rows and {outputs} output(s)"
        need_memory(self.work(size, outputs).bytes, what, self.way_out)


#: The ways out of a matrix of N x N.
WITHOUT_MATRIX = (
    "use solver=ConjugateGradients() or ComputationAware(), which need no N x N "
    "matrix, SubsetOfData(points) or Inducing(points), or fewer rows"
)


def check_counts(solver: Any, **counts: int) -> None:
    """Raise `ValueError` unless all are at least 1."""
    if min(counts.values()) < 1:
        wanted = ", ".join(f"{name} >= 1" for name in counts)
        got = ", ".join(f"{name}={value}" for name, value in counts.items())
        raise ValueError(f"{type(solver).__name__}: expected {wanted}, got {got}")


def positive(variance: Array, prior: Float[Array, " M"]) -> Array:
    """Variances, those below what rounding can tell of `prior` set to that size."""
    return jnp.maximum(variance, jnp.finfo(prior.dtype).eps * prior)


def log_normal(
    quadratic: Array, log_determinant: Array, size: int, outputs: int
) -> Array:
    """log N(y; 0, A) of all outputs from the sum of y^T A^-1 y and log |A|."""
    constant = size * jnp.log(2.0 * jnp.pi)
    return -0.5 * (quadratic + outputs * (log_determinant + constant))
