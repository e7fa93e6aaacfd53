"""The posteriors of GP methods."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ntkuq.data import Dataset
from ntkuq.kernels import AbstractCovariance, LogValues
from ntkuq.kernels.solve import check
from ntkuq.models import BNN, Gaussian, NoisyTargets
from ntkuq.models.hyperparameters import Hyperparameter
from ntkuq.posteriors.base import AbstractPosterior, Joint
from ntkuq.posteriors.gp import gaussian, latent
from ntkuq.posteriors.predictive import Predictive
from ntkuq.posteriors.push import from_latent, joint_units, output_dtype


#: New inputs handled at a time, so that memory does not grow with their number.
CHUNK = 1024


class GaussianPosterior(AbstractPosterior):
    r"""A GP conditioned on observations with Gaussian noise: exact.

    Mean $m + k_*^T (K + \sigma^2 I)^{-1} (y - m)$, variance
    $k_{**} - k_*^T (K + \sigma^2 I)^{-1} k_*$, with m the mean of the training targets.
    The log marginal likelihood is that of the scaled targets.
    """

    bnn: BNN
    data: Dataset
    covariance: AbstractCovariance
    params: LogValues
    factors: gaussian.Factors
    center: Float[Array, "1 C"]
    hyperparameters: tuple[Hyperparameter, ...]
    log_marginal_likelihood: float
    diagnostics: dict[str, Any]

    def predict(self, x: PyTree) -> Predictive:
        """Predictions at the inputs x (N, …), in the units of the data."""
        dtype = output_dtype(self.bnn)
        with jax.enable_x64(True):
            train, new = _inputs(self.bnn, self.data.x), _inputs(self.bnn, x)
            mean, variance = _in_chunks(
                lambda part: _gaussian_marginals(self, train, part), new
            )
            covariance = gaussian.independent(variance, mean.shape[1])
            return from_latent(self.bnn, mean, covariance, dtype)

    def joint(self, x: PyTree) -> Joint:
        """Mean (N, C) and covariance (N C, N C) of the function across inputs x."""
        with jax.enable_x64(True):
            train, new = _inputs(self.bnn, self.data.x), _inputs(self.bnn, x)
            mean, shared = _gaussian_joint(self, train, new)
            outputs = jnp.eye(mean.shape[1], dtype=mean.dtype)
            return joint_units(self.bnn, Joint(mean, jnp.kron(shared, outputs)))

    def update(self, data: Dataset, *, key: Array) -> GaussianPosterior:
        """The posterior given more data: exact, with the hyper-parameters kept.

        Args:
            data: new observations.
            key: not used.
        """
        del key
        return condition(
            self.bnn,
            concatenate(self.data, data),
            self.covariance,
            self.params,
            self.hyperparameters,
            self.diagnostics,
        )


def condition(
    bnn: BNN,
    data: Dataset,
    covariance: AbstractCovariance,
    params: LogValues,
    hyperparameters: tuple[Hyperparameter, ...],
    diagnostics: dict[str, Any],
) -> GaussianPosterior:
    """The exact posterior for a prepared problem whose likelihood has the noise.

    Raises:
        NotPositiveDefinite: when the covariance cannot be factored.
    """
    with jax.enable_x64(True):
        x, y = _inputs(bnn, data.x), bnn.targets(data, np.float64)
        if not isinstance(bnn.likelihood, Gaussian) or isinstance(y, NoisyTargets):
            kind = type(bnn.likelihood).__name__
            raise TypeError(f"expected a Gaussian likelihood, got {kind}")
        noise = jnp.asarray(bnn.likelihood.scale, jnp.float64)
        center = jnp.mean(y, axis=0, keepdims=True)
        factors, value = _condition(covariance.at(x), params, y - center, noise**2)
        jitter = check(factors.jitter, "GP covariance")
    return GaussianPosterior(
        bnn=bnn,
        data=data,
        covariance=covariance,
        params=params,
        factors=factors,
        center=center,
        hyperparameters=hyperparameters,
        log_marginal_likelihood=float(value),
        diagnostics={**diagnostics, "jitter": jitter},
    )


@eqx.filter_jit
def _condition(gram, params, y, noise_variance):
    factors = gaussian.condition(gram(params), y, noise_variance)
    return factors, gaussian.log_density(factors, y)


@eqx.filter_jit
def _gaussian_marginals(posterior, train, new):
    covariance, params = posterior.covariance, posterior.params
    mean, variance = gaussian.marginals(
        posterior.factors,
        covariance.gram(params, new, train),
        covariance.diagonal(params, new),
    )
    return mean + posterior.center, variance


@eqx.filter_jit
def _gaussian_joint(posterior, train, new):
    covariance, params = posterior.covariance, posterior.params
    mean, shared = gaussian.joint(
        posterior.factors,
        covariance.gram(params, new, train),
        covariance.gram(params, new),
    )
    return mean + posterior.center, shared


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
            train, new = _inputs(self.bnn, self.data.x), _inputs(self.bnn, x)
            mean, covariance = _in_chunks(
                lambda part: _latent_moments(self, train, part), new
            )
            return from_latent(self.bnn, mean, covariance, dtype)

    def joint(self, x: PyTree) -> Joint:
        """Mean (N, C) and covariance (N C, N C) of the latent function."""
        with jax.enable_x64(True):
            train, new = _inputs(self.bnn, self.data.x), _inputs(self.bnn, x)
            mean, covariance = _latent_joint(self, train, new)
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
        x, y = _inputs(bnn, data.x), bnn.targets(data)
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
def _latent_moments(posterior, train, new):
    covariance, params = posterior.covariance, posterior.params
    return latent.moments(
        posterior.curvature,
        posterior.weights,
        covariance.gram(params, new, train),
        covariance.diagonal(params, new),
    )


@eqx.filter_jit
def _latent_joint(posterior, train, new):
    covariance, params = posterior.covariance, posterior.params
    return latent.joint(
        posterior.curvature,
        posterior.weights,
        covariance.gram(params, new, train),
        covariance.gram(params, new),
    )


def _inputs(bnn: BNN, x: PyTree) -> Array:
    return single_array(bnn.inputs(x, np.float64))


def single_array(x: PyTree) -> Array:
    """The one array of the inputs; TypeError where there are several."""
    leaves = jax.tree.leaves(x)
    if len(leaves) != 1:
        raise TypeError(
            f"expected inputs that are one array, got a tree of {len(leaves)}: "
            "GP kernels need one; concatenate the columns"
        )
    return leaves[0]


def _in_chunks(function, x: Array) -> tuple[Array, Array]:
    """Apply a function of rows to chunks of rows, at most two shapes of them."""
    if x.shape[0] <= CHUNK:
        return function(x)
    parts = [function(x[i : i + CHUNK]) for i in range(0, x.shape[0], CHUNK)]
    first, second = zip(*parts)
    return jnp.concatenate(first), jnp.concatenate(second)


def concatenate(first: Dataset, second: Dataset) -> Dataset:
    """The rows of both data sets; names and units of the first."""
    old, new = jax.tree.structure(first.x), jax.tree.structure(second.x)
    if old != new:
        raise ValueError(f"update: expected inputs like {old}, got {new}")
    return Dataset(
        jax.tree.map(lambda a, b: np.concatenate([a, b]), first.x, second.x),
        np.concatenate([first.y, second.y]),
        features=first.features,
        target=first.target,
        classes=first.classes,
        units=first.units,
        name=first.name,
    )
