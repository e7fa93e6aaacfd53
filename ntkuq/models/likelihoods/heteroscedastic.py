"""Gaussian noise whose scale the network predicts."""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from ntkuq.models.likelihoods.base import AbstractLikelihood, Marginal
from ntkuq.models.likelihoods.gaussian import _squeeze
from ntkuq.models.likelihoods.quadrature import spread


class HeteroscedasticGaussian(AbstractLikelihood):
    """y ~ N(m, exp(2 s)): the network gives the means m, then the log-scales s.

    A target with D columns needs C = 2 D outputs, the D means first.

    Reference: Nix and Weigend, *Estimating the mean and variance of the target
    probability distribution*, 1994.

    >>> HeteroscedasticGaussian().outputs(jnp.zeros(5))
    2
    """

    classes: ClassVar[bool] = False
    continuous: ClassVar[bool] = True

    def distribution(self, latent: Float[Array, "*batch C"]) -> dist.Normal:
        mean, log_scale = jnp.split(latent, 2, axis=-1)
        return dist.Normal(mean, jnp.exp(log_scale))

    def outputs(self, y: Array) -> int:
        return 2 if y.ndim == 1 else 2 * y.shape[1]

    def rescale(self, loc, scale) -> HeteroscedasticGaussian:
        return self

    def shift(self, mean, loc, scale):
        first, second = jnp.split(mean, 2, axis=-1)
        shifted = jnp.concatenate(
            [first * scale + loc, second + jnp.log(scale)], axis=-1
        )
        scale = jnp.broadcast_to(scale, first.shape[-1:])
        return shifted, jnp.concatenate([scale, jnp.ones_like(scale)])

    def hessian(self, latent):
        # Fisher information of a normal in (mean, log scale): diag(1/s^2, 2)
        _, log_scale = jnp.split(latent, 2)
        return jnp.diag(
            jnp.concatenate([jnp.exp(-2 * log_scale), jnp.full_like(log_scale, 2.0)])
        )

    def hessian_sqrt(self, latent):
        return jnp.sqrt(self.hessian(latent))

    def marginalize(self, mean, covariance) -> Marginal:
        nodes, weights = spread(mean, covariance)
        return _mixture(self, nodes, weights)

    def mixture(self, latent) -> Marginal:
        size = latent.shape[0]
        return _mixture(self, latent, jnp.full((size,), 1.0 / size, latent.dtype))


def _mixture(likelihood, latent: Array, weights: Array) -> Marginal:
    parts = likelihood.distribution(latent)
    loc, scale = _squeeze(parts.loc), _squeeze(parts.scale)
    mean = jnp.tensordot(weights, loc, 1)
    epistemic = jnp.tensordot(weights, (loc - mean) ** 2, 1)
    observed = dist.MixtureSameFamily(
        dist.Categorical(probs=weights),
        dist.Normal(jnp.moveaxis(loc, 0, -1), jnp.moveaxis(scale, 0, -1)),
    )
    return Marginal(
        latent=dist.Normal(mean, jnp.sqrt(epistemic)),
        observed=observed,
        epistemic=epistemic,
        aleatoric=jnp.tensordot(weights, scale**2, 1),
    )
