"""The posteriors of GP methods."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ntkuq.data import Dataset
from ntkuq.kernels import AbstractCovariance, AbstractSolver, Cholesky, LogValues
from ntkuq.kernels.solve import check
from ntkuq.kernels.solvers import AbstractSolution, Exact, System, extended
from ntkuq.models import BNN, Gaussian, NoisyTargets
from ntkuq.models.hyperparameters import Hyperparameter
from ntkuq.posteriors.base import AbstractPosterior, Joint
from ntkuq.posteriors.gp import gaussian, latent
from ntkuq.posteriors.gp.inputs import (
    CHUNK as CHUNK,
    concatenate as concatenate,
    in_chunks,
    inputs,
    single_array as single_array,
)
from ntkuq.posteriors.predictive import Predictive
from ntkuq.posteriors.push import from_latent, joint_units, output_dtype


#: The covariance of a chunk of new inputs with the training data has at most so many
#: entries (128 MiB).
CHUNK_NUMBERS = 2**24


class GaussianPosterior(AbstractPosterior):
    r"""A GP conditioned on observations with Gaussian noise, as its solver does it.

    Mean $m + k_*^T (K + \sigma^2 I)^{-1} (y - m)$, variance
    $k_{**} - k_*^T (K + \sigma^2 I)^{-1} k_*$, exact with the solver `Cholesky`; others
    say what they put in the place of the inverse. The prior mean m is that of the
    training targets of `fit`, and stays as it is in `update`. The log marginal
    likelihood is that of the scaled targets.
    """

    bnn: BNN
    data: Dataset
    covariance: AbstractCovariance
    params: LogValues
    solver: AbstractSolver
    solution: AbstractSolution
    center: Float[Array, "1 C"]
    hyperparameters: tuple[Hyperparameter, ...]
    log_marginal_likelihood: float
    diagnostics: dict[str, Any]

    def predict(self, x: PyTree) -> Predictive:
        """Predictions at the inputs x (N, …), in the units of the data."""
        dtype = output_dtype(self.bnn)
        with jax.enable_x64(True):
            system, new = self._system(), inputs(self.bnn, x)
            mean, variance = in_chunks(
                lambda part: _gaussian_marginals(
                    self.solution, system, self.center, part
                ),
                new,
                max(1, min(CHUNK, CHUNK_NUMBERS // system.size)),
            )
            covariance = gaussian.independent(variance, mean.shape[1])
            return from_latent(self.bnn, mean, covariance, dtype)

    def joint(self, x: PyTree) -> Joint:
        """Mean (N, C) and covariance (N C, N C) of the function across inputs x."""
        with jax.enable_x64(True):
            system, new = self._system(), inputs(self.bnn, x)
            mean, shared = _gaussian_joint(self.solution, system, self.center, new)
            outputs = jnp.eye(mean.shape[1], dtype=mean.dtype)
            return joint_units(self.bnn, Joint(mean, jnp.kron(shared, outputs)))

    def _system(self) -> System:
        """The data that predictions need; the matrix where they multiply with it."""
        system = _observed(self.bnn, self.covariance, self.params, self.data)
        rows = self.solution.rows
        if rows is not None:
            system = System(
                self.covariance, self.params, system.x[rows], system.noise[rows]
            )
        return system.held() if type(self.solution).iterates else system

    def update(self, data: Dataset, *, key: Array) -> GaussianPosterior:
        """The posterior given more data, with prior mean and hyper-parameters kept.

        It is what conditioning on all data at once gives. The solver `Cholesky` adds
        rows to its factor; the others begin anew.

        Args:
            data: new observations.
            key: for solvers that draw at random.
        """
        return condition(
            self.bnn,
            concatenate(self.data, data),
            self.covariance,
            self.params,
            self.hyperparameters,
            self.diagnostics,
            solver=self.solver,
            key=key,
            center=self.center,
            old=self.solution,
        )


def condition(
    bnn: BNN,
    data: Dataset,
    covariance: AbstractCovariance,
    params: LogValues,
    hyperparameters: tuple[Hyperparameter, ...],
    diagnostics: dict[str, Any],
    *,
    solver: AbstractSolver,
    key: Array,
    center: Float[Array, "1 C"] | None = None,
    old: AbstractSolution | None = None,
) -> GaussianPosterior:
    """The posterior for a prepared problem whose likelihood has the noise.

    Args:
        bnn, data: the problem and all observations.
        covariance, params: the prior.
        hyperparameters, diagnostics: to hand on.
        solver: how to condition.
        key: for solvers that draw at random.
        center: the prior mean; `None` for the mean of the targets.
        old: the solution for the first observations, where there is one.

    Raises:
        NotEnoughMemory: when the solver does not fit into memory.
        NotPositiveDefinite: when the covariance cannot be factored.
    """
    with jax.enable_x64(True):
        y = bnn.targets(data, np.float64)
        if not isinstance(bnn.likelihood, Gaussian) or isinstance(y, NoisyTargets):
            kind = type(bnn.likelihood).__name__
            raise TypeError(f"expected a Gaussian likelihood, got {kind}")
        if center is None:
            center = jnp.mean(y, axis=0, keepdims=True)
        system, left = _observed(bnn, covariance, params, data), y - center
        if isinstance(solver, Cholesky) and isinstance(old, Exact):
            solver.need_memory(*y.shape)
            found = extended(old, system, left)
        else:
            found = solver.condition(system, left, key=key)
    return GaussianPosterior(
        bnn=bnn,
        data=data,
        covariance=covariance,
        params=params,
        solver=solver,
        solution=found.solution,
        center=center,
        hyperparameters=hyperparameters,
        log_marginal_likelihood=found.log_evidence,
        diagnostics={
            **diagnostics,
            "solver": type(solver).__name__,
            **found.diagnostics,
        },
    )


def _observed(
    bnn: BNN, covariance: AbstractCovariance, params: LogValues, data: Dataset
) -> System:
    """The covariance of the observations, one noise scale for all."""
    x = inputs(bnn, data.x)
    assert isinstance(bnn.likelihood, Gaussian)  # noqa: S101
    scale = jnp.asarray(bnn.likelihood.scale, jnp.float64).reshape(-1)[:1]
    return System(covariance, params, x, jnp.broadcast_to(scale**2, x.shape[:1]))


# The posterior itself is no argument: its fitted numbers that are not arrays would make
# a program of their own for each fit.
@eqx.filter_jit
def _gaussian_marginals(solution, system, center, new):
    mean, variance = solution.marginals(system, new)
    return mean + center, variance


@eqx.filter_jit
def _gaussian_joint(solution, system, center, new):
    mean, shared = solution.joint(system, new)
    return mean + center, shared


class LatentPosterior(AbstractPosterior):
    """A latent GP under a likelihood that is not Gaussian: Laplace's approximation.

    The prior mean is zero. The covariance is that at the mode, the mean is corrected
    for the skewness of the posterior (`latent.mean_weights`), and the log marginal
    likelihood is Laplace's.
    """

    bnn: BNN
    data: Dataset
    covariance: AbstractCovariance
    params: LogValues
    curvature: latent.Curvature
    weights: Float[Array, "N C"]
    max_steps: int
    hyperparameters: tuple[Hyperparameter, ...]
    log_marginal_likelihood: float
    diagnostics: dict[str, Any]

    def predict(self, x: PyTree) -> Predictive:
        """Predictions at the inputs x (N, …)."""
        dtype = output_dtype(self.bnn)
        with jax.enable_x64(True):
            train, new = inputs(self.bnn, self.data.x), inputs(self.bnn, x)
            mean, covariance = in_chunks(
                lambda part: _latent_moments(
                    self.covariance,
                    self.params,
                    self.curvature,
                    self.weights,
                    train,
                    part,
                ),
                new,
                CHUNK,
            )
            return from_latent(self.bnn, mean, covariance, dtype)

    def joint(self, x: PyTree) -> Joint:
        """Mean (N, C) and covariance (N C, N C) of the latent function."""
        with jax.enable_x64(True):
            train, new = inputs(self.bnn, self.data.x), inputs(self.bnn, x)
            mean, covariance = _latent_joint(
                self.covariance, self.params, self.curvature, self.weights, train, new
            )
            return joint_units(self.bnn, Joint(mean, covariance))

    def update(self, data: Dataset, *, key: Array) -> LatentPosterior:
        """The posterior given more data, with the hyper-parameters kept.

        Args:
            data: new observations.
            key: not used.
        """
        del key
        return approximate(
            self.bnn,
            concatenate(self.data, data),
            self.covariance,
            self.params,
            self.hyperparameters,
            self.diagnostics,
            outputs=self.weights.shape[1],
            max_steps=self.max_steps,
        )


def approximate(
    bnn: BNN,
    data: Dataset,
    covariance: AbstractCovariance,
    params: LogValues,
    hyperparameters: tuple[Hyperparameter, ...],
    diagnostics: dict[str, Any],
    *,
    outputs: int,
    max_steps: int,
) -> LatentPosterior:
    """Laplace's approximation for a prepared problem.

    Raises:
        FloatingPointError: when the mode is not found.
    """
    with jax.enable_x64(True):
        x, y = inputs(bnn, data.x), bnn.targets(data)
        start = jnp.zeros((len(data), outputs), jnp.float64)
        mode, weights, value = _approximate(
            bnn.likelihood, covariance.at(x), params, y, start, max_steps
        )
        jitter = check(mode.curvature.jitter, "GP classification")
        residual = float(mode.residual)
    if not residual < 1e-4:
        raise FloatingPointError(
            f"GP: Newton's method did not find the mode in {int(mode.steps)} steps "
            f"(relative residual {residual:.1e}, wanted {latent.TOLERANCE:g}); check "
            "the inputs for extreme values, or raise max_steps of LatentLaplace"
        )
    return LatentPosterior(
        bnn=bnn,
        data=data,
        covariance=covariance,
        params=params,
        curvature=mode.curvature,
        weights=weights,
        max_steps=max_steps,
        hyperparameters=hyperparameters,
        log_marginal_likelihood=float(value),
        diagnostics={
            **diagnostics,
            "jitter": jitter,
            "Newton steps": int(mode.steps),
            "Newton residual": residual,
        },
    )


@eqx.filter_jit
def _approximate(likelihood, gram, params, y, start, max_steps):
    kernel = gram(params)
    mode = latent.find_mode(likelihood, kernel, y, start, max_steps)
    weights = latent.mean_weights(likelihood, kernel, mode)
    return mode, weights, latent.log_evidence(mode)


@eqx.filter_jit
def _latent_moments(covariance, params, curvature, weights, train, new):
    return latent.moments(
        curvature,
        weights,
        covariance.gram(params, new, train),
        covariance.diagonal(params, new),
    )


@eqx.filter_jit
def _latent_joint(covariance, params, curvature, weights, train, new):
    return latent.joint(
        curvature,
        weights,
        covariance.gram(params, new, train),
        covariance.gram(params, new),
    )
