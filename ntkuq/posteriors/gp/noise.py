"""GP regression where the noise differs by datum or by output."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ntkuq.data import Dataset
from ntkuq.kernels import AbstractCovariance, LogValues
from ntkuq.kernels.solve import check
from ntkuq.models import BNN, Gaussian
from ntkuq.models.hyperparameters import Hyperparameter
from ntkuq.posteriors.base import AbstractPosterior, Joint
from ntkuq.posteriors.gp import gaussian
from ntkuq.posteriors.gp.inputs import concatenate, in_chunks, inputs
from ntkuq.posteriors.gp.regression import Tuned, targets
from ntkuq.posteriors.predictive import Predictive
from ntkuq.posteriors.push import from_latent, joint_units, output_dtype


class NoisyFactors(NamedTuple):
    """What conditioning leaves behind, for each group of outputs.

    lower: Cholesky factor of K + V_g (+ jitter). alpha: (K + V_g)^-1 y of the outputs
    of the group. G is 1 where the outputs share the noise, else C.
    """

    lower: Float[Array, "G N N"]
    alpha: Float[Array, "G N D"]
    jitter: Float[Array, " G"]


class UnequalNoisePosterior(AbstractPosterior):
    r"""A GP given observations whose noise differs by datum or by output: exact.

    Mean $m_c + k_*^T (K + V_c)^{-1} (y_c - m_c)$ and variance
    $k_{**} - k_*^T (K + V_c)^{-1} k_*$ with $V_c$ the diagonal matrix of the noise
    variances of output c: one factorization where all outputs share them, else one for
    each output. New observations have the noise of the likelihood.

    References:
        Rasmussen and Williams, *Gaussian Processes for Machine Learning*, 2006, ch. 2;
        Goldberg, Williams and Bishop, *Regression with input-dependent noise*, NeurIPS
        1997.
    """

    bnn: BNN
    data: Dataset
    covariance: AbstractCovariance
    params: LogValues
    factors: NoisyFactors
    center: Float[Array, "1 C"]
    hyperparameters: tuple[Hyperparameter, ...]
    log_marginal_likelihood: float
    diagnostics: dict[str, Any]

    def predict(self, x: PyTree) -> Predictive:
        """Predictions at the inputs x (N, …), in the units of the data."""
        dtype = output_dtype(self.bnn)
        with jax.enable_x64(True):
            train, new = inputs(self.bnn, self.data.x), inputs(self.bnn, x)
            held = self.covariance, self.params, self.factors
            mean, variance = in_chunks(lambda part: _marginals(*held, train, part), new)
            variance = jnp.broadcast_to(variance, mean.shape)
            return from_latent(self.bnn, mean + self.center, variance, dtype)

    def joint(self, x: PyTree) -> Joint:
        """Mean (N, C) and covariance (N C, N C) of the function across inputs x."""
        with jax.enable_x64(True):
            train, new = inputs(self.bnn, self.data.x), inputs(self.bnn, x)
            mean, each = _joint(self.covariance, self.params, self.factors, train, new)
            mean = mean + self.center
            outputs = mean.shape[1]
            each = jnp.broadcast_to(each, (outputs, *each.shape[1:]))
            size = new.shape[0] * outputs
            eye = jnp.eye(outputs, dtype=mean.dtype)
            covariance = jnp.einsum("cij,cd->icjd", each, eye).reshape(size, size)
            return joint_units(self.bnn, Joint(mean, covariance))

    def update(self, data: Dataset, *, key: Array) -> UnequalNoisePosterior:
        """The posterior given more data: exact, with prior and noise kept.

        Args:
            data: new observations, with their noise where that of the first is known.
            key: not used.
        """
        del key
        tuned = Tuned(
            self.bnn,
            self.covariance,
            self.params,
            self.hyperparameters,
            self.diagnostics,
        )
        return condition(tuned, concatenate(self.data, data), center=self.center)


def condition(
    tuned: Tuned, data: Dataset, *, center: Array | None = None
) -> UnequalNoisePosterior:
    """The exact posterior of a prepared and tuned problem.

    Args:
        tuned: from `regression.tune`.
        data: all observations.
        center: the prior mean (network's units); `None` for that of these targets.

    Raises:
        NotPositiveDefinite: when a covariance cannot be factored.
    """
    bnn = tuned.bnn
    with jax.enable_x64(True):
        x = inputs(bnn, data.x)
        y, own, variance = targets(bnn, data)
        if center is None:
            center = own
        y = y + own - center
        if variance is None:
            assert isinstance(bnn.likelihood, Gaussian)  # noqa: S101
            scale = jnp.asarray(bnn.likelihood.scale, jnp.float64)
            variance = jnp.broadcast_to(scale.reshape(1, -1) ** 2, y.shape)
        factors, value = _condition(tuned.covariance.at(x), tuned.values, y, variance)
        jitter = check(factors.jitter, "GP covariance")
    return UnequalNoisePosterior(
        bnn=bnn,
        data=data,
        covariance=tuned.covariance,
        params=tuned.values,
        factors=factors,
        center=center,
        hyperparameters=tuned.hyperparameters,
        log_marginal_likelihood=float(value),
        diagnostics={
            **tuned.diagnostics,
            "jitter": jitter,
            "factorizations": factors.lower.shape[0],
        },
    )


@eqx.filter_jit
def _condition(gram, params, y, variance):
    kernel = gram(params)
    zero = jnp.zeros((), kernel.dtype)
    shared = variance.shape[1] == 1
    grouped = y[None] if shared else y.T[:, :, None]

    def one(group: tuple[Array, Array]) -> tuple[gaussian.Factors, Array]:
        column, part = group
        factors = gaussian.condition(kernel + jnp.diag(column), part, zero)
        return factors, gaussian.log_density(factors, part)

    found, values = jax.lax.map(one, (variance.T, grouped))
    return NoisyFactors(found.lower, found.alpha, found.jitter), jnp.sum(values)


def _groups(factors: NoisyFactors):
    """The factors of each group, stacked as `gaussian.Factors`."""
    return gaussian.Factors(factors.lower, factors.alpha, factors.jitter)


@eqx.filter_jit
def _marginals(covariance, params, factors, train, new):
    cross = covariance.gram(params, new, train)
    diagonal = covariance.diagonal(params, new)
    mean, variance = jax.lax.map(
        lambda group: gaussian.marginals(group, cross, diagonal), _groups(factors)
    )
    return _columns(mean), variance.T


@eqx.filter_jit
def _joint(covariance, params, factors, train, new):
    cross = covariance.gram(params, new, train)
    prior = covariance.gram(params, new)
    mean, shared = jax.lax.map(
        lambda group: gaussian.joint(group, cross, prior), _groups(factors)
    )
    return _columns(mean), shared


def _columns(mean: Float[Array, "G M D"]) -> Float[Array, "M C"]:
    """The outputs of all groups side by side."""
    return jnp.reshape(jnp.moveaxis(mean, 0, 1), (mean.shape[1], -1))
