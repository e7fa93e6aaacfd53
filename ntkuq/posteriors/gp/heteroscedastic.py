r"""GPs for the mean and for the logarithm of the noise scale: Laplace's approximation.

$y \sim N(m(x), e^{2s(x)})$ with $m = \bar y + g_1$ and $s = \log\sigma + \rho\,g_2$,
where $g_1, g_2$ are independent GPs that share the kernel K (as the outputs of one
network do). $\sigma$ is the "noise scale" where the data say nothing, $\rho$ the size
of the logarithm's changes. Latent values are those of g, the notation that of `latent`.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ntkuq.data import Dataset
from ntkuq.kernels import AbstractCovariance, LogValues
from ntkuq.kernels.base import Parameter
from ntkuq.kernels.solvers import need_memory
from ntkuq.models import BNN, HeteroscedasticGaussian
from ntkuq.models.hyperparameters import (
    AbstractTune,
    Fixed,
    Hyperparameter,
    MarginalLikelihood,
)
from ntkuq.posteriors.base import AbstractPosterior, Joint
from ntkuq.posteriors.gp import latent, tuning
from ntkuq.posteriors.gp.inference import EllipticalSlice, LatentLaplace
from ntkuq.posteriors.gp.inputs import concatenate, in_chunks, inputs
from ntkuq.posteriors.gp.regression import Make
from ntkuq.posteriors.gp.scoring import Affine, derivatives, find_mode, mean_weights
from ntkuq.posteriors.predictive import Predictive
from ntkuq.posteriors.push import from_latent, joint_units, output_dtype


#: The hyper-parameter rho, and the first prior deviation of log-scales.
SPREAD, FIRST_SPREAD = "log-scale std", 0.5


class HeteroscedasticPosterior(AbstractPosterior):
    """GPs for mean and log noise scale given data: Laplace's approximation.

    The covariance is that at the mode with the Fisher information, means are corrected
    for skewness; the log marginal likelihood is Laplace's, of the scaled targets.

    References:
        Goldberg, Williams and Bishop, *Regression with input-dependent noise*, NeurIPS
        1997; Hartmann and Vanhatalo, *Laplace approximation and natural gradient for
        Gaussian process regression with heteroscedastic Student-t model*, 2019.
    """

    bnn: BNN
    data: Dataset
    covariance: AbstractCovariance
    params: LogValues
    curvature: latent.Curvature
    weights: Float[Array, "N C"]
    loc: Float[Array, " C"]
    scale: Float[Array, " C"]
    max_steps: int
    hyperparameters: tuple[Hyperparameter, ...]
    log_marginal_likelihood: float
    diagnostics: dict[str, Any]

    def predict(self, x: PyTree) -> Predictive:
        """Predictions at the inputs x (N, …), in the units of the data."""
        dtype = output_dtype(self.bnn)
        with jax.enable_x64(True):
            train, new = inputs(self.bnn, self.data.x), inputs(self.bnn, x)
            held = self.covariance, self.params, self.curvature, self.weights
            mean, variance = in_chunks(lambda part: _moments(*held, train, part), new)
            mean, variance = self.loc + self.scale * mean, self.scale**2 * variance
            return from_latent(self.bnn, mean, variance, dtype)

    def joint(self, x: PyTree) -> Joint:
        """Mean (N, C) and covariance (N C, N C) of means and log-scales."""
        with jax.enable_x64(True):
            train, new = inputs(self.bnn, self.data.x), inputs(self.bnn, x)
            mean, covariance = _joint(
                self.covariance, self.params, self.curvature, self.weights, train, new
            )
            factor = jnp.tile(self.scale, new.shape[0])
            covariance = factor[:, None] * covariance * factor
            mean = self.loc + self.scale * mean
            return joint_units(self.bnn, Joint(mean, covariance))

    def update(self, data: Dataset, *, key: Array) -> HeteroscedasticPosterior:
        """The posterior given more data, with prior and hyper-parameters kept.

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
            (self.loc, self.scale),
            self.hyperparameters,
            self.diagnostics,
            max_steps=self.max_steps,
        )


