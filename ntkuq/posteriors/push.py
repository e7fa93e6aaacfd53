"""From network outputs, in scaled units, to a `Predictive` in the units of the data."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, PyTree

from ntkuq.models import (
    BNN,
    AbstractLink,
    Bernoulli,
    Categorical,
    Gaussian,
    KnownNoise,
    LogDensity,
    Marginal,
    Poisson,
    Positions,
    as_arrays,
    forward,
)
from ntkuq.posteriors.base import Joint
from ntkuq.posteriors.join import unflattened
from ntkuq.posteriors.predictive import Predictive


def output_dtype(bnn: BNN) -> np.dtype:
    """The floating-point type of predictions: that of the network.

    Ask for it outside `jax.enable_x64`, since an untrained network has the default.
    """
    return bnn.dtype if bnn.trained else jnp.zeros(()).dtype


@eqx.filter_jit
def network_outputs(model: PyTree, x: PyTree) -> Float[Array, "N C"]:
    """The outputs of a network at scaled inputs x (N, …)."""
    return jax.vmap(lambda a: forward(model, a))(x)


#: A predictive keeps the covariances between outputs up to so many numbers (128 MiB
#: in float32), beyond them their variances only.
COVARIANCES = 2**25


def needs_covariance(bnn: BNN, link: AbstractLink | None = None) -> bool:
    """Whether a prediction uses covariances between the outputs of one input.

    Where it does not, `from_latent` gives the same from their variances alone.
    """
    likelihood = bnn.likelihood
    if isinstance(likelihood, Positions):
        likelihood = likelihood.likelihood
    if isinstance(likelihood, LogDensity):
        return likelihood.size > 1
    if isinstance(likelihood, Categorical):
        return link is None or not link.diagonal
    alone = isinstance(likelihood, Gaussian | KnownNoise | Bernoulli | Poisson)
    return not alone


def from_latent(
    bnn: BNN,
    mean: Float[Array, "N C"],
    covariance: Float[Array, "N C C"] | Float[Array, "N C"],
    dtype: np.dtype,
    *,
    link: AbstractLink | None = None,
    total: int | None = None,
) -> Predictive:
    """Gaussian outputs with this mean and covariance, and the likelihood's noise.

    Args:
        mean, covariance: of the network's outputs, in its (scaled) units; a covariance
            of shape (N, C) holds the variances of outputs that are independent.
        dtype: floating-point type of the result (`output_dtype`).
        link: how class probabilities are integrated; `None` for the likelihood's own.
        total: number of inputs of which these are a part. It decides, for all parts
            alike, whether `latent` keeps covariances or variances only.
    """
    size = (mean.shape[0] if total is None else total) * mean.shape[-1] ** 2
    # float64 whatever came: a covariance between classes is nearly singular
    with jax.enable_x64(True):
        mean, covariance = (
            jax.lax.convert_element_type(a, jnp.float64) for a in (mean, covariance)
        )
        likelihood = as_arrays(bnn.likelihood, np.float64)
        units = _units(bnn, mean.dtype)
        marginal = _marginal(
            likelihood, units, mean, covariance, link, dtype, size <= COVARIANCES
        )
    return _predictive(bnn, marginal)


@eqx.filter_jit
def _marginal(likelihood, units, mean, covariance, link, dtype, keep: bool):
    loc, scale = units
    shifted, factor = likelihood.shift(mean, loc, scale)
    if covariance.ndim == mean.ndim:
        covariance = covariance * factor**2
    else:
        covariance = covariance * factor[:, None] * factor
    found = likelihood.rescale(loc, scale).marginalize(shifted, covariance, link)
    if not keep and isinstance(found.latent, dist.MultivariateNormal):
        rows = jnp.asarray(found.latent.scale_tril)
        variance = jnp.sum(rows**2, axis=-1)
        wide = dist.Normal(found.latent.loc, jnp.sqrt(variance)).to_event(1)
        found = found._replace(latent=wide)
    return _rounded(found, dtype)


def from_functions(
    bnn: BNN, latent: Float[Array, "S N C"], dtype: np.dtype
) -> Predictive:
    """S equally likely outputs (an ensemble, posterior samples)."""
    units = _units(bnn, latent.dtype)
    likelihood = as_arrays(bnn.likelihood, latent.dtype)
    return _predictive(bnn, _mixture(likelihood, units, latent, dtype))


@eqx.filter_jit
def _mixture(likelihood, units, latent, dtype):
    loc, scale = units
    shifted, _ = likelihood.shift(latent, loc, scale)
    return _rounded(likelihood.rescale(loc, scale).mixture(shifted), dtype)


def joint_units(bnn: BNN, joint: Joint) -> Joint:
    """A joint distribution of outputs in the units of the data."""
    dtype = joint.mean.dtype
    likelihood = as_arrays(bnn.likelihood, dtype)
    return _joint_units(likelihood, _units(bnn, dtype), joint)


@eqx.filter_jit
def _joint_units(likelihood, units: tuple[Array, Array], joint: Joint) -> Joint:
    mean, factor = likelihood.shift(joint.mean, *units)
    flat = jnp.tile(factor, joint.mean.shape[0])
    return Joint(mean, joint.covariance * flat[:, None] * flat)


def _units(bnn: BNN, dtype: np.dtype) -> tuple[Array, Array]:
    return (
        jnp.asarray(bnn.scaling.loc(), dtype),
        jnp.asarray(bnn.scaling.scale(), dtype),
    )


def _rounded(marginal: Marginal, dtype: np.dtype) -> Marginal:
    return jax.tree.map(
        lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf,
        marginal,
    )


def _predictive(bnn: BNN, marginal: Marginal) -> Predictive:
    predictive = Predictive(
        latent=marginal.latent,
        observed=marginal.observed,
        epistemic=marginal.epistemic,
        aleatoric=marginal.aleatoric,
    )
    if bnn.target_shape is None:
        return predictive
    return unflattened(predictive, bnn.target_shape)
