"""Gaussian noise whose scale the network predicts."""

from __future__ import annotations

import math
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from ntkuq.models.likelihoods.base import (
    AbstractLikelihood,
    Marginal,
    log_density,
    no_link,
    variances,
)
from ntkuq.models.likelihoods.gaussian import _normal, _squeeze
from ntkuq.models.likelihoods.quadrature import nodes


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

    def outputs(self, y: Array | np.ndarray) -> int:
        return 2 * math.prod(y.shape[1:])

    def rescale(self, loc, scale) -> HeteroscedasticGaussian:
        return self

    def shift(self, mean, loc, scale):
        first, second = jnp.split(mean, 2, axis=-1)
        shifted = jnp.concatenate(
            [first * scale + loc, second + jnp.log(scale)], axis=-1
        )
        scale = jnp.broadcast_to(scale, first.shape[-1:])
        return shifted, jnp.concatenate([scale, jnp.ones_like(scale)])

    def log_prob(self, latent, y):
        return log_density(self.distribution(latent), y, latent.dtype)

    def hessian(self, latent, y=None):
        del y
        # Fisher information of a normal in (mean, log scale): diag(1/s^2, 2)
        _, log_scale = jnp.split(latent, 2)
        return jnp.diag(
            jnp.concatenate([jnp.exp(-2 * log_scale), jnp.full_like(log_scale, 2.0)])
        )

    def hessian_sqrt(self, latent, y=None):
        del y
        return jnp.sqrt(self.hessian(latent))

    def marginalize(self, mean, covariance, link=None) -> Marginal:
        no_link(self, link)
        # Given the log-scale s of one target column, its mean m is Gaussian: only s
        # needs quadrature. m | s has mean  E m + k (s - E s)  and variance
        # Var m - k Cov(m, s),  with k = Cov(m, s) / Var s.
        size = mean.shape[-1] // 2
        first, second = mean[..., :size], mean[..., size:]
        variance = variances(mean, covariance)
        if covariance.ndim == mean.ndim:
            cross = jnp.zeros_like(first)
        else:
            cross = jnp.diagonal(covariance[..., :size, size:], axis1=-2, axis2=-1)
        spread, bend = variance[..., :size], variance[..., size:]
        points, weights = nodes(1)
        z = jnp.asarray(points[:, 0], mean.dtype)
        tiny = jnp.finfo(mean.dtype).tiny
        slope = cross / jnp.sqrt(jnp.maximum(bend, tiny))
        rest = jnp.maximum(spread - slope**2, 0.0)
        log_scale = second[..., None] + jnp.sqrt(bend)[..., None] * z
        observed = _observed(
            first[..., None] + slope[..., None] * z,
            jnp.sqrt(rest[..., None] + jnp.exp(2 * log_scale)),
            jnp.asarray(weights, mean.dtype),
        )
        return Marginal(
            latent=_normal(first, spread),
            observed=observed,
            epistemic=_squeeze(spread),
            aleatoric=_squeeze(jnp.exp(2 * (second + bend))),
        )

    def mixture(self, latent) -> Marginal:
        size = latent.shape[0]
        mean, log_scale = jnp.split(jnp.moveaxis(latent, 0, -1), 2, axis=-2)
        loc, scale = mean, jnp.exp(log_scale)
        weights = jnp.full((size,), 1.0 / size, latent.dtype)
        epistemic = jnp.var(loc, axis=-1)
        return Marginal(
            latent=_normal(jnp.mean(loc, axis=-1), epistemic),
            observed=_observed(loc, scale, weights),
            epistemic=_squeeze(epistemic),
            aleatoric=_squeeze(jnp.mean(scale**2, axis=-1)),
        )


def _observed(loc: Array, scale: Array, weights: Array) -> dist.MixtureSameFamily:
    """A mixture over the last axis of (N, D, S); of batch shape (N,) for D = 1."""
    return dist.MixtureSameFamily(
        dist.Categorical(probs=weights),
        dist.Normal(_squeeze(loc, -2), _squeeze(scale, -2)),
    )
