"""Gaussian noise whose scale is known for each training datum."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from ntkuq.models.likelihoods.base import AbstractLikelihood, Marginal
from ntkuq.models.likelihoods.gaussian import Gaussian


class NoisyTargets(NamedTuple):
    """Targets and the known standard deviations of their noise, (N, D) each."""

    value: Array
    scale: Array


class KnownNoise(AbstractLikelihood):
    """y_n = f_n + noise, noise ~ N(0, s_n^2), with s_n known for the training data.

    `BNN.prepare` makes it of a `Gaussian` where the data have a `noise_scale`, and
    `BNN.targets` then gives the pair (y, s). The s_n take the place of `Gaussian.scale`
    in training and in the posterior, and are not fitted. Of a new observation no s is
    known: predictions use the `Gaussian` as it was given.

    Args:
        new: the noise of new observations.

    >>> one = NoisyTargets(jnp.zeros(1), 2.0 * jnp.ones(1))
    >>> float(KnownNoise(Gaussian()).hessian(jnp.zeros(1), one)[0, 0])
    0.25
    """

    classes: ClassVar[bool] = False
    continuous: ClassVar[bool] = True

    new: Gaussian

    def distribution(self, latent: Float[Array, "*batch C"]) -> dist.Normal:
        return self.new.distribution(latent)

    def outputs(self, y) -> int:
        return self.new.outputs(y)

    def rescale(self, loc, scale) -> KnownNoise:
        return KnownNoise(self.new.rescale(loc, scale))

    def shift(self, mean, loc, scale):
        return self.new.shift(mean, loc, scale)

    def log_prob(self, latent, y):
        value, scale = _pair(y)
        return jnp.sum(dist.Normal(latent, scale).log_prob(value))

    def hessian(self, latent, y=None):
        return jnp.diag(jnp.broadcast_to(_pair(y).scale, latent.shape) ** -2)

    def hessian_sqrt(self, latent, y=None):
        return jnp.diag(1.0 / jnp.broadcast_to(_pair(y).scale, latent.shape))

    def marginalize(self, mean, covariance, link=None) -> Marginal:
        return self.new.marginalize(mean, covariance, link)

    def mixture(self, latent) -> Marginal:
        return self.new.mixture(latent)


def _pair(y: object) -> NoisyTargets:
    if not isinstance(y, NoisyTargets):
        raise ValueError(
            "KnownNoise: expected targets with their noise, bnn.targets(data), got "
            f"{type(y).__name__}: this computation does not honor known noise, leave "
            "Dataset.noise_scale out"
        )
    return y