def fit(
    bnn: BNN,
    data: Dataset,
    make: Make,
    tune: AbstractTune,
    inference: LatentLaplace | EllipticalSlice,
    *,
    key: Array,
) -> HeteroscedasticPosterior:
    """The posterior of a prepared problem with a `HeteroscedasticGaussian`.

    Hyper-parameters are those of the kernel, "noise scale" and "log-scale std": the
    root mean square over the data of the prior deviation of log-scales.

    Raises:
        FloatingPointError: when the mode is not found.
        TypeError: for a `tune` or `inference` that is not covered.
        NotEnoughMemory: for more data than fit.
    """
    if not isinstance(tune, Fixed | MarginalLikelihood):
        raise TypeError(
            "GP: expected tune=MarginalLikelihood() or Fixed() with a "
            f"HeteroscedasticGaussian, got {type(tune).__name__}"
        )
    if not isinstance(inference, LatentLaplace):
        raise TypeError(
            "GP: expected inference=LatentLaplace() with a HeteroscedasticGaussian, "
            f"got {type(inference).__name__}"
        )
    need_memory(
        # the exact Hessian couples outputs: its matrix is (N C, N C)
        8.0 * (3.0 * bnn.outputs(data) ** 2 + 10.0) * float(len(data)) ** 2,
        f"GP: {len(data):,} rows with a HeteroscedasticGaussian",
        "give fewer rows, such as data.take(rows)",
    )
    rows_key, key = jax.random.split(key)
    rows, tuned = np.arange(len(data)), not isinstance(tune, Fixed)
    if tuned and len(data) > inference.tune_points:
        drawn = jax.random.permutation(rows_key, len(data))[: inference.tune_points]
        rows = np.sort(np.asarray(drawn))
    with jax.enable_x64(True):
        x, y = inputs(bnn, data.x), jnp.asarray(bnn.targets(data, np.float64))
        center = jnp.mean(y, axis=0)
        size = float(jnp.sqrt(jnp.mean((y - center) ** 2)))
        size = size if size > 0.0 else 1.0
        covariance = make(bnn, x, size)
        first = _deviation(covariance, covariance.initial(), x)
        parameters = {
            **covariance.parameters,
            tuning.NOISE: Parameter.of(0.3 * size, 3e-3, 30.0),
            SPREAD: Parameter.of(FIRST_SPREAD / first, 0.02, 6.0),
        }
        last = {"a": jnp.zeros((len(rows), 2 * y.shape[1]), jnp.float64)}
        gram = covariance.at(x[rows])

        def value_and_grad(values: LogValues) -> tuple[Array, LogValues]:
            value, gradient, a = _evidence(
                *(bnn.likelihood, gram, center, values, y[rows], last["a"]),
                inference.max_steps,
            )
            if bool(jnp.all(jnp.isfinite(a))):
                last["a"] = a
            return -value, jax.tree.map(jnp.negative, gradient)

        choice = tuning.choose(tune, parameters, value_and_grad, key)
        kernel_values = _kernel_values(choice.values)
        root = _deviation(covariance, kernel_values, x)
        affine = _affine(bnn.likelihood, center, choice.values)
    units: dict[str, tuple[float, str | None]] = {SPREAD: (root, None)}
    factors = np.asarray(bnn.scaling.scale()).reshape(-1)
    if np.all(factors == factors[0]):
        units[tuning.NOISE] = (float(factors[0]), data.units)
    diagnostics = tuning.diagnostics(choice, tune)
    if tuned:
        diagnostics["tuned on"] = len(rows)
    return approximate(
        bnn,
        data,
        covariance,
        kernel_values,
        (affine.loc, affine.scale),
        tuning.report(choice, features=data.features, units=units),
        diagnostics,
        max_steps=inference.max_steps,
    )


def approximate(
    bnn: BNN,
    data: Dataset,
    covariance: AbstractCovariance,
    params: LogValues,
    affine: tuple[Array, Array],
    hyperparameters: tuple[Hyperparameter, ...],
    diagnostics: dict[str, Any],
    *,
    max_steps: int,
) -> HeteroscedasticPosterior:
    """Laplace's approximation for a prepared problem.

    Raises:
        FloatingPointError: when the mode is not found.
    """
    loc, scale = affine
    likelihood = bnn.likelihood
    assert isinstance(likelihood, HeteroscedasticGaussian)  # noqa: S101
    with jax.enable_x64(True):
        x, y = inputs(bnn, data.x), jnp.asarray(bnn.targets(data, np.float64))
        mode, weights, value = _approximate(
            Affine(likelihood, loc, scale), covariance.at(x), params, y, max_steps
        )
        residual = float(mode.residual)
    if not residual < 1e-4:
        raise FloatingPointError(
            f"GP: scoring did not find the mode in {int(mode.steps)} steps (relative "
            f"residual {residual:.1e}, wanted {latent.TOLERANCE:g}); check the data "
            "for extreme values, or raise max_steps of LatentLaplace"
        )
    return HeteroscedasticPosterior(
        bnn=bnn,
        data=data,
        covariance=covariance,
        params=params,
        curvature=mode.curvature,
        weights=weights,
        loc=loc,
        scale=scale,
        max_steps=max_steps,
        hyperparameters=hyperparameters,
        log_marginal_likelihood=float(value),
        diagnostics={
            **diagnostics,
            "scoring steps": int(mode.steps),
            "scoring residual": residual,
        },
    )


def _affine(likelihood, center: Array, values: LogValues) -> Affine:
    """Means around the center, log-scales around that of the noise scale."""
    ones = jnp.ones_like(center)
    return Affine(
        likelihood,
        jnp.concatenate([center, values[tuning.NOISE] * ones]),
        jnp.concatenate([ones, jnp.exp(values[SPREAD]) * ones]),
    )


def _deviation(covariance: AbstractCovariance, params: LogValues, x: Array) -> float:
    """The root mean square of the prior deviations at x."""
    variance = eqx.filter_jit(covariance.diagonal)(params, x)
    return float(np.sqrt(np.mean(np.asarray(variance))))


def _kernel_values(values: LogValues) -> LogValues:
    own = (tuning.NOISE, SPREAD)
    return {name: value for name, value in values.items() if name not in own}


@eqx.filter_jit
def _evidence(likelihood, gram, center, values, y, start, max_steps):
    kernel, pull = jax.vjp(gram, _kernel_values(values))
    affine = _affine(likelihood, center, values)
    mode = find_mode(affine, kernel, y, start, max_steps)
    found = derivatives(affine, kernel, y, mode)
    (gradient,) = pull(found.kernel)
    heads = center.size
    own = {
        tuning.NOISE: jnp.sum(found.loc[heads:]),
        SPREAD: jnp.sum(found.log_scale[heads:]),
    }
    return latent.log_evidence(mode), {**gradient, **own}, mode.a


@eqx.filter_jit
def _approximate(affine, gram, params, y, max_steps):
    kernel = gram(params)
    start = jnp.zeros((y.shape[0], affine.loc.size), kernel.dtype)
    mode = find_mode(affine, kernel, y, start, max_steps)
    weights = mean_weights(affine, kernel, y, mode)
    return mode, weights, latent.log_evidence(mode)


@eqx.filter_jit
def _moments(covariance, params, curvature, weights, train, new):
    mean, blocks = latent.moments(
        curvature,
        weights,
        covariance.gram(params, new, train),
        covariance.diagonal(params, new),
    )
    return mean, jnp.diagonal(blocks, axis1=1, axis2=2)


@eqx.filter_jit
def _joint(covariance, params, curvature, weights, train, new):
    return latent.joint(
        curvature,
        weights,
        covariance.gram(params, new, train),
        covariance.gram(params, new),
    )
